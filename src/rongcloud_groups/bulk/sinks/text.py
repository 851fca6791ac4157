"""JSON lines and CSV, into a file or to stdout."""

import csv
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from rongcloud_groups.bulk.checkpoint import Checkpoint, CheckpointFile
from rongcloud_groups.bulk.files import PartialFile
from rongcloud_groups.bulk.rows import COLUMNS, flat_row, json_row
from rongcloud_groups.bulk.sinks.interface import Format
from rongcloud_groups.models import GroupProfile

ROWS_IN_A_TEXT: Final = 100


class TextSink:
    """JSON lines or CSV, as a file.

    Args:
        path: the output; until it is complete, its rows are in ``PATH.partial``.
        file_format: ``jsonl`` or ``csv``.
    """

    seconds_between_commits = 1.0

    def __init__(self, path: Path, file_format: Format) -> None:
        self.name = str(path)
        self.path: Path | None = path
        self._rows = _row_format(file_format)
        self._file = PartialFile(path)
        self._checkpoint = CheckpointFile(path, file_format)
        self.encode = self._rows.encode

    def load(self) -> Checkpoint | None:
        """The checkpoint of an unfinished run, or None."""
        saved = self._checkpoint.load()
        if saved is not None and saved.complete:
            self._file.check_complete(saved.sink_size)
        return saved

    def begin(self, saved: Checkpoint | None, *, keep: bool) -> None:
        """Open the output."""
        if saved is None:
            self._checkpoint.remove()
        self._file.begin(None if saved is None else saved.sink_size, keep=keep)
        if not self._file.size:
            self._file.write(self._rows.header)

    def write(self, rows: Sequence[Any]) -> None:
        """Append rows."""
        for text in _texts(self._rows, rows):
            self._file.write(text)

    def commit(self, checkpoint: Checkpoint) -> None:
        """Make the rows durable, then the checkpoint."""
        self._checkpoint.save(msgspec.structs.replace(checkpoint, sink_size=self._file.sync()))

    def publish(self) -> None:
        """Rename the file."""
        self._file.publish()

    def forget(self) -> None:
        """Remove the checkpoint."""
        self._checkpoint.remove()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class StdoutSink:
    """JSON lines or CSV on stdout; nothing is left to resume from.

    Args:
        file_format: ``jsonl`` or ``csv``.
    """

    name = "stdout"
    path: Path | None = None
    seconds_between_commits = 1.0

    def __init__(self, file_format: Format) -> None:
        self._rows = _row_format(file_format)
        self.encode = self._rows.encode

    def load(self) -> Checkpoint | None:
        """There is none."""
        return None

    def begin(self, saved: Checkpoint | None, *, keep: bool) -> None:  # noqa: ARG002  what a sink takes
        """Write what comes before the rows."""
        _write_to_stdout(self._rows.header)

    def write(self, rows: Sequence[Any]) -> None:
        """Write rows.

        Raises:
            BrokenPipeError: the reader has gone.
        """
        for text in _texts(self._rows, rows):
            _write_to_stdout(text)

    def commit(self, checkpoint: Checkpoint) -> None:
        """Nothing is held back."""

    def publish(self) -> None:
        """It is all written."""

    def forget(self) -> None:
        """There is no checkpoint."""

    def close(self) -> None:
        """It stays open."""


def _write_to_stdout(content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(sys.stdout.fileno(), rest) :]


class _JsonLines:
    header = b""

    def encode(self, profile: GroupProfile) -> bytes:
        return json_row(profile)

    def text(self, rows: Sequence[bytes]) -> bytes:
        return b"".join(rows)


class _Csv:
    def __init__(self) -> None:
        self.header = self.text([COLUMNS])

    def encode(self, profile: GroupProfile) -> Any:
        return flat_row(profile)

    def text(self, rows: Sequence[Sequence[object]]) -> bytes:
        text = io.StringIO(newline="")
        write = csv.writer(text, lineterminator="\n").writerow
        write_quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow
        for row in rows:
            # A reader takes a carriage return for a line end, but not every Python's writer quotes a cell for it.
            (write_quoted if any("\r" in cell for cell in row if isinstance(cell, str)) else write)(row)
        return text.getvalue().encode()


def _texts(row_format: _JsonLines | _Csv, rows: Sequence[Any]) -> Iterator[bytes]:
    """The rows, so few in a text that it needs no large piece of memory, which the allocator would keep."""
    return (row_format.text(rows[first : first + ROWS_IN_A_TEXT]) for first in range(0, len(rows), ROWS_IN_A_TEXT))


def _row_format(name: Format) -> _JsonLines | _Csv:
    return _Csv() if name == "csv" else _JsonLines()
