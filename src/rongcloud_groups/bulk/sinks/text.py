"""Where rows go: JSON lines, CSV, stdout; SQLite and Parquet have a file of their own."""

import csv
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Protocol, get_args

import msgspec

from rongcloud_groups.bulk.checkpoint import Checkpoint, CheckpointFile
from rongcloud_groups.bulk.files import PartialFile
from rongcloud_groups.bulk.rows import COLUMNS, flat_row, json_row
from rongcloud_groups.errors import ConfigError, RongCloudError
from rongcloud_groups.models import GroupProfile

ROWS_IN_A_TEXT: Final = 100
Format = Literal["jsonl", "csv", "sqlite", "parquet"]

_FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
    ".db": "sqlite",
    ".parquet": "parquet",
}


class OutputError(RongCloudError):
    """The output cannot take more rows; what was committed is safe."""


class Sink(Protocol):
    """Takes rows in the order of the input, and can go on where an earlier run was killed.

    All methods but `encode` may block; a `Job` calls them in a worker thread, one at a time.

    Attributes:
        name: what messages call it.
        path: the output; None where it is stdout.
        seconds_between_commits: how often it is worth while.
    """

    name: str
    path: Path | None
    seconds_between_commits: float

    def load(self) -> Checkpoint | None:
        """The checkpoint of an unfinished run, or None."""
        ...

    def begin(self, saved: Checkpoint | None, *, keep: bool) -> None:
        """Open the output: at a checkpoint, or afresh; ``keep`` adds to the rows that a finished output has."""
        ...

    def encode(self, profile: GroupProfile) -> Any:
        """The row that `write` takes."""
        ...

    def write(self, rows: Sequence[Any]) -> None:
        """Add rows; they are durable after `commit`."""
        ...

    def commit(self, checkpoint: Checkpoint) -> None:
        """Make all rows so far durable, and then the checkpoint that counts them."""
        ...

    def publish(self) -> None:
        """Put the complete output in its place; done a second time, nothing happens."""
        ...

    def forget(self) -> None:
        """Remove the checkpoint of what is published."""
        ...

    def close(self) -> None:
        """Let go of the output."""
        ...


def format_of(path: Path | None, given: Format | None = None) -> Format:
    """The format: the one given, or that of the file's name.

    Raises:
        ConfigError: the name does not tell.
    """
    if given is not None:
        return given
    if path is None:
        return "jsonl"
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise ConfigError(
            f"the name {path.name!r} does not tell a format; give --format {'|'.join(get_args(Format))}"
        ) from None


def open_sink(path: Path | None, file_format: Format | None = None) -> Sink:
    """The sink for a file, or for stdout where ``path`` is None.

    Raises:
        ConfigError: no format, one that stdout cannot take, or a missing extra.
    """
    chosen = format_of(path, file_format)
    if path is None:
        if chosen not in {"jsonl", "csv"}:
            raise ConfigError(f"{chosen} cannot go to stdout; give a file with -o")
        return StdoutSink(chosen)
    if chosen == "sqlite":
        from rongcloud_groups.bulk.sinks.sqlite import SqliteSink

        return SqliteSink(path)
    if chosen == "parquet":
        try:
            from rongcloud_groups.bulk.sinks.parquet import ParquetSink
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "pyarrow":
                raise
            raise ConfigError("Parquet needs an extra: pip install 'rongcloud-groups[parquet]'") from None
        return ParquetSink(path)
    return TextSink(path, chosen)


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
        self._file.check_complete(saved)
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
