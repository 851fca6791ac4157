import asyncio
import gzip
import json
import os
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.bulk_jobs import until, written

from rongcloud_groups.bulk import (
    Checkpoint,
    InputFormat,
    IterableSource,
    ResumeError,
    SourceError,
    file_source,
    input_format,
)
from rongcloud_groups.bulk.input import Block, JobInput
from rongcloud_groups.bulk.seen_ids import SeenIds
from rongcloud_groups.bulk.sources.interface import Source


def read_blocks(source: Source, *, done: int, digest: str) -> AsyncGenerator[Block]:
    return JobInput(source, allow_empty=True).blocks(done=done, digest=digest)


async def records_of(source: Source) -> list[str]:
    return [group_id async for some in source.records() for group_id in some]


@pytest.mark.parametrize(
    ("suffix", "column", "field", "expected"),
    [
        (".txt", None, None, InputFormat("text", "group_id")),
        ("", None, None, InputFormat("text", "group_id")),
        (".csv", None, None, InputFormat("csv", "group_id")),
        (".tsv", "id", None, InputFormat("tsv", "id")),
        ("", "id", None, InputFormat("csv", "id")),
        (".jsonl", None, None, InputFormat("jsonl", "group_id")),
        (".json", None, "id", InputFormat("json", "id")),
        (".parquet", "id", None, InputFormat("parquet", "id")),
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


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ids.csv.gz", InputFormat("csv", "group_id", ".gz")),
        ("ids.gz", InputFormat("text", "group_id", ".gz")),
        ("ids.jsonl.zst", InputFormat("jsonl", "group_id", ".zst")),
        ("a.b.TSV", InputFormat("tsv", "group_id")),
    ],
)
def test_the_name_tells_the_compression(name: str, expected: InputFormat) -> None:
    assert file_source(name)._format == expected


@pytest.mark.parametrize("name", ["ids.xlsx", "ids.zip", "ids.db", "ids.avro", "ids.xml", "ids.csv.bz2"])
def test_a_file_that_cannot_be_read_is_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(SourceError, match=rf"cannot read {name}: .* files are not read; \w+"):
        file_source(name)


async def test_ids_come_out_of_files_of_all_kinds(tmp_path: Path) -> None:
    names = [f"g{number}" for number in range(3000)]
    table = pa.table({"n": list(range(3000)), "id": pa.array(names).dictionary_encode()})
    pq.write_table(table, tmp_path / "ids.parquet")
    text = "id,n\n" + "".join(f"{name},x\n" for name in names)
    (tmp_path / "ids.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "ids.json").write_text(json.dumps([{"id": name} for name in names]))
    assert await records_of(file_source(tmp_path / "ids.parquet", column="id")) == names
    assert await records_of(file_source(str(tmp_path / "ids.csv.gz"), column="id")) == names
    assert await records_of(file_source(tmp_path / "ids.json", field="id")) == names


@pytest.mark.skipif(sys.version_info < (3, 14), reason="Zstandard came with Python 3.14")
async def test_ids_come_out_of_zstandard(tmp_path: Path) -> None:  # pragma: no cover
    from compression import zstd  # type: ignore[import-not-found,unused-ignore]

    (tmp_path / "ids.txt.zst").write_bytes(zstd.compress(b"g1\ng2\n"))
    assert await records_of(file_source(tmp_path / "ids.txt.zst")) == ["g1", "g2"]


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Zstandard came with Python 3.14")
async def test_zstandard_without_python_3_14_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "ids.txt.zst").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"Zstandard needs Python 3\.14; unpack it"):
        await records_of(file_source(tmp_path / "ids.txt.zst"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ids.gz", b"no gzip"),
        ("ids.gz", gzip.compress(b"g1\n" * 1000)[:-20]),
        ("ids.gz", gzip.compress(bytes(range(256)) * 99)[:40] + b"damaged" * 99),
        ("ids.parquet", b"no Parquet"),
    ],
    ids=["no gzip", "cut", "damaged", "no Parquet"],
)
async def test_a_damaged_file_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=rf"cannot read .*{name}: |{name}, line 1: not UTF-8"):
        await records_of(file_source(tmp_path / name))


async def test_a_column_that_a_parquet_file_does_not_have_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["g1", None]}), tmp_path / "ids.parquet")
    with pytest.raises(SourceError, match="no column 'group_id'; choose one with --column"):
        await records_of(file_source(tmp_path / "ids.parquet"))
    assert await records_of(file_source(tmp_path / "ids.parquet", column="id")) == ["g1", ""]


@pytest.mark.parametrize("cells", [[1.0, None], [True], [datetime(2024, 1, 1, tzinfo=UTC)], [["g1"]]])
async def test_a_column_of_parquet_that_holds_no_ids_is_refused(cells: list[Any], tmp_path: Path) -> None:
    """An integer column with nulls is a float one in pandas, which has lost digits of long IDs."""
    pq.write_table(pa.table({"id": cells}), tmp_path / "ids.parquet")
    with pytest.raises(SourceError, match=r"'id' of .*; an ID is text or a whole number|cast from list"):
        await records_of(file_source(tmp_path / "ids.parquet", column="id"))


@pytest.mark.parametrize("wrong", ["g1", b"g1", 5, None])
def test_one_id_is_no_iterable_of_ids(wrong: Any) -> None:
    with pytest.raises(TypeError, match="give an iterable of group IDs, such as"):
        IterableSource(wrong)


async def test_ids_of_a_pipe_come_before_its_writer_has_ended(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    records = file_source(tmp_path / "pipe").records()
    first = asyncio.ensure_future(anext(records))
    writer = await asyncio.to_thread(os.open, tmp_path / "pipe", os.O_WRONLY)
    os.write(writer, b"g1\ng2\nhalf")
    assert await first == ["g1", "g2"]
    os.write(writer, b" an ID\n")
    os.close(writer)
    assert [ids async for ids in records] == [["half an ID"]]


async def test_a_pipe_without_a_writer_can_be_left(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    records = file_source(tmp_path / "pipe").records()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(records), 0.05)
    await records.aclose()
    await until(lambda: "group-ids" not in {thread.name for thread in threading.enumerate()})


async def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot read .*nowhere.txt: No such file"):
        await records_of(file_source(tmp_path / "nowhere.txt"))


async def test_iterables_of_both_kinds_are_sources() -> None:
    async def later() -> AsyncIterator[str]:
        yield "g1"
        yield "g2"

    assert await records_of(IterableSource([str(number) for number in range(250)])) == list(map(str, range(250)))
    assert await records_of(IterableSource(later())) == ["g1", "g2"]


@pytest.mark.parametrize("wrong", [5, b"g1", None, "\ud800"])
async def test_a_value_that_is_no_text_is_no_id(wrong: object) -> None:
    with pytest.raises(SourceError, match="so it is no group ID"):
        [block async for block in read_blocks(IterableSource(["g1", wrong]), done=0, digest="")]  # type: ignore[list-item]


async def test_a_file_that_can_be_read_twice_has_the_same_digest_twice(tmp_path: Path) -> None:
    source = file_source(written(tmp_path / "ids.txt", *map(str, range(1234))))
    first, second = (JobInput(source, allow_empty=False) for _ in range(2))
    await first.scan(None)
    await second.scan(Checkpoint(kind=source.kind, total=1234, fingerprint=first.fingerprint))
    assert first.fingerprint == second.fingerprint
    assert first.total == 1234
    with pytest.raises(ResumeError, match="not the input"):
        await JobInput(source, allow_empty=False).scan(Checkpoint(kind=source.kind, total=1234, fingerprint="another"))


@given(names=st.lists(st.text("abc", max_size=3)), done=st.integers(0, 400))
async def test_blocks_have_each_distinct_id_once_wherever_a_run_resumes(names: list[str], done: int) -> None:
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
    with closing(SeenIds()) as seen:
        for some in lists:
            new = [group_id for group_id in dict.fromkeys(some) if group_id not in known]
            assert seen.add(some) == new
            known.update(dict.fromkeys(new))
