"""Rows in a Parquet file, by way of an Arrow file: a Parquet file is readable only once it is closed."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any, Final

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from rongcloud_groups._tables.arrow import SCHEMA, record_batch
from rongcloud_groups._tables.output import WriteCancelled
from rongcloud_groups._tables.rows import COLUMNS, flat_row
from rongcloud_groups.bulk.errors import ResumeError
from rongcloud_groups.bulk.files import replacing
from rongcloud_groups.bulk.sinks.file import FileSink
from rongcloud_groups.errors import ConfigError

ROWS_IN_A_GROUP: Final = 10_000
ROWS_READ_AT_ONCE: Final = 1_000
_SELECTED_BY: Final = ["group_id", "owner", "create_time", "member_count"]
"""The columns with statistics in the file's footer, which grows in memory while it is written: not the long texts."""
# Arrow's own threads would each keep memory of theirs.
_COMPRESSED: Final = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
_IN_THIS_THREAD: Final = pa.ipc.IpcReadOptions(use_threads=False)


class ParquetSink(FileSink):
    """Rows that are appended to ``PATH.partial`` in the format of Arrow, and written in row groups at the end."""

    encode = staticmethod(flat_row)

    def __init__(self, path: Path, *, force: bool = False) -> None:
        super().__init__(path, "parquet", force=force)
        self._cancelled = Event()

    def write(self, rows: Sequence[Any]) -> None:
        self._file.append(_stream(record_batch(rows)))

    def publish(self) -> None:
        self._file.close()
        if not self._file.partial.exists():
            return
        with (
            replacing(self._output, like=self._output) as new,
            pa.OSFile(str(self._file.partial)) as file,
            pq.ParquetWriter(new, SCHEMA, compression="zstd", write_statistics=_SELECTED_BY) as writer,
        ):
            _write_groups(self._batches(file), writer)
        self._file.discard()

    def cancel(self) -> None:
        self._cancelled.set()

    def _is_output(self) -> bool:
        try:
            return b"rongcloud_groups.row_schema_version" in (pq.read_schema(self._output).metadata or {})
        except (pa.ArrowInvalid, OSError):
            return False

    def _finished_rows(self) -> Iterator[bytes]:
        try:
            with pq.ParquetFile(self._output, pre_buffer=False) as file:
                if file.schema_arrow.names != list(COLUMNS):
                    raise ValueError(f"it has other columns than {', '.join(COLUMNS)}")  # noqa: TRY301  as the others
                for batch in self._unless_cancelled(file.iter_batches(ROWS_READ_AT_ONCE, use_threads=False)):
                    yield _stream(batch.cast(SCHEMA))
        except (pa.ArrowException, ValueError, OSError) as error:
            self._file.discard()
            raise ConfigError(f"cannot add to {self.name}: {error}") from None

    def _unless_cancelled(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if self._cancelled.is_set():
                raise WriteCancelled
            yield batch

    def _batches(self, file: pa.NativeFile) -> Iterator[pa.RecordBatch]:
        """The rows of all streams in the file of rows."""
        size = file.size()
        try:
            while file.tell() < size:
                yield from self._unless_cancelled(pa.ipc.open_stream(file, options=_IN_THIS_THREAD))
        except (pa.ArrowException, OSError) as error:
            raise ResumeError(f"{self._file.partial} is damaged ({error}); use --restart to start over") from None


def _stream(batch: pa.RecordBatch) -> bytes:
    """A stream for each batch: a resumed run need not know where the last one ended."""
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, SCHEMA, options=_COMPRESSED) as writer:
        writer.write_batch(batch)
    return bytes(stream.getvalue().to_pybytes())


def _write_groups(batches: Iterator[pa.RecordBatch], writer: pq.ParquetWriter) -> None:
    """Write the rows in groups of `ROWS_IN_A_GROUP`, the last one with the rest."""
    group: list[pa.RecordBatch] = []
    missing = ROWS_IN_A_GROUP
    for batch in batches:
        rest = batch
        while rest.num_rows >= missing:
            writer.write_table(pa.Table.from_batches([*group, rest.slice(0, missing)]))
            group, rest, missing = [], rest.slice(missing), ROWS_IN_A_GROUP
            pa.default_memory_pool().release_unused()
        group.append(rest)
        missing -= rest.num_rows
    if missing < ROWS_IN_A_GROUP:
        writer.write_table(pa.Table.from_batches(group))
