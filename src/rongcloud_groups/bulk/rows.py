"""The row schema: what a group looks like in each format.

Version 1 has the attributes of `GroupProfile`, by their names and in their order:

==============  ============================  =======================================
column          JSON lines, stdout            CSV, SQLite, Parquet
==============  ============================  =======================================
group_id        string                        text, the key
group_name      string or null                text
owner           string or null                text
create_time     string or null                ISO 8601, UTC; a timestamp in Parquet
member_count    number or null                integer
introduction    string or null                text
announcement    string or null                text
portrait_url    string or null                text
ext_profile     object                        JSON text
permissions     object                        JSON text
problems        array                         JSON text
extra           object                        JSON text
==============  ============================  =======================================

A line of JSON decodes with ``msgspec.json.decode(line, type=GroupProfile)``. In CSV an absent value is an empty cell.
"""

from datetime import UTC
from typing import Final, NamedTuple

import msgspec

from rongcloud_groups.models import GroupProfile

ROW_SCHEMA_VERSION: Final = 1
"""Raised when a column is renamed, removed or changes its meaning."""


class FlatRow(NamedTuple):
    """A group in columns, nested values as JSON text."""

    group_id: str
    group_name: str | None
    owner: str | None
    create_time: str | None
    member_count: int | None
    introduction: str | None
    announcement: str | None
    portrait_url: str | None
    ext_profile: str
    permissions: str
    problems: str
    extra: str


COLUMNS: Final = FlatRow._fields

_json = msgspec.json.Encoder().encode


def json_row(profile: GroupProfile) -> bytes:
    """The group as one line of JSON, with its line end."""
    return _json(profile) + b"\n"


def flat_row(profile: GroupProfile) -> FlatRow:
    """The group in columns."""
    created = profile.create_time
    return FlatRow(
        profile.group_id,
        profile.group_name,
        profile.owner,
        None if created is None else created.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        profile.member_count,
        profile.introduction,
        profile.announcement,
        profile.portrait_url,
        _json(profile.ext_profile).decode(),
        _json(profile.permissions).decode(),
        _json(profile.problems).decode(),
        _json(profile.extra).decode(),
    )
