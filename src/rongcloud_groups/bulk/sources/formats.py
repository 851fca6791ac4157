"""From bytes to group IDs: text, CSV, TSV and JSON, in UTF-8."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from io import BufferedIOBase, TextIOWrapper
from itertools import chain
from typing import Any, Final, Literal, NamedTuple

import msgspec

from rongcloud_groups.bulk.errors import SourceError

MAX_LINE: Final = 1024 * 1024
"""Characters of one line, one CSV cell, or one value of a JSON array, at most."""

_PIECE: Final = 64 * 1024
_BLANK: Final = re.compile(r"\s*")


class InputFormat(NamedTuple):
    """How IDs are written.

    Attributes:
        kind: ``text`` is an ID a line.
        key: the column or field that holds the ID; without meaning for text.
        compression: the suffix that names it, such as ``.gz``; "" for none.
    """

    kind: Literal["text", "csv", "tsv", "jsonl", "json", "parquet"]
    key: str
    compression: str = ""

    @property
    def description(self) -> str:
        """The kind and the key; an unfinished job resumes only with the same ones."""
        return self.kind if self.kind == "text" else f"{self.kind}, {self.key!r}"


def ids_in(content: BufferedIOBase, input_format: InputFormat, name: str) -> Iterator[str]:
    """The IDs in the content; the message of a `SourceError` has the name and the line."""
    lines = _Lines(content, name)
    match input_format.kind:
        case "text":
            return _in_text(lines)
        case "csv":
            return (cell.strip() for cell in _in_column(_csv_rows(lines), input_format.key, lines))
        case "tsv":
            rows = (line.rstrip("\r\n").split("\t") for line in lines)
            return (_unescaped(cell).strip() for cell in _in_column(rows, input_format.key, lines))
        case _:
            return _in_json(lines, input_format.key)


class _Lines:
    """Lines with their ends: a line feed, a carriage return, or both; ``number`` is that of the last one, from 1."""

    def __init__(self, content: BufferedIOBase, name: str) -> None:
        self.name = name
        self.number = 0
        self._text = TextIOWrapper(content, encoding="utf-8-sig", newline="")  # type: ignore[type-var]

    def __iter__(self) -> Iterator[str]:
        while line := self._decoded(self._text.readline, MAX_LINE + 1):
            self.number += 1
            if len(line) > MAX_LINE:
                raise self.error(f"longer than {MAX_LINE:,} characters; is it a text file?")
            yield line

    def error(self, message: object, number: int | None = None) -> SourceError:
        return SourceError(f"{self.name}, line {number or self.number}: {message}")

    def read(self, size: int) -> str:
        """More of the content, regardless of lines; "" at its end."""
        return self._decoded(self._text.read, size)

    def _decoded(self, read: Callable[[int], str], size: int) -> str:
        try:
            return read(size)
        except UnicodeDecodeError as error:
            number = self.number + 1 + error.object.count(b"\n", 0, error.start)  # all lines before it were read
            wrong = error.object[error.start]
            raise self.error(f"not UTF-8 (byte 0x{wrong:02x}); convert the file to UTF-8", number) from None


def _in_text(lines: _Lines) -> Iterator[str]:
    """An ID a line; empty lines and the space around an ID don't count."""
    for line in lines:
        if group_id := line.strip():
            if lines.number == 1 and re.match(r'\{\s*"|\[\s*["{]', group_id):
                raise lines.error("this is JSON, not an ID a line; name its field with --field, or the file .jsonl")
            if lines.number == 1 and "\0" in group_id:
                raise lines.error("it has a NUL character; if the file is UTF-16, convert it to UTF-8")
            yield group_id


def _csv_rows(lines: _Lines) -> Iterator[list[str]]:
    """Rows; a cell in quotes may hold line ends, and a quote inside of one without is text.

    Between the cells are commas or, if the first line has none, semicolons: spreadsheets write them where the comma is
    the decimal sign.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))  # the default refuses cells that databases export
    header = next(iter(lines), "")
    delimiter = ";" if ";" in header and "," not in header else ","
    rows = csv.reader(chain([header], lines), strict=True, delimiter=delimiter)
    while True:
        first_line = rows.line_num + 1
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            opened = rows.line_num > first_line or "end of data" in str(error)
            hint = "; is a quote opened and not closed?" if opened else ""
            raise lines.error(f"{error}{hint}", first_line) from None


_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "0": "\0", "N": ""}
"""As PostgreSQL's COPY and MySQL's batch mode write them, ``\\N`` for null; any other character stands for itself."""


def _unescaped(cell: str) -> str:
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), cell) if "\\" in cell else cell


def _in_column(rows: Iterator[list[str]], column: str, lines: _Lines) -> Iterator[str]:
    """The cells of a column, whose name is in the first row."""
    filled = filter(any, rows)  # Excel ends a file with rows of separators
    header = next(filled, None)
    if header is None:
        raise SourceError(f"{lines.name} is empty; it needs a header line with the column {column!r}")
    place = _place_of(column, [cell.strip() for cell in header], lines.name)
    yield from (row[place] if place < len(row) else "" for row in filled)


def _place_of(column: str, names: list[str], file: str) -> int:
    if column not in names:
        cure = "choose one with --column"
        if between := next((each for each in "\t|;," if len(names) == 1 and each in names[0]), ""):
            cure = f"{between!r} is between them; put commas there, and name it .csv"
        raise SourceError(f"{file} has no column {column!r}{_there(names)}; {cure}")
    if names.count(column) > 1:
        raise SourceError(f"{file} has {names.count(column)} columns {column!r}; rename all but one")
    return names.index(column)


def _in_json(lines: _Lines, field: str) -> Iterator[str]:
    """A value a line, or an array of values: an object with the ID in a field, or the ID itself."""
    decode = msgspec.json.Decoder().decode
    while (start := lines.read(1)).isspace():
        lines.number += start == "\n"
    if start == "[":
        yield from _in_array(lines, field)
        return
    for line in lines:
        text, start = start + line, ""
        if not text.strip():
            continue
        try:
            value = decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise lines.error(f"not JSON: {error}; give a value a line, or an array of values") from None
        yield _id_of(value, field, lines.error)


def _in_array(lines: _Lines, field: str) -> Iterator[str]:
    """The values behind the bracket that opens an array: it need not fit into memory."""
    decode = json.JSONDecoder().raw_decode
    text, place, number = "", 0, 1

    def error(message: object) -> SourceError:
        return SourceError(f"{lines.name}, value {number}: {message}")

    while True:
        place = _BLANK.match(text, place).end()  # type: ignore[union-attr]
        if text.startswith("]", place):
            if (text[place + 1 :] + lines.read(_PIECE)).strip():
                raise error("not JSON: there is more after the array")
            return
        try:
            value, end = decode(text, place)
            end = _BLANK.match(text, end).end()  # type: ignore[union-attr]
            if end == len(text):  # a number may not have ended
                raise ValueError("the array does not end")  # noqa: TRY301
        except (ValueError, RecursionError) as wrong:
            cut = isinstance(wrong, ValueError) and len(text) - place <= MAX_LINE
            if not cut or not (more := lines.read(_PIECE)):
                raise error(f"not JSON: {wrong}") from None
            text, place = text[place:] + more, 0
            continue
        yield _id_of(value, field, error)
        if text[end] not in ",]":
            raise error("not JSON: no comma after it")
        place = end + (text[end] == ",")
        number += 1


def _id_of(value: Any, field: str, error: Callable[[str], SourceError]) -> str:
    if isinstance(value, dict):
        if field not in value:
            raise error(f"no field {field!r}{_there(value)}")
        value = value[field]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise error("the ID is neither text nor a whole number")
    return value


def _there(names: Iterable[str]) -> str:
    shown = [repr(name) for name, _ in zip(names, range(12), strict=False)]
    return f"; it has {', '.join(shown)}" if shown else ""
