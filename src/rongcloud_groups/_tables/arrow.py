"""Profiles as Arrow columns; needs pyarrow."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import pyarrow as pa  # type: ignore[import-untyped]

from rongcloud_groups._tables.rows import COLUMN_KINDS, ROW_SCHEMA_VERSION, flat_row
from rongcloud_groups.models import GroupProfile

_TYPES: Final = {"time": pa.timestamp("ms", tz="UTC"), "integer": pa.int64()}
SCHEMA: Final = pa.schema(
    [
        pa.field(column, _TYPES.get(kind, pa.string()), nullable=column != "group_id")
        for column, kind in COLUMN_KINDS.items()
    ],
    metadata={"rongcloud_groups.row_schema_version": str(ROW_SCHEMA_VERSION)},
)


def record_batch(rows: Sequence[Any]) -> pa.RecordBatch:
    """Rows of `flat_row`, at least one, as columns."""
    arrays = [pa.array(values, field.type) for field, *values in zip(SCHEMA, *rows, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def profiles_table(profiles: Iterable[GroupProfile]) -> pa.Table:
    """The table of some profiles, in their order."""
    rows = [flat_row(profile) for profile in profiles]
    return pa.Table.from_batches([record_batch(rows)] if rows else [], SCHEMA)
