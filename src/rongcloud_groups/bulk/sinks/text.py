"""JSON lines and CSV, into a file or to stdout."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any, Final

import msgspec

from rongcloud_groups._tables.output import write_rows
from rongcloud_groups._tables.rows import COLUMNS, flat_row, json_row, time_text
from rongcloud_groups.bulk.checkpoint import Checkpoint
from rongcloud_groups.bulk.sinks.file import FileSink
from rongcloud_groups.bulk.sinks.interface import Format, Sink
from rongcloud_groups.errors import ConfigError
from rongcloud_groups.models import GroupProfile

ROWS_IN_A_TEXT: Final = 100
"""So few that their text needs no large piece of memory, which the allocator would keep."""


class TextSink(FileSink):
    """JSON lines or CSV, as a file."""

    def __init__(self, path: Path, file_format: Format, *, force: bool = False) -> None:
        super().__init__(path, file_format, force=force)
        self._rows = _row_format(file_format)
        self._header = self._rows.header

    def encode(self, profile: GroupProfile) -> bytes:
        return self._rows.encode(profile)

    def write(self, rows: Sequence[bytes]) -> None:
        for text in map(b"".join, _parts(rows)):
            self._file.append(text)

    def _is_output(self) -> bool:
        return self._rows.is_output(self._output)

    def _finished_rows(self) -> Iterator[bytes]:
        if not self._is_output() or not _start_of(self._output).startswith(self._header):
            raise ConfigError(f"cannot add to {self.name}: it is not in the same format")
        return map(_with_line_end, self._rows.kept(self._output))


class StdoutSink(Sink):
    """JSON lines or CSV on stdout; nothing is left to resume from."""

    name = "stdout"

    def __init__(self, file_format: Format) -> None:
        self._rows = _row_format(file_format)
        self._cancelled = Event()

    def begin(self, saved: Checkpoint | None, *, keep: bool) -> None:  # noqa: ARG002  nothing was written before
        write_rows(self._rows.header, self._cancelled)

    def encode(self, profile: GroupProfile) -> bytes:
        return self._rows.encode(profile)

    def write(self, rows: Sequence[bytes]) -> None:
        for text in map(b"".join, _parts(rows)):
            write_rows(text, self._cancelled)

    def cancel(self) -> None:
        self._cancelled.set()


def _parts(rows: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (rows[first : first + ROWS_IN_A_TEXT] for first in range(0, len(rows), ROWS_IN_A_TEXT))


_OLD_TIME: Final = re.compile(rb'("create_time":"[^".]{19})(?:\.(\d{3})\d*)?(?=Z")')
"""In a row of JSON its first match is the group's: texts before it have their quotes escaped."""


class _JsonLines:
    header = b""
    encode = staticmethod(json_row)

    def is_output(self, path: Path) -> bool:
        with path.open("rb") as file:
            line = file.readline(1024 * 1024)
        try:
            return msgspec.json.decode(line, type=dict[str, Any]).keys() >= set(COLUMNS)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False

    def kept(self, path: Path) -> Iterator[bytes]:
        with path.open("rb") as file:
            for line in file:
                yield _OLD_TIME.sub(lambda old: b"%s.%s" % (old[1], old[2] or b"000"), line, count=1)


_QUOTED: Final = re.compile(r'[",\r\n]|^$')
_FORMULA: Final = re.compile(r"[=+\-@\t\r＝＋－＠]")  # noqa: RUF001  as wide as Chinese and Japanese keyboards write them
_BOM: Final = "\N{BYTE ORDER MARK}".encode()
_CREATE_TIME: Final = COLUMNS.index("create_time")


class _Csv:
    """CSV as PostgreSQL has it: an absent value is an empty cell, an empty text is ``""``."""

    def __init__(self, *, for_excel: bool) -> None:
        self._for_excel = for_excel
        self.header = _BOM * for_excel + self._line(COLUMNS)

    def encode(self, profile: GroupProfile) -> bytes:
        return self._line(flat_row(profile))

    def _line(self, row: Iterable[object]) -> bytes:
        return f"{','.join(map(self._cell, row))}\n".encode()

    def _cell(self, value: object) -> str:
        # The csv module of Python 3.11 cannot tell None from "", and of none quotes a cell for a carriage return alone.
        if value is None:
            return ""
        if not isinstance(value, str):
            return time_text(value) if isinstance(value, datetime) else str(value)
        if self._for_excel and _FORMULA.match(value):
            value = f"'{value}"
        return '"' + value.replace('"', '""') + '"' if _QUOTED.search(value) else value

    def is_output(self, path: Path) -> bool:
        return _start_of(path).removeprefix(_BOM).startswith(self.header.removeprefix(_BOM))

    def kept(self, path: Path) -> Iterator[bytes]:
        """The content of a finished output, with times as they are written now."""
        if any(row[_CREATE_TIME] != _new_time(row[_CREATE_TIME]) for row in _rows_of(path)):
            yield self.header
            for row in _rows_of(path):  # of version 0.1.0, where an empty cell is an absent value or an empty text
                row[_CREATE_TIME] = _new_time(row[_CREATE_TIME])
                yield self._line(cell or None for cell in row)
        else:
            with path.open("rb") as file:
                yield from file


def _with_line_end(line: bytes) -> bytes:
    return line if line.endswith(b"\n") else line + b"\n"  # an editor may have left it so


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1024)


def _rows_of(path: Path) -> Iterator[list[str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        next(rows)
        yield from (row for row in rows if len(row) == len(COLUMNS))


def _new_time(text: str) -> str:
    return time_text(datetime.fromisoformat(text)) if text else text


def _row_format(name: Format) -> _JsonLines | _Csv:
    return _JsonLines() if name == "jsonl" else _Csv(for_excel=name == "excel-csv")
