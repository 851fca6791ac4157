"""Files, and standard input."""

import sys
from collections.abc import AsyncGenerator, AsyncIterator
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO, Final, Literal

import anyio

from rongcloud_groups.bulk.errors import SourceError
from rongcloud_groups.bulk.sources.formats import InputFormat, ids_in

_CHUNK: Final = 64 * 1024


class FileSource:
    """A text, CSV, TSV or JSON lines file, in UTF-8; or a pipe that has a name, which can be read only once.

    Args:
        path: the file.
        input_format: how it is read.
    """

    def __init__(self, path: Path, input_format: InputFormat) -> None:
        self.rereadable = not (path.is_fifo() or path.is_char_device())
        self.name = str(path)
        self.kind = f"file, {input_format.description}"
        self._path = path
        self._format = input_format

    def records(self) -> AsyncGenerator[list[str]]:
        """The IDs of the file."""
        return ids_in(self._chunks(), self._format, self.name)

    async def _chunks(self) -> AsyncIterator[bytes]:
        try:
            with self._path.open("rb", buffering=0) as file:
                async for chunk in _chunks_of(file):
                    yield chunk
        except OSError as error:
            raise SourceError(f"cannot read {self.name}: {error.strerror}") from None


class StdinSource:
    """Whatever comes on stdin; it is waited for, so that a quiet pipe holds up nothing.

    Args:
        input_format: how it is read.
    """

    name = "stdin"
    rereadable = False

    def __init__(self, input_format: InputFormat) -> None:
        self.kind = f"stdin, {input_format.description}"
        self._format = input_format

    def records(self) -> AsyncGenerator[list[str]]:
        """The IDs on stdin."""
        stdin = sys.stdin.buffer.raw if hasattr(sys.stdin.buffer, "raw") else sys.stdin.buffer
        return ids_in(_chunks_of(stdin), self._format, self.name)


async def _chunks_of(file: BinaryIO | RawIOBase) -> AsyncIterator[bytes]:
    """What a file holds, or what comes through a pipe, without holding up anything else meanwhile."""
    pollable = True
    while True:
        if pollable:
            try:
                await anyio.wait_readable(file.fileno())
            except PermissionError:  # a regular file can always be read
                pollable = False
        if not (chunk := file.read(_CHUNK)):
            return
        yield chunk


def file_source(path: Path, *, column: str | None = None, field: str | None = None) -> FileSource:
    """The source for a file: its name tells the format, unless a column or a field is named.

    Args:
        path: the file.
        column: the column of a CSV or TSV file.
        field: the field of JSON lines.
    """
    return FileSource(path, input_format(path.suffix.lower(), column=column, field=field))


def input_format(suffix: str, *, column: str | None = None, field: str | None = None) -> InputFormat:
    """How to read IDs.

    Args:
        suffix: of the file's name, or "".
        column: the column of CSV or TSV.
        field: the field of JSON lines.

    Raises:
        SourceError: both are given.
    """
    if column is not None and field is not None:
        raise SourceError("give a column (CSV, TSV) or a field (JSON lines), not both")
    kind: Literal["text", "csv", "tsv", "jsonl"] = "text"
    if column is not None:
        kind = "tsv" if suffix == ".tsv" else "csv"
    elif field is not None or suffix in {".jsonl", ".ndjson"}:
        kind = "jsonl"
    elif suffix in {".csv", ".tsv"}:
        kind = "csv" if suffix == ".csv" else "tsv"
    return InputFormat(kind, column or field or "group_id")
