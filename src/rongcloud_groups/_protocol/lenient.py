"""Reads profiles and listed groups of any shape, field by field: a value that cannot be read costs only itself."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar, get_type_hints

import msgspec
from msgspec import Raw, Struct

from rongcloud_groups._protocol.dialects import Paths
from rongcloud_groups._protocol.repair import MAX_DEPTH, UNREADABLE, decode_repaired, is_deeper
from rongcloud_groups.models import DEFAULT_PERMISSIONS, EMPTY, Permissions, Problem

_Struct = TypeVar("_Struct", bound=Struct)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])
_STRING: Final = msgspec.json.Decoder(str)
_ANYTHING: Final = msgspec.json.Decoder()
_MAX_UNKNOWN: Final = 1000
_DECIMAL: Final = re.compile(rb"[+-]?[0-9]{1,19}")
_INTEGERS: Final = range(-(2**63), 2**63)  # the range of databases and columns
_DATES: Final = range(-62_135_596_800_000, 253_402_300_800_000)  # milliseconds, in the years 1 to 9999
ENUM_NUMBERS: Final = range(-(2**63), 2**64)  # the range that msgspec can decode into an enum

_NUMBERS: Final = [(name, int, 0) for name in Permissions.__struct_fields__]
DocumentedPermissions: Any = msgspec.defstruct(
    "DocumentedPermissions", _NUMBERS, rename="camel", forbid_unknown_fields=True, frozen=True, gc=False
)
PERMISSION_KEYS: Final = {each.name: each.encode_name for each in msgspec.structs.fields(DocumentedPermissions)}
"""The service's key of each permission, by its name in `Permissions`."""


class FieldReader:
    """The values of one JSON object and of those nested in it, each taken once; `problems` are the unreadable ones."""

    def __init__(self, entry: Raw) -> None:
        self.problems: list[Problem] = []
        try:
            self._objects = {"": decode_repaired(_MEMBERS, entry)}
        except UNREADABLE:
            self._objects = {"": {}}

    def take(self, paths: Paths) -> tuple[str, bytes]:
        """Take the value at the first of the paths that exists; b"" if there is none."""
        for path in paths:
            outer, _, key = path.rpartition(".")
            if raw := _pop(self._object(outer), key):
                return path, raw
        return paths[0], b""

    def take_object(self, paths: Paths) -> tuple[str, dict[str, Raw]]:
        """The members of the object at the first of the paths that exists; the caller pops those that it reads."""
        return next(((path, members) for path in paths if (members := self._object(path))), (paths[0], {}))

    def group_id(self, _: str, raw: bytes) -> str | None:
        """The ID; None if it is absent, empty, or neither text nor an integer."""
        try:
            return _STRING.decode(raw) or None
        except UNREADABLE:
            return raw.decode() if _DECIMAL.fullmatch(raw) else None

    def text(self, path: str, raw: bytes) -> str | None:
        """The text; a number gives its digits."""
        if raw[:1] == b'"':
            return self._string(path, raw)
        if raw and raw[:1] in b"[{tf":
            self._note(path, "expected text", raw)
            return None
        return raw.decode() or None

    def texts(self, path: str, members: dict[str, Raw]) -> dict[str, str]:
        """Every member as text."""
        texts = {key: self.text(f"{path}.{key}", _pop(members, key)) for key in list(members)}
        return {key: text for key, text in texts.items() if text is not None} or EMPTY

    def integer(self, path: str, raw: bytes, limits: range = _INTEGERS, beyond: str = "over 64 bits") -> int | None:
        """The integer, if it is within the limits; text may hold it."""
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
        if type(value) is int and value in limits:
            return value
        self._note(path, beyond if type(value) is int else "expected an integer", raw)
        return None

    def time(self, path: str, raw: bytes) -> datetime | None:
        """The time, given in milliseconds since 1970."""
        milliseconds = self.integer(path, raw, _DATES, "outside the range of dates")
        return None if milliseconds is None else _EPOCH + timedelta(milliseconds=milliseconds)

    def permissions(self, path: str, members: dict[str, Raw]) -> Permissions:
        """The permissions, 0 where they are absent."""
        numbers = {
            name: self.integer(f"{path}.{key}", _pop(members, key), ENUM_NUMBERS, "expected a small integer") or 0
            for name, key in PERMISSION_KEYS.items()
            if key in members
        }
        return msgspec.convert(numbers, Permissions) if numbers else DEFAULT_PERMISSIONS

    def rest(self) -> dict[str, Any]:
        """The members that were not taken, decoded; those of a nested object under its key."""
        values = self._decoded("", self._objects.pop(""))
        nested = {path: self._decoded(f"{path}.", members) for path, members in self._objects.items() if members}
        return values | {path: members for path, members in nested.items() if members}

    def _decoded(self, prefix: str, members: dict[str, Raw]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if len(members) > _MAX_UNKNOWN:
            self._note(f"{prefix}*", f"more than {_MAX_UNKNOWN} keys that are not known", b"")
            return values
        for key, raw in members.items():
            try:
                value = _ANYTHING.decode(raw)
            except UNREADABLE:
                self._note(f"{prefix}{key}", "cannot be read", bytes(raw))
                continue
            if is_deeper(value, MAX_DEPTH):
                self._note(f"{prefix}{key}", f"nested in more than {MAX_DEPTH} levels", bytes(raw))
            else:
                values[key] = value
        return values

    def _object(self, key: str) -> dict[str, Raw]:
        """The members of the object under a key of the entry, or in the text there; none if there is no object."""
        if key in self._objects:
            return self._objects[key]
        text = _pop(self._objects[""], key)
        if text[:1] == b'"':
            text = self._string(key, text).strip().encode()
        members: dict[str, Raw] = {}
        if text and text != b"null":
            try:
                members = decode_repaired(_MEMBERS, text)
            except UNREADABLE:
                self._note(key, "not a JSON object", text)
        self._objects[key] = members
        return members

    def _string(self, path: str, raw: bytes) -> str:
        try:
            return _STRING.decode(raw)
        except UnicodeDecodeError:
            self._note(path, "not valid Unicode; U+FFFD stands where it is not", raw)
            return _STRING.decode(raw.decode(errors="replace"))

    def _note(self, path: str, reason: str, raw: bytes) -> None:
        self.problems.append(Problem(path, reason, raw.decode(errors="replace")))


def _pop(members: dict[str, Raw], key: str) -> bytes:
    raw = bytes(members.pop(key, b""))
    return b"" if raw == b"null" else raw


_READERS: Final[Mapping[Any, tuple[Callable[..., Any], Callable[..., Any]]]] = {
    str: (FieldReader.take, FieldReader.group_id),
    str | None: (FieldReader.take, FieldReader.text),
    int | None: (FieldReader.take, FieldReader.integer),
    datetime | None: (FieldReader.take, FieldReader.time),
    dict[str, str]: (FieldReader.take_object, FieldReader.texts),
    Permissions: (FieldReader.take_object, FieldReader.permissions),
}
"""How a field is taken and read, by its type in the model."""


def lenient_reader(model: type[_Struct], keys: Mapping[str, Paths]) -> Callable[[Raw], _Struct | None]:
    """Make the function that reads one entry; it returns None if the group ID cannot be read."""
    hints = get_type_hints(model)
    fields = [(name, *_READERS[hints[name]], paths) for name, paths in keys.items()]

    def read(entry: Raw) -> _Struct | None:
        reader = FieldReader(entry)
        values = {name: read_field(reader, *take(reader, paths)) for name, take, read_field, paths in fields}
        if values["group_id"] is None:
            return None
        values["extra"] = reader.rest() or EMPTY
        return model(**values, problems=tuple(reader.problems))  # the last, when all else has been read

    return read
