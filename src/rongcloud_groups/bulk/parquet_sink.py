"""Rows in a Parquet file, by way of parts: a Parquet file is readable only once it is closed."""

import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from rongcloud_groups.bulk.checkpoint import Checkpoint, CheckpointFile, ResumeError
from rongcloud_groups.bulk.disk import naming, sync_directory, sync_file
from rongcloud_groups.bulk.rows import COLUMNS, ROW_SCHEMA_VERSION, FlatRow, flat_row
from rongcloud_groups.errors import ConfigError
from rongcloud_groups.models import GroupProfile

ROWS_IN_A_GROUP: Final = 10_000
ROWS_IN_A_PART: Final = 5_000
ROWS_READ_AT_ONCE: Final = 1_000
_SELECTED_BY: Final = ["group_id", "owner", "create_time", "member_count"]
"""The columns with statistics in the file's footer, which grows in memory while it is written: not the long texts."""
_TYPES: Final = {"create_time": pa.timestamp("ms", tz="UTC"), "member_count": pa.int64()}
SCHEMA: Final = pa.schema(
    [pa.field(column, _TYPES.get(column, pa.string()), nullable=column != "group_id") for column in COLUMNS],
    metadata={"rongcloud_groups.row_schema_version": str(ROW_SCHEMA_VERSION)},
)


class ParquetSink:
    """A Parquet file with row groups of 10,000.

    While the job runs, each commit adds a part, a small Parquet file, to the directory ``PATH.parts``. At the end
    the parts are merged, so that the file does not depend on where a run was killed.

    Args:
        path: the output.
    """

    seconds_between_commits = 4.0

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.path: Path | None = path
        self._output = path
        self._directory = path.with_name(f"{path.name}.parts")
        self._merged = path.with_name(f"{path.name}.partial")
        self._checkpoint = CheckpointFile(path, "parquet")
        self._parts = 0
        self._waiting: list[pa.Table] = []

    def load(self) -> Checkpoint | None:
        """The checkpoint of an unfinished run, or None."""
        return self._checkpoint.load()

    def begin(self, saved: Checkpoint | None, *, keep: bool) -> None:
        """Open the directory of parts, and remove those that no checkpoint counts."""
        try:
            if self._output.is_dir():
                raise IsADirectoryError(21, "it is a directory")
            self._directory.mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot write {self.name}: {error.strerror}") from None
        if saved is None:
            if keep:
                self._check_output()
            self._checkpoint.remove()
        self._parts = 0 if saved is None else saved.sink_size
        for part in self._directory.iterdir():
            if part.name not in {self._part(number).name for number in range(self._parts)}:
                part.unlink()
        if not all(self._part(number).exists() for number in range(self._parts)):
            raise ResumeError(f"{self._directory} lacks parts that its checkpoint counts; --restart begins afresh")
        if saved is None and keep and self._output.exists():
            shutil.copyfile(self._output, self._part(0))
            self._parts = 1

    def encode(self, profile: GroupProfile) -> FlatRow:
        """The row."""
        return flat_row(profile)

    def write(self, rows: Sequence[Any]) -> None:
        """Collect rows; many enough become a part."""
        self._waiting.append(_table(rows))
        if sum(table.num_rows for table in self._waiting) >= ROWS_IN_A_PART:
            self._write_part()

    def commit(self, checkpoint: Checkpoint) -> None:
        """Write the rows as a part, durably, then the checkpoint."""
        if self._waiting:
            self._write_part()
        sync_directory(self._directory)
        self._checkpoint.save(msgspec.structs.replace(checkpoint, sink_size=self._parts))

    def publish(self) -> None:
        """Merge the parts, row group by row group."""
        if self._directory.exists():
            parts = sorted(self._directory.glob("*.parquet"))
            with (
                naming(self._merged),
                pq.ParquetWriter(self._merged, SCHEMA, compression="zstd", write_statistics=_SELECTED_BY) as writer,
            ):
                _merge(parts, writer)
            sync_file(self._merged)
            self._merged.replace(self._output)
            sync_directory(self._output.parent)

    def forget(self) -> None:
        """Remove the checkpoint, then the parts."""
        self._checkpoint.remove()
        shutil.rmtree(self._directory, ignore_errors=True)

    def close(self) -> None:
        """Nothing is open between two calls."""

    def _check_output(self) -> None:
        """Refuse to add to a file that rows cannot be read from."""
        try:
            columns = pq.read_schema(self._output).names if self._output.exists() else list(COLUMNS)
        except (pa.ArrowInvalid, OSError) as error:
            raise ConfigError(f"cannot add to {self.name}: {error}") from None
        if columns != list(COLUMNS):
            raise ConfigError(f"cannot add to {self.name}: it has other columns than {', '.join(COLUMNS)}")

    def _part(self, number: int) -> Path:
        return self._directory / f"{number:08}.parquet"

    def _write_part(self) -> None:
        part = self._part(self._parts)
        with naming(part):
            pq.write_table(pa.concat_tables(self._waiting), part, compression="zstd", write_statistics=False)
            sync_file(part)
        self._waiting = []
        self._parts += 1


def _table(rows: Sequence[Any]) -> pa.Table:
    columns: dict[str, Any] = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
    columns["create_time"] = [_moment(text) for text in columns["create_time"]]
    arrays = [pa.array(columns[field.name], field.type) for field in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def _merge(parts: Sequence[Path], writer: pq.ParquetWriter) -> None:
    """Write the rows of the parts in groups of `ROWS_IN_A_GROUP`, the last one with what is left."""
    group: list[pa.Table] = []
    missing = ROWS_IN_A_GROUP
    for table in _tables(parts):
        group.append(table.slice(0, missing))
        if table.num_rows < missing:
            missing -= table.num_rows
            continue
        writer.write_table(pa.concat_tables(group))
        group = [table.slice(missing)]
        missing = ROWS_IN_A_GROUP - group[0].num_rows
    if missing < ROWS_IN_A_GROUP:
        writer.write_table(pa.concat_tables(group))


def _tables(parts: Sequence[Path]) -> Iterator[pa.Table]:
    """The rows of the parts, few at a time, so that memory does not depend on where the parts end."""
    for part in parts:
        with pq.ParquetFile(part, pre_buffer=False) as file:
            for batch in file.iter_batches(ROWS_READ_AT_ONCE, use_threads=False):
                yield pa.Table.from_batches([batch]).cast(SCHEMA)
        pa.default_memory_pool().release_unused()
