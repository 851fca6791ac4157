import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rongcloud_groups.bulk import InputFormat, SourceError
from rongcloud_groups.bulk.sources.formats import MAX_LINE, ids_in

TEXT = InputFormat("text", "")


class Pieces(io.RawIOBase):
    """Content that comes some bytes at a time, as through a pipe."""

    def __init__(self, content: bytes, piece: int) -> None:
        self._content = io.BytesIO(content)
        self._piece = piece

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._content.read(min(self._piece, len(buffer)))
        buffer[: len(content)] = content
        return len(content)


def all_of(content: bytes, how: InputFormat, piece: int = 7) -> list[str]:
    return list(ids_in(io.BufferedReader(Pieces(content, piece)), how, "ids"))


def test_text_is_an_id_a_line_without_empty_lines_and_surrounding_space() -> None:
    assert all_of("\ufeffg1\r\n\n  g2\t\n群\nlast".encode(), TEXT) == ["g1", "g2", "群", "last"]


def test_an_input_without_anything_has_no_ids() -> None:
    assert all_of(b"", TEXT) == []
    assert all_of(b"", InputFormat("jsonl", "id")) == []


@given(
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"))),
    piece=st.integers(1, 50),
)
def test_text_comes_out_however_it_is_cut(names: list[str], piece: int) -> None:
    expected = [name.strip() for name in names if name.strip()]
    assert all_of("\n".join(["", *names]).encode(), TEXT, piece) == expected


CELLS = st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))] * 2))


def ids_of(rows: list[tuple[str, str]]) -> list[str]:
    return [group_id.strip() for other, group_id in rows if other or group_id]


@given(rows=CELLS, piece=st.integers(1, 50))
def test_a_column_comes_out_of_what_the_csv_module_writes(rows: list[tuple[str, str]], piece: int) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([("other", "id"), *rows])
    assert all_of(text.getvalue().encode(), InputFormat("csv", "id"), piece) == ids_of(rows)


TSV_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


@given(rows=CELLS, piece=st.integers(1, 50))
def test_a_column_comes_out_of_tsv_as_databases_export_it(rows: list[tuple[str, str]], piece: int) -> None:
    lines = ["other\tid", *("\t".join(cell.translate(TSV_ESCAPES) for cell in row) for row in rows)]
    assert all_of("\n".join(lines).encode(), InputFormat("tsv", "id"), piece) == ids_of(rows)


def test_a_quote_in_tsv_is_text() -> None:
    content = b'group_id\tn\ng1\t"Tea\ng2\tb\ng3\tc"\ng4\td\n\\N\tx\n'
    assert all_of(content, InputFormat("tsv", "group_id")) == ["g1", "g2", "g3", "g4", ""]


def test_a_quote_inside_an_unquoted_cell_of_csv_is_text() -> None:
    assert all_of(b'n,id\n5" pipe,g1\n"a ""b""",g2\n', InputFormat("csv", "id")) == ["g1", "g2"]


def test_a_long_cell_of_another_column_is_no_error() -> None:
    long = b"x" * 200_000
    assert all_of(b"n,id\n%s,g1\n" % long, InputFormat("csv", "id"), 65536) == ["g1"]
    assert all_of(b"n\tid\n%s\tg1\n" % long, InputFormat("tsv", "id"), 65536) == ["g1"]


@pytest.mark.parametrize(
    "content",
    [
        "group_id;n\ng1;1,5\ng2;2\n",
        "\ufeffn;group_id\r\n1,5;g1\r\n;\r\n2;g2\r\n;\r\n",  # of a spreadsheet
        '"group_id";"a ""b"""\n"g1";"1;2"\n"g2";"more\nlines"\n',
        '"n;m",group_id\n"1;2",g1\n3,g2\n',
        "group_id\ng1\ng2\n",
    ],
)
@given(piece=st.integers(1, 50))
def test_a_csv_without_a_comma_in_its_header_has_semicolons_between_its_cells(content: str, piece: int) -> None:
    assert all_of(content.encode(), InputFormat("csv", "group_id"), piece) == ["g1", "g2"]


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_rows_of_separators_at_the_end_are_no_ids(kind: Any) -> None:
    between = b"," if kind == "csv" else b"\t"
    content = b"a,id\r\n1,g1\r\n,\r\n,\r\n".replace(b",", between)
    assert all_of(content, InputFormat(kind, "id")) == ["g1"]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@given(piece=st.integers(1, 9))
def test_all_line_ends_are_line_ends(line_end: bytes, piece: int) -> None:
    assert all_of(line_end.join([b"g1", b"g2", b"", b"g3"]), TEXT, piece) == ["g1", "g2", "g3"]
    assert all_of(line_end.join([b"a,id", b"1,g1", b"2,g2"]), InputFormat("csv", "id"), piece) == ["g1", "g2"]
    assert all_of(line_end.join([b"id\ta", b"g1\t1", b"g2"]), InputFormat("tsv", "id"), piece) == ["g1", "g2"]
    assert all_of(line_end.join([b'{"id":"g1"}', b'"g2"']), InputFormat("json", "id"), piece) == ["g1", "g2"]


@given(
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
    form=st.tuples(st.booleans(), st.booleans(), st.sampled_from([None, 2])),
    piece=st.integers(1, 50),
)
def test_an_array_comes_out_of_what_the_json_module_writes(
    names: list[str], form: tuple[bool, bool, int | None], piece: int
) -> None:
    plain, ascii_only, indent = form
    array = [name if plain else {"x": [1, "]"], "id": name} for name in names]
    content = json.dumps(array, ensure_ascii=ascii_only, indent=indent)
    assert all_of(f" \n{content}\n".encode(), InputFormat("jsonl", "id"), piece) == names


def test_numbers_of_an_array_are_whole_wherever_it_is_cut() -> None:
    numbers = list(map(str, range(100_000, 130_000)))
    assert all_of(f"[{','.join(numbers)}]".encode(), InputFormat("json", "id"), 4099) == numbers


@given(
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
    form=st.tuples(st.booleans(), st.booleans()),
    piece=st.integers(1, 50),
)
def test_a_field_comes_out_of_what_the_json_module_writes(
    names: list[str], form: tuple[bool, bool], piece: int
) -> None:
    plain, ascii_only = form
    lines = [json.dumps(name if plain else {"x": 1, "id": name}, ensure_ascii=ascii_only) for name in names]
    assert all_of("\n\n".join(lines).encode(), InputFormat("jsonl", "id"), piece) == names


def test_a_whole_number_in_json_is_an_id() -> None:
    assert all_of(b'{"id": 17}\n18\n', InputFormat("jsonl", "id")) == ["17", "18"]


@pytest.mark.parametrize(
    ("content", "how", "words"),
    [
        (b"g1\ng2\n\xff\xfe\n", TEXT, "ids, line 3: not UTF-8 (byte 0xff)"),
        (b"x" * (MAX_LINE + 9), TEXT, "line 1: longer than"),
        ("g1\n".encode("utf-16-le"), TEXT, "line 1: it has a NUL character; if the file is UTF-16, convert"),
        (b"id,n,id\ng1,x,g2\n", InputFormat("csv", "id"), "ids has 2 columns 'id'; rename all but one"),
        (b"id\tid\ng1\tg2\n", InputFormat("tsv", "id"), "ids has 2 columns 'id'; rename all but one"),
        (b'"g1"\n' + b"[" * 100_000, InputFormat("json", "id"), "line 2: not JSON: maximum recursion depth"),
        (b'["g1",' + b"[" * 100_000, InputFormat("json", "id"), "value 2: not JSON: maximum recursion depth"),
        (b'{"group_id":"g1"}\n', TEXT, "line 1: this is JSON"),
        (b'["g1"]\n', TEXT, "line 1: this is JSON"),
        (b"a,b\n1,2\n", InputFormat("csv", "id"), "ids has no column 'id'; it has 'a', 'b'; choose one with --column"),
        (b"a;b\n1;2\n", InputFormat("csv", "id"), "ids has no column 'id'; it has 'a', 'b'; choose one with --column"),
        (
            b"id\ta\ng1\t1\n",
            InputFormat("csv", "id"),
            "it has 'id\\ta'; '\\t' is between them; put commas there, and name it .csv",
        ),
        (
            b"id|a\ng1|1\n",
            InputFormat("tsv", "id"),
            "it has 'id|a'; '|' is between them; put commas there, and name it .csv",
        ),
        (b"", InputFormat("csv", "id"), "ids is empty; it needs a header line"),
        (b"", InputFormat("tsv", "id"), "ids is empty; it needs a header line"),
        (b"a\tb\n1\t2\n", InputFormat("tsv", "id"), "ids has no column 'id'; it has 'a', 'b'"),
        (b'id,b\ng1,"open\n', InputFormat("csv", "id"), "line 2: unexpected end of data; is a quote opened"),
        (b'id,b\ng1,"open\n' + b"more\n" * MAX_LINE, InputFormat("csv", "id"), "line 2: field larger than"),
        (b'id,b\ng1,"a"b\n', InputFormat("csv", "id"), "line 2: ',' expected after"),
        (b'{"id":"g1"}\n{"id":', InputFormat("jsonl", "id"), "line 2: not JSON"),
        (b'{"a":1}', InputFormat("jsonl", "id"), "line 1: no field 'id'; it has 'a'"),
        (b"{}", InputFormat("jsonl", "id"), "line 1: no field 'id'"),
        (b'{"id":true}', InputFormat("jsonl", "id"), "line 1: the ID is neither text nor a whole number"),
        (b'["g1",{"a":1}]', InputFormat("json", "id"), "value 2: no field 'id'; it has 'a'"),
        (b'["g1","g2"', InputFormat("json", "id"), "value 2: not JSON: the array does not end"),
        (b'["g1" "g2"]', InputFormat("json", "id"), "value 1: not JSON: no comma after it"),
        (b'["g1"] more', InputFormat("json", "id"), "value 2: not JSON: there is more after the array"),
        (b'["g1",\n"\xff"]', InputFormat("json", "id"), "line 2: not UTF-8 (byte 0xff)"),
    ],
)
def test_a_fault_is_reported_with_its_line(content: bytes, how: InputFormat, words: str) -> None:
    with pytest.raises(SourceError, match=r"^ids") as raised:
        all_of(content, how, 65536)
    assert words in str(raised.value)
