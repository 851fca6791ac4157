"""Reads responses of exactly the documented shape, all of one at once.

msgspec decodes a response into types that are made from the model and the dialect's table, and a function made from
the same two turns them into models. If one entry has another shape, each is read by itself, and that one leniently.
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
from rongcloud_groups._protocol.lenient import ENUM_NUMBERS, DocumentedPermissions, lenient_reader
from rongcloud_groups._protocol.repair import UNREADABLE
from rongcloud_groups._protocol.requests import BATCH_LIMIT, PAGE_SIZE
from rongcloud_groups.errors import DecodeError
from rongcloud_groups.models import DEFAULT_PERMISSIONS, EMPTY, GroupProfile, ListedGroup, Permissions

_T = TypeVar("_T")
_Model = TypeVar("_Model", bound=Struct)

ReadEntries = tuple[list[_Model], int, str | int | None]
"""The models in a response, the number of entries whose group ID cannot be read, and the token of the next page."""

_NULL: Final = Raw(b"null")
_MAX_EXACT: Final = 2**42
"""Milliseconds since 1970, in 2109, from which on a float of seconds is not exact to the microsecond."""


class ResponseReader(Generic[_Model]):
    """Reads the profiles or the listed groups, as ``list_key`` says, in a dialect's responses."""

    def __init__(
        self, dialect: Dialect, model: type[_Model], table: Mapping[str, Paths], list_key: str, limit: int
    ) -> None:
        hints = get_type_hints(model)
        keys: dict[str, dict[str, str]] = {"row": {}}  # by field, of the entry itself and of each nested object
        for name, (path, *_) in table.items():
            outer, _, key = path.rpartition(".")
            keys.setdefault(outer or "row", {})[name] = key
        nested = {outer: _shape(hints, fields) for outer, fields in keys.items() if outer != "row"}
        shape = _shape(hints, keys["row"], [(outer, str | inner | None, None) for outer, inner in nested.items()])
        values = {name: f"{outer}.{name}" for outer, fields in keys.items() for name in fields}
        self._models: Callable[[Sequence[Any], Sequence[str]], list[_Model]] = _compiled(model, hints, values, nested)
        self._entry = msgspec.json.Decoder(shape)
        self._entries = msgspec.json.Decoder(_array_of(Raw, limit) | None)
        self.dialect = dialect
        self.list_key = list_key
        self.limit = limit
        self._read_leniently = lenient_reader(model, table)

        data: list[Any] = [(list_key, _array_of(shape, limit)), ("pageToken", str | int | None, None)]
        if dialect.envelope is not None:
            data = [(dialect.envelope, msgspec.defstruct("_DocumentedData", data))]
        code: Any = Literal[dialect.success_code]
        self._response = msgspec.json.Decoder(msgspec.defstruct("_DocumentedResponse", [("code", code), *data]))
        prefix = "" if dialect.envelope is None else f"{dialect.envelope}."
        self._data = attrgetter(f"{prefix}{list_key}", f"{prefix}pageToken")

    def read(self, body: bytes, requested: Sequence[str] | None = None) -> ReadEntries[_Model] | None:
        """What a body of exactly the documented shape holds; None for any other body.

        The models are those of the requested group IDs, in their order and with the same objects as IDs.
        """
        try:
            array, page_token = self._data(self._response.decode(body))
            rows = _entries_of(array)
            group_ids: Sequence[str] = [row.group_id for row in rows]
            if group_ids == requested:
                group_ids = requested
            elif requested is not None:
                group_ids, rows = matched(group_ids, rows, requested)
            return self._models(rows, group_ids), 0, page_token
        except UNREADABLE:
            return None

    def read_entries(self, array: Raw) -> list[_Model | None]:
        """The models of the entries that are not null, of any shape; None for each whose group ID cannot be read."""
        try:
            entries = _entries_of(self._entries.decode(array or _NULL))
        except UNREADABLE:
            raise DecodeError(f"{self.list_key} is not a list of at most {self.limit} entries") from None
        return [self.read_entry(entry) for entry in entries if entry != _NULL]

    def read_entry(self, entry: Raw) -> _Model | None:
        """The model of one entry of any shape; None if the group ID cannot be read."""
        try:
            row = self._entry.decode(entry)
            return self._models([row], [row.group_id])[0]
        except UNREADABLE:
            return self._read_leniently(entry)


@cache
def profile_reader(dialect: Dialect) -> ResponseReader[GroupProfile]:
    """The reader of responses to batch requests."""
    return ResponseReader(dialect, GroupProfile, dialect.profile, "profiles", BATCH_LIMIT)


@cache
def listed_group_reader(dialect: Dialect) -> ResponseReader[ListedGroup]:
    """The reader of pages of the listing."""
    return ResponseReader(dialect, ListedGroup, dialect.listed_group, "groups", PAGE_SIZE)


def matched(group_ids: Sequence[str], items: Sequence[_T], requested: Sequence[str]) -> tuple[Sequence[str], list[_T]]:
    """The requested ones of these IDs, in the order of the request, and their items; of two, the first counts."""
    by_id = dict(zip(reversed(group_ids), reversed(items), strict=True))
    try:
        return requested, list(map(by_id.__getitem__, requested))
    except KeyError:  # some are missing; the usual case takes no look-up for that
        return matched(group_ids, items, [group_id for group_id in requested if group_id in by_id])


def _array_of(entry: Any, limit: int) -> Any:
    """The type of an array with at most so many entries; `_entries_of` gives them.

    msgspec checks the length of a list when all of it has been read; here it refuses the first entry too many.
    """
    fields = [(f"entry_{number}", entry | UnsetType, UNSET) for number in range(limit)]
    return msgspec.defstruct("_Array", fields, array_like=True, forbid_unknown_fields=True, gc=False)


def _entries_of(array: Struct | None) -> Sequence[Any]:
    entries = () if array is None else msgspec.structs.astuple(array)
    return entries[: entries.index(UNSET)] if entries and entries[-1] is UNSET else entries


def _shape(hints: Mapping[str, Any], keys: dict[str, str], nested: Sequence[tuple[str, Any, None]] = ()) -> Any:
    types = {name: _DOCUMENTED[hints[name]] for name in keys}
    fields = [(name, kind) if hints[name] is str else (name, kind, None) for name, kind in types.items()]
    return msgspec.defstruct("_DocumentedObject", [*fields, *nested], rename=keys, forbid_unknown_fields=True, gc=False)


def _compiled(model: type[_Model], hints: Mapping[str, Any], values: dict[str, str], nested: Mapping[str, Any]) -> Any:
    """The function that makes the models of rows. Its code is generated: a dict for each model takes twice the time."""
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
_PERMISSIONS: Final = msgspec.json.Decoder(DocumentedPermissions)
_DOCUMENTED: Final[dict[Any, Any]] = {
    str: Annotated[str, Meta(min_length=1)],
    str | None: str | None,
    int | None: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None,
    datetime | None: Annotated[int, Meta(ge=0, lt=_MAX_EXACT)] | None,
    dict[str, str]: str | dict[str, str] | None,
    Permissions: Annotated[str, Meta(max_length=256)] | DocumentedPermissions | None,  # each is cached
}
"""The documented type of a value, by the type of its field in the model."""
_VALUES: Final[dict[Any, Callable[[str], str]]] = {
    dict[str, str]: lambda value: f"({_object(value, 'attributes')} or EMPTY)",
    Permissions: lambda value: f"(permissions({value}) if {value} else DEFAULT)",
}
"""The expression of the model's value in terms of the documented one, where they differ."""
