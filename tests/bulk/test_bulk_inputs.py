import csv
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.bulk_jobs import written

from rongcloud_groups.bulk import InputFormat, IterableSource, ResumeError, SourceError, file_source, input_format
from rongcloud_groups.bulk.blocks import read_blocks, scan
from rongcloud_groups.bulk.seen_ids import SeenIds
from rongcloud_groups.bulk.sources.formats import MAX_LINE, ids_in
from rongcloud_groups.bulk.sources.interface import Source

TEXT = InputFormat("text", "")


async def all_of(content: bytes, how: InputFormat, piece: int = 7) -> list[str]:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), piece):
            yield content[start : start + piece]

    return [group_id async for some in ids_in(chunks(), how, "ids") for group_id in some]


async def records_of(source: Source) -> list[str]:
    return [group_id async for some in source.records() for group_id in some]


async def test_text_is_an_id_a_line_without_empty_lines_and_surrounding_space() -> None:
    assert await all_of("\ufeffg1\r\n\n  g2\t\n群\nlast".encode(), TEXT) == ["g1", "g2", "群", "last"]


async def test_an_input_without_anything_has_no_ids() -> None:
    assert await all_of(b"", TEXT) == []
    assert await all_of(b"", InputFormat("jsonl", "id")) == []


@given(
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"))),
    piece=st.integers(1, 50),
)
async def test_text_comes_out_however_it_is_cut(names: list[str], piece: int) -> None:
    expected = [name.strip() for name in names if name.strip()]
    assert await all_of("\n".join(["", *names]).encode(), TEXT, piece) == expected


@pytest.mark.parametrize(("delimiter", "kind"), [(",", "csv"), ("\t", "tsv")])
@given(
    rows=st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"))] * 2)),
    piece=st.integers(1, 50),
)
async def test_a_column_comes_out_of_what_the_csv_module_writes(
    delimiter: str, kind: str, rows: list[tuple[str, str]], piece: int
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows([("other", "id"), *rows])
    how = InputFormat("csv" if kind == "csv" else "tsv", "id")
    assert await all_of(text.getvalue().encode(), how, piece) == [group_id.strip() for _, group_id in rows]


async def test_a_row_that_is_too_short_has_an_empty_id() -> None:
    assert await all_of(b"a,id\n1,g1\n2\n", InputFormat("csv", "id")) == ["g1", ""]


@given(
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
    form=st.tuples(st.booleans(), st.booleans()),
    piece=st.integers(1, 50),
)
async def test_a_field_comes_out_of_what_the_json_module_writes(
    names: list[str], form: tuple[bool, bool], piece: int
) -> None:
    plain, ascii_only = form
    lines = [json.dumps(name if plain else {"x": 1, "id": name}, ensure_ascii=ascii_only) for name in names]
    assert await all_of("\n\n".join(lines).encode(), InputFormat("jsonl", "id"), piece) == names


async def test_a_whole_number_in_json_is_an_id() -> None:
    assert await all_of(b'{"id": 17}\n18\n', InputFormat("jsonl", "id")) == ["17", "18"]


@pytest.mark.parametrize(
    ("content", "how", "words"),
    [
        (b"g1\ng2\n\xff\xfe\n", TEXT, "ids, line 3: not UTF-8 (byte 0xff)"),
        (b"x" * (MAX_LINE + 9), TEXT, "line 1: longer than"),
        (b"a,b\n1,2\n", InputFormat("csv", "id"), "ids has no column 'id'; it has 'a', 'b'; choose one with --column"),
        (b"", InputFormat("csv", "id"), "ids is empty; it needs a header line"),
        (b'id,b\ng1,"open\n', InputFormat("csv", "id"), "line 2: unexpected end of data"),
        (b'id,b\ng1,"open\n' + b"more\n" * MAX_LINE, InputFormat("csv", "id"), "line 2: a quote is opened"),
        (b'{"id":"g1"}\n{"id":', InputFormat("jsonl", "id"), "line 2: not JSON"),
        (b'{"a":1}', InputFormat("jsonl", "id"), "line 1: no field 'id'; it has 'a'"),
        (b"{}", InputFormat("jsonl", "id"), "line 1: no field 'id'"),
        (b'{"id":true}', InputFormat("jsonl", "id"), "line 1: the ID is neither text nor a whole number"),
    ],
)
async def test_what_cannot_be_read_is_told_with_its_line(content: bytes, how: InputFormat, words: str) -> None:
    with pytest.raises(SourceError, match=r"^ids") as raised:
        await all_of(content, how, 65536)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("suffix", "column", "field", "expected"),
    [
        (".txt", None, None, InputFormat("text", "group_id")),
        ("", None, None, InputFormat("text", "group_id")),
        (".csv", None, None, InputFormat("csv", "group_id")),
        (".tsv", "id", None, InputFormat("tsv", "id")),
        ("", "id", None, InputFormat("csv", "id")),
        (".jsonl", None, None, InputFormat("jsonl", "group_id")),
        ("", None, "id", InputFormat("jsonl", "id")),
    ],
)
def test_the_name_of_a_file_tells_how_to_read_it(
    suffix: str, column: str | None, field: str | None, expected: InputFormat
) -> None:
    assert input_format(suffix, column=column, field=field) == expected


def test_a_column_and_a_field_at_once_are_refused() -> None:
    with pytest.raises(SourceError, match="not both"):
        input_format(".csv", column="a", field="b")


async def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot read .*nowhere.txt: No such file"):
        await records_of(file_source(tmp_path / "nowhere.txt"))


async def test_iterables_of_both_kinds_are_sources() -> None:
    async def later() -> AsyncIterator[str]:
        yield "g1"
        yield "g2"

    assert await records_of(IterableSource([str(number) for number in range(250)])) == list(map(str, range(250)))
    assert await records_of(IterableSource(later())) == ["g1", "g2"]


@pytest.mark.parametrize("wrong", [5, b"g1", None, "\ud800"])
async def test_what_is_no_text_is_no_id(wrong: object) -> None:
    with pytest.raises(SourceError, match="so it is no group ID"):
        await scan(IterableSource(["g1", wrong]))  # type: ignore[list-item]


async def test_a_file_that_can_be_read_twice_has_the_same_digest_twice(tmp_path: Path) -> None:
    source = file_source(written(tmp_path / "ids.txt", *map(str, range(1234))))
    assert await scan(source) == await scan(source)
    assert (await scan(source))[0] == 1234


@given(names=st.lists(st.text("abc", max_size=3)), done=st.integers(0, 400))
async def test_blocks_have_each_distinct_id_once_wherever_a_run_goes_on(names: list[str], done: int) -> None:
    whole = [block async for block in read_blocks(IterableSource(names), done=0, digest="")]
    assert [group_id for block in whole for group_id in block.group_ids] == list(dict.fromkeys(names))
    assert sum(block.records for block in whole) == len(names)
    before = whole[: done % (len(whole) + 1)]
    if before:
        records = sum(block.records for block in before)
        rest = [block async for block in read_blocks(IterableSource(names), done=records, digest=before[-1].digest)]
        assert [b.group_ids for b in before] + [b.group_ids for b in rest] == [b.group_ids for b in whole]
        assert [b.digest for b in rest] == [b.digest for b in whole[len(before) :]]


async def test_another_beginning_of_the_input_is_noticed() -> None:
    names = [f"g{number}" for number in range(300)]
    [first, *_] = [block async for block in read_blocks(IterableSource(names), done=0, digest="")]
    for other in (["x", *names], names[:50], [*names[:99], "changed", *names[100:]]):
        with pytest.raises(ResumeError, match="not the input"):
            [block async for block in read_blocks(IterableSource(other), done=first.records, digest=first.digest)]


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"])))))
@example([["", "\0", "a\0b", "a\0c", "a\0b"], ["a\0c", "z"]])
def test_seen_ids_are_those_of_a_set(lists: list[list[str]]) -> None:
    known: dict[str, None] = {}
    with SeenIds() as seen:
        for some in lists:
            new = [group_id for group_id in dict.fromkeys(some) if group_id not in known]
            assert seen.add(some) == new
            known.update(dict.fromkeys(new))
