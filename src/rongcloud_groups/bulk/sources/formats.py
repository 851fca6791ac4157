"""From bytes to group IDs: text, CSV, TSV and JSON lines, in UTF-8."""

import csv
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec

from rongcloud_groups.bulk.errors import SourceError

MAX_LINE: Final = 1024 * 1024
"""Bytes of one line, or of one CSV row, at the most."""


class InputFormat(NamedTuple):
    """How IDs are written.

    Attributes:
        kind: ``text`` is an ID a line.
        key: the column or field that holds the ID; without meaning for text.
    """

    kind: Literal["text", "csv", "tsv", "jsonl"]
    key: str

    @property
    def description(self) -> str:
        """What must be the same for an input to be the same."""
        return self.kind if self.kind == "text" else f"{self.kind}, {self.key!r}"


class _Reader(Protocol):
    def read(self, lines: list[str]) -> list[str]: ...

    def end(self) -> list[str]: ...


async def ids_in(chunks: AsyncIterable[bytes], input_format: InputFormat, name: str) -> AsyncGenerator[list[str]]:
    """The IDs, some at a time.

    Args:
        chunks: the content.
        input_format: how it is written.
        name: what messages call it.

    Raises:
        SourceError: it cannot be read; the message names the line.
    """
    reader = _reader(input_format, name)
    async for lines in _lines(chunks, name):
        yield reader.read(lines)
    yield reader.end()


def _reader(input_format: InputFormat, name: str) -> _Reader:
    match input_format.kind:
        case "text":
            return _Text()
        case "jsonl":
            return _JsonLines(input_format.key, name)
        case kind:
            return _Delimited(input_format.key, "\t" if kind == "tsv" else ",", name)


async def _lines(chunks: AsyncIterable[bytes], name: str) -> AsyncIterator[list[str]]:
    """Whole lines without their ends; decoded as far as they have come."""
    number = 1
    rest = b""
    async for chunk in chunks:
        head, line_end, tail = chunk.rpartition(b"\n")
        if not line_end:
            rest += chunk
        else:
            lines = _decoded(rest + head, number, name).split("\n")
            rest = tail
            yield lines
            number += len(lines)
        if len(rest) > MAX_LINE:
            raise SourceError(f"{name}, line {number}: longer than {MAX_LINE:,} bytes; is it a text file?")
    if rest:
        yield _decoded(rest, number, name).split("\n")


def _decoded(content: bytes, number: int, name: str) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = number + content.count(b"\n", 0, error.start)
        wrong = content[error.start]
        raise SourceError(f"{name}, line {line}: not UTF-8 (byte 0x{wrong:02x}); convert the file to UTF-8") from None
    return text.removeprefix("\ufeff") if number == 1 else text


class _Text:
    """An ID a line; empty lines and the space around an ID don't count."""

    def read(self, lines: list[str]) -> list[str]:
        return [group_id for line in lines if (group_id := line.strip())]

    def end(self) -> list[str]:
        return []


class _JsonLines:
    """A JSON object a line, with the ID in a field; a line that is a string is the ID itself."""

    def __init__(self, field: str, name: str) -> None:
        self._field = field
        self._name = name
        self._number = 0
        self._decode = msgspec.json.Decoder().decode

    def read(self, lines: list[str]) -> list[str]:
        ids = []
        for line in lines:
            self._number += 1
            if line and not line.isspace():
                ids.append(self._id_in(line))
        return ids

    def end(self) -> list[str]:
        return []

    def _id_in(self, line: str) -> str:
        try:
            value: Any = self._decode(line)
        except msgspec.DecodeError as error:
            raise SourceError(f"{self._name}, line {self._number}: not JSON: {error}") from None
        if isinstance(value, dict):
            if self._field not in value:
                raise SourceError(f"{self._name}, line {self._number}: no field {self._field!r}{_there(value)}")
            value = value[self._field]
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise SourceError(f"{self._name}, line {self._number}: the ID is neither text nor a whole number")
        return value


class _Delimited:
    """CSV or TSV with a header line; a cell in quotes may hold line ends."""

    def __init__(self, column: str, delimiter: str, name: str) -> None:
        self._column = column
        self._delimiter = delimiter
        self._name = name
        self._index: int | None = None
        self._waiting: list[str] = []
        self._waiting_size = 0
        self._quotes = 0
        self._line = 0

    def read(self, lines: list[str]) -> list[str]:
        whole: list[str] = []
        for line in lines:
            self._waiting.append(line + "\n")
            if '"' in line:
                self._quotes += line.count('"')
            if self._quotes % 2 == 0:
                whole += self._waiting
                self._waiting.clear()
                self._waiting_size = 0
            else:
                self._waiting_size += len(line)
                if self._waiting_size > MAX_LINE:
                    line_number = self._line + len(whole) + 1
                    raise SourceError(f"{self._name}, line {line_number}: a quote is opened and not closed")
        return self._cells(whole)

    def end(self) -> list[str]:
        ids = self._cells(self._waiting)
        if self._index is None:
            raise SourceError(f"{self._name} is empty; it needs a header line with the column {self._column!r}")
        return ids

    def _cells(self, lines: list[str]) -> list[str]:
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        try:
            ids = self._column_of(reader)
        except csv.Error as error:
            raise SourceError(f"{self._name}, line {self._line + reader.line_num}: {error}") from None
        self._line += len(lines)
        return ids

    def _column_of(self, rows: Iterable[list[str]]) -> list[str]:
        ids = []
        for row in rows:
            if self._index is None:
                if row:
                    self._index = self._place_in(row)
            elif row:
                ids.append(row[self._index].strip() if self._index < len(row) else "")
        return ids

    def _place_in(self, header: list[str]) -> int:
        names = [cell.strip() for cell in header]
        if self._column not in names:
            raise SourceError(f"{self._name} has no column {self._column!r}{_there(names)}; choose one with --column")
        return names.index(self._column)


def _there(names: Iterable[str]) -> str:
    shown = [repr(name) for name, _ in zip(names, range(12), strict=False)]
    return f"; it has {', '.join(shown)}" if shown else ""
