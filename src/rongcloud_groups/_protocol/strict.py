"""Reads profiles and listed groups of exactly the documented shape, all of a response at once.

msgspec decodes the response into types that are made from the model and the dialect's table. Then each field is read
in one go for all profiles, as a column. If one profile has another shape, each is read by itself, and that one
leniently. All ways give equal results.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache, lru_cache
from operator import attrgetter
from typing import Annotated, Any, Final, Generic, Literal, TypeVar, get_type_hints

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from rongcloud_groups._protocol.dialects import Dialect, Paths
from rongcloud_groups._protocol.lenient import UNREADABLE, lenient_reader
from rongcloud_groups._protocol.requests import BATCH_LIMIT
from rongcloud_groups.models import DEFAULT_PERMISSIONS, EMPTY, GroupProfile, ListedGroup, Permissions

_Model = TypeVar("_Model", bound=Struct)

_ID_OF: Final = attrgetter("group_id")
_ROW: Final = "row"
_MAX_CACHED_TEXT: Final = 256
_MAX_EXACT: Final = 2**42
"""Milliseconds since 1970, in 2109, from which on a float of seconds is not exact to the microsecond."""


def array_of(entry: Any, limit: int) -> Any:
    """The type of an array with at most so many entries; `entries_of` gives them.

    msgspec checks the length of a list when all of it has been read; here it refuses the first entry too many.
    """
    fields = [(f"entry_{number}", entry | UnsetType, UNSET) for number in range(limit)]
    return msgspec.defstruct("_Array", fields, array_like=True, forbid_unknown_fields=True, gc=False)


def entries_of(array: Struct) -> Sequence[Any]:
    """The entries of an array."""
    entries = msgspec.structs.astuple(array)
    return entries[: entries.index(UNSET)] if entries[-1] is UNSET else entries


@cache
def batch_reader(dialect: Dialect) -> Callable[[bytes, Sequence[str]], tuple[list[GroupProfile], bool] | None]:
    """Make the function that reads the body of a successful response; it returns None if its shape is another one.

    With the profiles it returns whether they are exactly those of the requested IDs, in their order; then the IDs of
    the profiles are the same objects, so that an ID is in memory once.
    """
    documented = _Documented(GroupProfile, dialect.profile)
    success: Any = Literal[dialect.success_code]
    data: list[tuple[str, Any]] = [("profiles", array_of(documented.shape, BATCH_LIMIT))]
    path = "profiles"
    if dialect.envelope is not None:
        data = [(dialect.envelope, msgspec.defstruct("_DocumentedData", data))]
        path = f"{dialect.envelope}.{path}"
    strict = msgspec.json.Decoder(msgspec.defstruct("_DocumentedResponse", [("code", success), *data]))
    profiles_of = attrgetter(path)

    def read(body: bytes, requested: Sequence[str]) -> tuple[list[GroupProfile], bool] | None:
        try:
            rows = entries_of(profiles_of(strict.decode(body)))
            complete = list(map(_ID_OF, rows)) == requested
            return documented.entries(rows, requested if complete else None), complete
        except UNREADABLE:
            return None

    return read


@cache
def profile_reader(dialect: Dialect) -> Callable[[Raw], GroupProfile | None]:
    """Make the function that reads one profile of a response; it returns None if the group ID cannot be read."""
    return _entry_reader(GroupProfile, dialect.profile)


@cache
def listed_group_reader(dialect: Dialect) -> Callable[[Raw], ListedGroup | None]:
    """The same for one entry of a listing."""
    return _entry_reader(ListedGroup, dialect.listed_group)


@cache
def listed_groups_reader(dialect: Dialect, limit: int) -> Callable[[Raw], list[ListedGroup] | None]:
    """Make the function that reads all entries of a listing; it returns None if the shape is another one."""
    documented = _Documented(ListedGroup, dialect.listed_group)
    strict = msgspec.json.Decoder(array_of(documented.shape, limit))

    def read(groups: Raw) -> list[ListedGroup] | None:
        try:
            return documented.entries(entries_of(strict.decode(groups)))
        except UNREADABLE:
            return None

    return read


def _entry_reader(model: type[_Model], table: Mapping[str, Paths]) -> Callable[[Raw], _Model | None]:
    documented = _Documented(model, table)
    strict = msgspec.json.Decoder(documented.shape)
    lenient = lenient_reader(model, table)

    def read(entry: Raw) -> _Model | None:
        try:
            return documented.entries([strict.decode(entry)])[0]
        except UNREADABLE:
            return lenient(entry)

    return read


class _Documented(Generic[_Model]):
    """The documented shape of a dialect's profiles or listed groups, and the way from there to the model.

    Args:
        model: `GroupProfile` or `ListedGroup`.
        table: the keys of each of its fields, from the dialect.

    Attributes:
        shape: one entry, as a type of msgspec.
    """

    def __init__(self, model: type[_Model], table: Mapping[str, Paths]) -> None:
        hints = get_type_hints(model)
        keys: dict[str, dict[str, str]] = {_ROW: {}}  # by field, of the profile itself and of each nested object
        for name, (path, *_) in table.items():
            outer, _, key = path.rpartition(".")
            keys.setdefault(outer or _ROW, {})[name] = key
        names = [(outer, name) for outer, fields in keys.items() for name in fields]
        flat = keys.pop(_ROW)
        nested = {outer: _shape(hints, fields) for outer, fields in keys.items()}
        self.shape = _shape(hints, flat, [(outer, str | shape | None, None) for outer, shape in nested.items()])
        self._objects = [(attrgetter(key), msgspec.json.Decoder(kind).decode, kind) for key, kind in nested.items()]
        self._converted = [
            (list(keys).index(outer) + 1 if outer in keys else 0, attrgetter(name), _CONVERSIONS[hints[name]])
            for outer, name in names
            if hints[name] in _CONVERSIONS
        ]
        values = {name: name if hints[name] in _CONVERSIONS else f"{outer}.{name}" for outer, name in names}
        values["group_id"] = "group_id"
        columns = ", ".join(["group_id", _ROW, *keys, *[name for outer, name in names if hints[name] in _CONVERSIONS]])
        self._make: Callable[..., list[_Model]] = _compiled(
            f"lambda *columns: [MODEL for {columns}, in zip(*columns, strict=True)]", model, values
        )

    def entries(self, rows: Sequence[Any], ids: Iterable[str] | None = None) -> list[_Model]:
        """The models of decoded entries, with these objects as their IDs, if given."""
        objects = [rows, *[_objects(map(get, rows), decode, empty) for get, decode, empty in self._objects]]
        converted = [convert(map(get, objects[source])) for source, get, convert in self._converted]
        return self._make(map(_ID_OF, rows) if ids is None else ids, *objects, *converted)


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


def _compiled(source: str, model: type[Struct], values: Mapping[str, str], **names: object) -> Any:
    """The function in a source, where ``MODEL`` makes the model of an expression for each field.

    Written out like this it takes half the time of making each from a dict.
    """
    keywords = ", ".join(f"{name}={value}" for name, value in values.items())
    return eval(source.replace("MODEL", f"model({keywords})"), names | {"model": model})  # noqa: S307  our own names


def _objects(values: Iterable[Any], decode: Callable[[str], Any], empty: Callable[[], Any]) -> list[Any]:
    """Objects, of which some may be in a text, some empty."""
    return [(decode(value) if value.__class__ is str and value else value) or empty() for value in values]


class _Times(Struct, array_like=True, gc=False):
    """A list in a Struct, whose conversion msgspec prepares once and not at each call."""

    times: list[datetime | None]


def _times(values: Iterable[int | None]) -> list[datetime | None]:
    seconds = [None if milliseconds is None else milliseconds / 1000 for milliseconds in values]
    return msgspec.convert((seconds,), _Times, strict=False).times


def _attributes(values: Iterable[Any]) -> list[dict[str, str]]:
    return _objects(values, _attributes_in, lambda: EMPTY)


@lru_cache(maxsize=1024)  # many groups have the same few
def _permissions_in(text: str) -> Permissions:
    return _permissions([_PERMISSIONS.decode(text)])[0]


_PERMISSION_HINTS: Final = get_type_hints(Permissions)
_permissions: Callable[[Iterable[Any]], list[Permissions]] = _compiled(
    "lambda values: [decode(v) if v.__class__ is str and v else MODEL if v else default for v in values]",
    Permissions,
    {name: f"v.{name}" for name in _PERMISSION_HINTS},
    decode=_permissions_in,
    default=DEFAULT_PERMISSIONS,
)
_DocumentedPermissions: Any = msgspec.defstruct(
    "_DocumentedPermissions",
    [(name, kind, kind(0)) for name, kind in _PERMISSION_HINTS.items()],
    rename="camel",
    forbid_unknown_fields=True,
    gc=False,
)
_PERMISSIONS: Final = msgspec.json.Decoder(_DocumentedPermissions)
_attributes_in: Final = msgspec.json.Decoder(dict[str, str]).decode
_DOCUMENTED: Final[dict[Any, Any]] = {
    str: Annotated[str, Meta(min_length=1)],
    str | None: str | None,
    int | None: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None,
    datetime | None: Annotated[int, Meta(ge=0, lt=_MAX_EXACT)] | None,
    dict[str, str]: str | dict[str, str] | None,
    Permissions: Annotated[str, Meta(max_length=_MAX_CACHED_TEXT)] | _DocumentedPermissions | None,
}
"""The documented type of a value, by the type of its field in the model."""
_CONVERSIONS: Final[dict[Any, Callable[[Iterable[Any]], Iterable[Any]]]] = {
    datetime | None: _times,
    dict[str, str]: _attributes,
    Permissions: _permissions,
}
"""The conversion from documented values to the model's, where they differ."""
