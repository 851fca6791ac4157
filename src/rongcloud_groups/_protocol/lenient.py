"""The members of a JSON object, read leniently one by one."""

import re
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, Final, Self, TypeVar

import msgspec
from msgspec import Raw

from rongcloud_groups.models import Problem

UNREADABLE: Final = (ValueError, RecursionError)
"""What msgspec raises on a text that is not the JSON it expects."""

_Choice = TypeVar("_Choice", bound=IntEnum)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])
_STRING: Final = msgspec.json.Decoder(str)
_ANYTHING: Final = msgspec.json.Decoder()
_DECIMAL: Final = re.compile(rb"[+-]?[0-9]{1,19}")
_INTEGERS: Final = range(-(2**63), 2**63)  # what databases and columns take
_ENUM_NUMBERS: Final = range(-(2**63), 2**64)  # what msgspec can decode into an enum

# Two backslashes, a surrogate pair, and a lone surrogate, which alone is replaced.
_ESCAPES: Final = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


def datetime_from_ms(milliseconds: int) -> datetime:
    """The time so many milliseconds after 1970, in UTC.

    Raises:
        OverflowError: it is outside the range of `datetime`.
    """
    return _EPOCH + _MILLISECOND * milliseconds


def read_members(text: bytes | Raw) -> dict[str, Raw]:
    """The members of a JSON object, their values unread.

    A lone surrogate (text that was cut inside an emoji) makes JSON that msgspec refuses as a whole; it
    becomes a byte that is not UTF-8, and so the trouble of the one string that it stands in.

    Raises:
        ValueError: the text isn't a JSON object.
        RecursionError: it is nested too deep.
    """
    try:
        return _MEMBERS.decode(text)
    except ValueError:
        marked = _ESCAPES.sub(lambda found: b"\xff" if found[1] else found[0], bytes(text))
    try:
        return _MEMBERS.decode(marked)
    except UnicodeDecodeError:  # it stands in a key
        return _MEMBERS.decode(marked.decode(errors="replace"))


class FieldReader:
    """The members of one JSON object, each taken out once; what cannot be read is noted in ``problems``."""

    def __init__(self, members: dict[str, Raw], problems: list[Problem], path: str = "") -> None:
        self._members = members
        self._path = path
        self.problems = problems

    @classmethod
    def of(cls, entry: Raw) -> Self:
        """The members of an entry; none where it isn't an object."""
        try:
            return cls(read_members(entry), [])
        except UNREADABLE:
            return cls({}, [])

    def group_id(self, key: str) -> str | None:
        """The ID; None where it is absent, empty, or neither text nor an integer."""
        raw = bytes(self._members.pop(key, b""))
        try:
            return _STRING.decode(raw) or None
        except UNREADABLE:
            return raw.decode() if _DECIMAL.fullmatch(raw) else None

    def text(self, *keys: str) -> str | None:
        """The text under the first of the keys that is there; a number gives its digits."""
        key, raw = self._taken(keys)
        if raw[:1] == b'"':
            return self._string(key, raw)
        if raw and raw[:1] not in b"[{tf":
            return raw.decode()
        if raw:
            self._note(key, "expected text", raw)
        return None

    def all_texts(self) -> dict[str, str]:
        """Every member that is left, as text."""
        texts = ((key, self.text(key)) for key in list(self._members))
        return {key: text for key, text in texts if text is not None}

    def integer(self, *keys: str) -> int | None:
        """The integer of at most 64 bits under the first of the keys that is there; text may hold it."""
        present, raw = self._first(keys)
        value = self._integer(keys)
        if value is None or value in _INTEGERS:
            return value
        self._note(present, "over 64 bits", raw)
        return None

    def _integer(self, keys: tuple[str, ...]) -> int | None:
        key, raw = self._taken(keys)
        if not raw:
            return None
        try:
            value = _ANYTHING.decode(raw)
        except UNREADABLE:
            value = None
        if isinstance(value, str):
            value = value.strip()
            if not value:
                return None
            value = int(value) if _DECIMAL.fullmatch(value.encode()) else None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is int:
            return value
        self._note(key, "expected an integer", raw)
        return None

    def moment(self, *keys: str) -> datetime | None:
        """The time under the first of the keys that is there, given in milliseconds since 1970."""
        present, raw = self._first(keys)
        milliseconds = self._integer(keys)
        try:
            return None if milliseconds is None else datetime_from_ms(milliseconds)
        except OverflowError:
            self._note(present, "outside the range of dates", raw)
            return None

    def choice(self, key: str, kind: type[_Choice]) -> _Choice:
        """The member of an enum, 0 where it is absent."""
        raw = bytes(self._members.get(key, b""))
        number = self._integer((key,)) or 0
        if number in _ENUM_NUMBERS:
            return kind(number)
        self._note(key, "expected a small integer", raw)
        return kind(0)

    def object(self, *keys: str) -> "FieldReader":
        """The object under the first of the keys that is there, or in the text under it; else an empty one."""
        key, raw = self._taken(keys)
        text: bytes = raw
        if raw[:1] == b'"':
            text = (self._string(key, raw) or "").strip().encode()
        members: dict[str, Raw] = {}
        if text not in {b"", b"null"}:
            try:
                members = read_members(text)
            except UNREADABLE:
                self._note(key, "not a JSON object", text)
        return FieldReader(members, self.problems, f"{self._path}{key}.")

    def rest(self) -> dict[str, Any]:
        """What nobody took, decoded."""
        values: dict[str, Any] = {}
        for key, raw in self._members.items():
            try:
                values[key] = _ANYTHING.decode(raw)
            except UNREADABLE:
                self._note(key, "cannot be read", bytes(raw))
        return values

    def _first(self, keys: tuple[str, ...]) -> tuple[str, bytes]:
        present = next((key for key in keys if key in self._members), keys[0])
        return present, bytes(self._members.get(present, b""))

    def _taken(self, keys: tuple[str, ...]) -> tuple[str, bytes]:
        for key in keys:
            raw = bytes(self._members.pop(key, b""))
            if raw not in {b"", b"null"}:
                return key, raw
        return keys[0], b""

    def _string(self, key: str, raw: bytes) -> str:
        try:
            return _STRING.decode(raw)
        except UnicodeDecodeError:
            self._note(key, "not valid Unicode; U+FFFD stands where it is not", raw)
            return _STRING.decode(raw.decode(errors="replace"))

    def _note(self, key: str, reason: str, raw: bytes) -> None:
        self.problems.append(Problem(f"{self._path}{key}", reason, raw.decode(errors="replace")))
