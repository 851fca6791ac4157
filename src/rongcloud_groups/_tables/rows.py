"""The row schema: a group in each format. Its columns are the attributes of `GroupProfile`, by name and in order.

A text, a whole number or a time is a column of that type; anything nested is JSON: a value in JSON lines, text
elsewhere. A time is UTC: a timestamp in Parquet, elsewhere ``2023-11-14T22:13:20.000Z``.
"""

from datetime import UTC, datetime
from typing import Any, Final, get_type_hints

import msgspec

from rongcloud_groups.models import GroupProfile

ROW_SCHEMA_VERSION: Final = 1
"""Raised when a column is renamed, removed or changes its meaning."""

_KINDS: Final = {str: "text", str | None: "text", int | None: "integer", datetime | None: "time"}
COLUMN_KINDS: Final = {name: _KINDS.get(kind, "json") for name, kind in get_type_hints(GroupProfile).items()}
COLUMNS: Final = tuple(COLUMN_KINDS)

FlatRow = tuple[Any, ...]
"""A group in columns: text, int, `datetime` or None; nested values as JSON text."""

_json: Final = msgspec.json.Encoder().encode
_IS_JSON: Final = [COLUMN_KINDS[name] == "json" for name in COLUMNS]


def json_row(profile: GroupProfile) -> bytes:
    """The group as one line of JSON, with its line end; it decodes as a `GroupProfile`."""
    row = msgspec.structs.asdict(profile)
    if profile.create_time is not None:
        row["create_time"] = time_text(profile.create_time)
    return _json(row) + b"\n"


def flat_row(profile: GroupProfile) -> FlatRow:
    """The group in columns."""
    values = msgspec.structs.astuple(profile)
    return tuple(_json(value).decode() if is_json else value for value, is_json in zip(values, _IS_JSON, strict=True))


def time_text(time: datetime) -> str:
    """A time in UTC with milliseconds, always, so that all have one format and sort as text."""
    return f"{time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"
