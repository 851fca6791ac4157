"""Group IDs and parameters, checked and encoded."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Final, TypeGuard
from urllib.parse import quote_plus

import msgspec

from rongcloud_groups._protocol.dialects import Dialect
from rongcloud_groups.errors import InvalidGroupId

# The service's documented limits: IDs in a request, groups on a page of the listing, characters in an ID.
BATCH_LIMIT: Final = 50
PAGE_SIZE: Final = 1000
GROUP_ID_LIMIT: Final = 64
_LENGTHS: Final = frozenset(range(1, GROUP_ID_LIMIT + 1))
_NEEDS_NO_QUOTING: Final = re.compile(r"[A-Za-z0-9_.~-]*")
_INVISIBLE: Final = {
    "Cc": "a control character",
    "Cf": "an invisible format character",
    "Cs": "half of a surrogate pair",
    **dict.fromkeys(("Zl", "Zp", "Zs"), "whitespace"),
}


def validated_group_id(value: object) -> str:
    """The value as a plain str; an InvalidGroupId if the service cannot take it for a group ID.

    The service documents 1 to 64 characters. Some of its SDKs join IDs with commas, so it may split at one.
    A subclass of str, such as a member of a str enum, counts by its characters.
    """
    if type(value) is str and 0 < len(value) <= GROUP_ID_LIMIT and _is_plain(value) and "," not in value:
        return value
    if not isinstance(value, str):
        raise InvalidGroupId(value, f"it must be a str, not {type(value).__name__}")
    text = str.__str__(value)  # a subclass may print, hash and compare otherwise
    if reason := _fault_of(text):
        raise InvalidGroupId(value, reason)
    return text


def are_plain_group_ids(values: Sequence[object]) -> TypeGuard[Sequence[str]]:
    """Whether all are valid as they are: visible ASCII, of exactly the type str. Others may be valid too."""
    if set(map(type, values)) != {str} or not _LENGTHS.issuperset(map(len, values)):  # type: ignore[arg-type]  # each is a str
        return False
    joined = ",".join(values)  # type: ignore[arg-type]  # each is a str
    return _is_plain(joined) and joined.count(",") == len(values) - 1


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def _fault_of(text: str) -> str | None:
    if not text:
        return "it is empty"
    if len(text) > GROUP_ID_LIMIT:
        return f"it has {len(text)} characters, over the limit of {GROUP_ID_LIMIT}"
    if "," in text:
        return "it has a comma in it"
    faults = (_INVISIBLE.get(unicodedata.category(character)) for character in text)
    return next((f"it has {fault} in it" for fault in faults if fault), None)


def encode(dialect: Dialect, parameters: Mapping[str, str | int | Sequence[str]]) -> bytes:
    """The body of a request with these parameters."""
    if dialect.content_type == "application/json":
        return msgspec.json.encode(parameters)
    return "&".join(_form_part(key, value) for key, value in parameters.items()).encode("ascii")


def _form_part(key: str, value: str | int | Sequence[str]) -> str:
    values = [str(value)] if isinstance(value, str | int) else value
    if not _NEEDS_NO_QUOTING.fullmatch("".join(values)):
        values = [quote_plus(each) for each in values]
    return f"{key}=" + f"&{key}=".join(values)
