"""Files, and standard input."""

import gzip
import os
import sys
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from rongcloud_groups._validation import extra_needed
from rongcloud_groups.bulk.errors import SourceError
from rongcloud_groups.bulk.sources.formats import InputFormat, ids_in
from rongcloud_groups.bulk.sources.interface import Source
from rongcloud_groups.bulk.sources.thread import PolledInput, ThreadedReader

_KINDS: Final = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"}
_COMPRESSIONS: Final = {".gz", ".zst"}
_REFUSED: Final = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods", ".numbers"), "save the sheet as CSV"),
    **dict.fromkeys((".zip", ".7z", ".tar", ".tgz", ".rar", ".bz2", ".xz"), "unpack it, and give the file in it"),
    **dict.fromkeys((".sqlite", ".sqlite3", ".db"), "pipe a query: sqlite3 FILE 'SELECT …' | rongcloud-groups sync -"),
    **dict.fromkeys((".avro", ".orc", ".feather", ".arrow"), "convert it to Parquet, CSV or JSON lines"),
    **dict.fromkeys((".xml", ".yaml", ".yml", ".html"), "convert it to CSV or JSON lines"),
}


class _OpenedSource(Source):
    """Parses the content of a file descriptor, in a thread."""

    def __init__(self, name: str, kind: str, input_format: InputFormat, opened: Callable[[], int]) -> None:
        self.name = name
        self.kind = f"{kind}, {input_format.description}"
        self._format = input_format
        self._opened = opened

    def records(self) -> AsyncGenerator[list[str]]:
        return ThreadedReader(self._ids).lists()

    def _ids(self, reader: ThreadedReader) -> Iterator[str]:
        try:
            if self._format.kind == "parquet":
                yield from _ids_of_parquet(self.name, self._format.key)
                return
            descriptor = self._opened()
            try:
                content: Any = BufferedReader(PolledInput(descriptor, reader.waiting), 64 * 1024)
                yield from ids_in(_unpacked(content, self._format.compression, self.name), self._format, self.name)
            finally:
                os.close(descriptor)
        except (OSError, EOFError, zlib.error) as error:
            raise SourceError(f"cannot read {self.name}: {getattr(error, 'strerror', None) or error}") from None


class FileSource(_OpenedSource):
    """A file of IDs, or a pipe that has a name, which can be read only once.

    Args:
        path: the file.
        input_format: how it is read.
    """

    def __init__(self, path: Path | str, input_format: InputFormat) -> None:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # a pipe is opened at once, before it has a writer
        super().__init__(str(path), "file", input_format, lambda: os.open(path, flags))
        path = Path(path)
        self.rereadable = not (path.is_fifo() or path.is_char_device() or path.is_socket())


class StdinSource(_OpenedSource):
    """Standard input; a quiet pipe holds up nothing.

    Args:
        input_format: how it is read.
    """

    def __init__(self, input_format: InputFormat) -> None:
        super().__init__("stdin", "stdin", input_format, lambda: os.dup(sys.stdin.fileno()))


def _unpacked(content: Any, compression: str, name: str) -> Any:
    if compression == ".gz":
        return gzip.open(content)
    if compression == ".zst":
        try:
            from compression import zstd  # type: ignore[import-not-found,unused-ignore]
        except ModuleNotFoundError:
            raise SourceError(
                f"cannot read {name}: Zstandard needs Python 3.14; unpack it: zstd -dc FILE | rongcloud-groups sync -"
            ) from None
        return zstd.open(content)
    return content


def _ids_of_parquet(path: str, column: str) -> Iterator[str]:
    try:
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as pq  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise SourceError(f"cannot read {path}: {extra_needed('Parquet', 'parquet')}") from None
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            if column not in file.schema_arrow.names:
                raise SourceError(f"{path} has no column {column!r}; choose one with --column")
            kind = file.schema_arrow.field(column).type
            if pa.types.is_floating(kind) or pa.types.is_temporal(kind) or pa.types.is_boolean(kind):
                raise SourceError(f"the column {column!r} of {path} is {kind}; an ID is text or a whole number")
            for batch in file.iter_batches(10_000, columns=[column], use_threads=False):
                yield from (value or "" for value in batch.column(0).cast(pa.string()).to_pylist())
    except pa.ArrowException as error:
        raise SourceError(f"cannot read {path}: {error}") from None


def file_source(path: Path | str, *, column: str | None = None, field: str | None = None) -> FileSource:
    """The source for a file: its name tells the format, unless a column or a field is named.

    Args:
        path: the file.
        column: the column of a CSV, TSV or Parquet file.
        field: the field of JSON.

    Raises:
        SourceError: files of this kind cannot be read.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in _REFUSED:
        raise SourceError(f"cannot read {path}: {suffix} files are not read; {_REFUSED[suffix]}")
    compression = suffix if suffix in _COMPRESSIONS else ""
    inner = Path(path.stem).suffix.lower() if compression else suffix
    return FileSource(path, input_format(inner, column=column, field=field)._replace(compression=compression))


def input_format(suffix: str, *, column: str | None = None, field: str | None = None) -> InputFormat:
    """How to read IDs.

    Args:
        suffix: of the file's name, or "".
        column: the column of CSV, TSV or Parquet.
        field: the field of JSON.

    Raises:
        SourceError: both are given.
    """
    if column is not None and field is not None:
        raise SourceError("give a column (CSV, TSV, Parquet) or a field (JSON), not both")
    key = column or field or "group_id"
    if suffix == ".parquet":
        return InputFormat("parquet", key)
    kind: Any = _KINDS.get(suffix, "text")
    if column is not None and kind != "tsv":
        kind = "csv"
    elif field is not None and kind != "json":
        kind = "jsonl"
    return InputFormat(kind, key)
