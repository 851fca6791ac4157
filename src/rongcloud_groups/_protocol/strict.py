"""Reads profiles and listed groups of exactly the documented shape, all of a response at once.

msgspec decodes the response into types that are made from the model and the dialect's table, and a function made from
the same two turns them into models. If one profile has another shape, each is read by itself, and that one leniently.
All ways give equal results.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache, lru_cache
from operator import attrgetter
from typing import Annotated, Any, Final, Generic, Literal, TypeVar, get_type_hints

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from rongcloud_groups._protocol.dialects import Dialect, Paths
from rongcloud_groups._protocol.lenient import ENUM_NUMBERS, UNREADABLE, lenient_reader
from rongcloud_groups._protocol.requests import BATCH_LIMIT
from rongcloud_groups.models import DEFAULT_PERMISSIONS, EMPTY, GroupProfile, ListedGroup, Permissions

_Model = TypeVar("_Model", bound=Struct)

_MAX_CACHED_TEXT: Final = 256
_MAX_EXACT: Final = 2**42
"""Milliseconds since 1970, in 2109, from which on a float of seconds is not exact to the microsecond."""


def array_of(entry: Any, limit: int) -> Any:
    """The type of an array with at most so many entries; `entries_of` gives them.

    msgspec checks the length of a list when all of it has been read; here it refuses the first entry too many.
    """
    fields = [(f"entry_{number}", entry | UnsetType, UNSET) for number in range(limit)]
    return msgspec.defstruct("_Array", fields, array_like=True, forbid_unknown_fields=True, gc=False)


def entries_of(array: Struct | None) -> Sequence[Any]:
    """The entries of an array; none in null."""
    if array is None:
        return ()
    entries = msgspec.structs.astuple(array)
    return entries[: entries.index(UNSET)] if entries[-1] is UNSET else entries


@cache
def array_decoder(entry: Any, limit: int) -> "msgspec.json.Decoder[Any]":
    """The decoder of an array with at most so many entries, or null."""
    return msgspec.json.Decoder(array_of(entry, limit) | None)


class EntryReader(Generic[_Model]):
    """Reads the profiles or the listed groups in a dialect's responses.

    Args:
        model: `GroupProfile` or `ListedGroup`.
        table: the keys of each of its fields, from the dialect.

    Attributes:
        shape: the documented one of an entry, as a type of msgspec.
        models: makes the models of entries of that shape, with the given objects as their IDs.
    """

    def __init__(self, model: type[_Model], table: Mapping[str, Paths]) -> None:
        hints = get_type_hints(model)
        keys: dict[str, dict[str, str]] = {"row": {}}  # by field, of the entry itself and of each nested object
        for name, (path, *_) in table.items():
            outer, _, key = path.rpartition(".")
            keys.setdefault(outer or "row", {})[name] = key
        nested = {outer: _shape(hints, fields) for outer, fields in keys.items() if outer != "row"}
        objects = [(outer, str | shape | None, None) for outer, shape in nested.items()]
        self.shape = _shape(hints, keys["row"], objects)
        values = {name: f"{outer}.{name}" for outer, fields in keys.items() for name in fields}
        self.models: Callable[[Sequence[Any], Sequence[str]], list[_Model]] = _compiled(model, hints, values, nested)
        self._decoder = msgspec.json.Decoder(self.shape)
        self._read_leniently = lenient_reader(model, table)

    def read(self, entry: Raw) -> _Model | None:
        """The model of one entry of any shape; None if the group ID cannot be read."""
        try:
            row = self._decoder.decode(entry)
            return self.models([row], [row.group_id])[0]
        except UNREADABLE:
            return self._read_leniently(entry)

    def read_array(self, array: Raw, limit: int) -> list[_Model] | None:
        """The models of at most so many entries; None if one of them has another shape."""
        try:
            rows = entries_of(array_decoder(self.shape, limit).decode(array))
            return self.models(rows, [row.group_id for row in rows])
        except UNREADABLE:
            return None


@cache
def profile_reader(dialect: Dialect) -> EntryReader[GroupProfile]:
    """The reader of a dialect's profiles."""
    return EntryReader(GroupProfile, dialect.profile)


@cache
def listed_group_reader(dialect: Dialect) -> EntryReader[ListedGroup]:
    """The reader of the entries of a dialect's listing."""
    return EntryReader(ListedGroup, dialect.listed_group)


@cache
def batch_reader(dialect: Dialect) -> Callable[[bytes, Sequence[str]], list[GroupProfile] | None]:
    """Make the function that reads the body of a successful response; it returns None if its shape is another one.

    If the profiles are those of the requested IDs, in their order, then their IDs are the same objects.
    """
    reader = profile_reader(dialect)
    success: Any = Literal[dialect.success_code]
    data: list[tuple[str, Any]] = [("profiles", array_of(reader.shape, BATCH_LIMIT))]
    path = "profiles"
    if dialect.envelope is not None:
        data = [(dialect.envelope, msgspec.defstruct("_DocumentedData", data))]
        path = f"{dialect.envelope}.{path}"
    strict = msgspec.json.Decoder(msgspec.defstruct("_DocumentedResponse", [("code", success), *data]))
    profiles_of = attrgetter(path)

    def read(body: bytes, requested: Sequence[str]) -> list[GroupProfile] | None:
        try:
            rows = entries_of(profiles_of(strict.decode(body)))
            group_ids = [row.group_id for row in rows]
            return reader.models(rows, requested if group_ids == requested else group_ids)
        except UNREADABLE:
            return None

    return read


def _shape(hints: Mapping[str, Any], keys: dict[str, str], nested: Sequence[tuple[str, Any, None]] = ()) -> Any:
    fields = [
        (name, _DOCUMENTED[hints[name]]) if hints[name] is str else (name, _DOCUMENTED[hints[name]], None)
        for name in keys
    ]
    return msgspec.defstruct(
        "_DocumentedObject",
        [*fields, *nested],
        rename=keys,
        forbid_unknown_fields=True,
        gc=False,  # it is gone in a moment, and has no cycles
    )


def _compiled(model: type[_Model], hints: Mapping[str, Any], values: dict[str, str], nested: Mapping[str, Any]) -> Any:
    """The function that makes models of entries. Written out it takes half the time of making each from a dict."""
    names: dict[str, object] = {"model": model, "EMPTY": EMPTY, "DEFAULT": DEFAULT_PERMISSIONS}
    names |= {"times": _times, "attributes": _ATTRIBUTES.decode, "permissions": _permissions}
    objects = {"row": ""}
    for outer, shape in nested.items():
        names |= {f"read_{outer}": msgspec.json.Decoder(shape).decode, f"no_{outer}": shape()}
        objects[outer] = f" for {outer} in [{_object(f'row.{outer}', f'read_{outer}')} or no_{outer}]"
    times = [name for name in values if hints[name] == datetime | None]
    columns = "".join(
        f", times([{values[name]} for row in rows{objects[values[name].partition('.')[0]]}])" for name in times
    )
    values |= {"group_id": "group_id"} | {name: name for name in times}
    fields = ", ".join(f"{name}={_VALUES.get(hints[name], str)(value)}" for name, value in values.items())
    row = ", ".join(["row", "group_id", *times])
    source = f"[model({fields}) for {row} in zip(rows, group_ids{columns}){''.join(objects.values())}]"
    return eval(f"lambda rows, group_ids: {source}", names)  # noqa: S307  our own names


def _object(value: str, read: str) -> str:
    """The expression for an object that may be in a text."""
    return f"({read}({value}) if type({value}) is str and {value} else {value})"


class _Times(Struct, array_like=True, gc=False):
    """A list in a Struct, whose conversion msgspec prepares once and not at each call."""

    times: list[datetime | None]


def _times(values: Sequence[int | None]) -> list[datetime | None]:
    seconds = [None if milliseconds is None else milliseconds / 1000 for milliseconds in values]
    return msgspec.convert((seconds,), _Times, strict=False).times


@lru_cache(maxsize=1024)  # many groups have the same few
def _permissions(documented: Any) -> Permissions:
    numbers = _PERMISSIONS.decode(documented) if isinstance(documented, str) else documented
    if not all(number in ENUM_NUMBERS for number in msgspec.structs.astuple(numbers)):
        raise ValueError("no enum has such a number")
    return msgspec.convert(numbers, Permissions, from_attributes=True)


_ATTRIBUTES: Final = msgspec.json.Decoder(dict[str, str])
_DocumentedPermissions: Any = msgspec.defstruct(
    "_DocumentedPermissions",
    [(name, int, 0) for name in Permissions.__struct_fields__],
    rename="camel",
    forbid_unknown_fields=True,
    frozen=True,
    gc=False,
)
_PERMISSIONS: Final = msgspec.json.Decoder(_DocumentedPermissions)
_DOCUMENTED: Final[dict[Any, Any]] = {
    str: Annotated[str, Meta(min_length=1)],
    str | None: str | None,
    int | None: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None,
    datetime | None: Annotated[int, Meta(ge=0, lt=_MAX_EXACT)] | None,
    dict[str, str]: str | dict[str, str] | None,
    Permissions: Annotated[str, Meta(max_length=_MAX_CACHED_TEXT)] | _DocumentedPermissions | None,
}
"""The documented type of a value, by the type of its field in the model."""
_VALUES: Final[dict[Any, Callable[[str], str]]] = {
    dict[str, str]: lambda value: f"({_object(value, 'attributes')} or EMPTY)",
    Permissions: lambda value: f"(permissions({value}) if {value} else DEFAULT)",
}
"""The expression of the model's value in terms of the documented one, where they differ."""
