import json
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from support.bulk_jobs import OUTPUTS, client_of, files_in, ids, job_of, names_in, rows_in, until, written

from rongcloud_groups import ConfigError, GroupClient, GroupProfile
from rongcloud_groups._tables.arrow import SCHEMA
from rongcloud_groups._tables.output import WriteCancelled
from rongcloud_groups.bulk import (
    COLUMNS,
    Checkpoint,
    FailedIdsPrinter,
    Failure,
    IterableSource,
    Job,
    file_source,
    open_sink,
)
from rongcloud_groups.emulator import Emulator

ALL_TEXT = pa.table({column: ["many"] for column in COLUMNS})


NO_GROUP_ID = pa.table({field.name: pa.array([None], field.type) for field in SCHEMA})


async def test_absent_and_unusual_fields_of_a_profile_come_through(
    client: GroupClient, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.service.universe.add("bare", memberCount=0)
    emulator.service.universe.add("odd", groupName='a "b",\n c', createTime=1700000000001, memberCount="x", strange=[1])
    for name in OUTPUTS[:3]:
        await job_of(client, IterableSource(["bare", "odd"]), tmp_path / name).run()
    [bare, odd] = rows_in(tmp_path / "out.jsonl")
    assert bare[:5] == ("bare", None, None, None, 0)
    assert odd[1] == 'a "b",\n c'
    assert odd[3] == datetime(2023, 11, 14, 22, 13, 20, 1000, UTC)
    assert json.loads(odd[10])[0]["field"] == "memberCount"
    assert json.loads(odd[11]) == {"strange": [1]}
    assert rows_in(tmp_path / "out.db") == [bare, odd]
    await job_of(client, IterableSource(["bare"]), tmp_path / "out.parquet").run()
    assert pq.read_table(tmp_path / "out.parquet").to_pylist()[0]["create_time"] is None


async def test_a_parquet_file_says_its_schema(client: GroupClient, tmp_path: Path) -> None:
    await job_of(client, IterableSource([]), tmp_path / "out.parquet", allow_empty=True).run()
    assert pq.read_schema(tmp_path / "out.parquet").equals(SCHEMA, check_metadata=True)
    assert SCHEMA.metadata == {b"rongcloud_groups.row_schema_version": b"1"}


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
async def test_rows_are_added_to_an_output_without_its_last_line_end(
    name: str, client: GroupClient, tmp_path: Path
) -> None:
    output = tmp_path / name
    await job_of(client, IterableSource(["x1"]), output).run()
    output.write_bytes(output.read_bytes().rstrip(b"\n"))
    await job_of(client, IterableSource(["x3"]), output, keep=True).run()
    assert names_in(output) == ["x1", "x3"]


@pytest.mark.parametrize("other", [None, pa.table({"a": [1]}), ALL_TEXT, NO_GROUP_ID])
async def test_rows_are_not_added_to_what_is_no_such_parquet_file(
    other: Any, client: GroupClient, tmp_path: Path
) -> None:
    output = tmp_path / "out.parquet"
    if other is None:
        output.write_bytes(b"no Parquet")
    else:
        pq.write_table(other, output)
    before = output.read_bytes()
    with pytest.raises(ConfigError, match=r"cannot add to .*out\.parquet"):
        await job_of(client, IterableSource(["x3"]), output, keep=True).run()
    assert output.read_bytes() == before
    assert files_in(tmp_path) == ["out.parquet"]


@pytest.mark.parametrize("name", OUTPUTS)
async def test_line_ends_and_quotes_within_a_text_stay_within_it(
    name: str, client: GroupClient, emulator: Emulator, tmp_path: Path
) -> None:
    odd = ["a\rb", "a\nb", "a\r\nb", '"', ",", "\r"]
    for number, group_name in enumerate(odd):
        emulator.service.universe.add(f"odd{number}", groupName=group_name)
    await job_of(client, IterableSource(f"odd{number}" for number in range(len(odd))), tmp_path / name).run()
    assert [row[1] for row in rows_in(tmp_path / name)] == odd


@pytest.mark.parametrize("name", OUTPUTS)
async def test_a_count_of_members_that_no_column_can_hold_is_a_problem_of_its_profile(
    name: str, client: GroupClient, emulator: Emulator, tmp_path: Path
) -> None:
    for group_id, count in (("most", 2**63 - 1), ("more", 2**63)):
        emulator.service.universe.add(group_id, memberCount=count)
    await job_of(client, IterableSource(["most", "more"]), tmp_path / name).run()
    most, more = rows_in(tmp_path / name)
    assert most[4] == 2**63 - 1
    assert more[4] is None
    assert "over 64 bits" in more[COLUMNS.index("problems")]


@pytest.mark.parametrize("name", OUTPUTS)
async def test_an_output_that_cannot_be_written_is_refused_before_the_first_request(
    name: str, client: GroupClient, tmp_path: Path
) -> None:
    (tmp_path / name).mkdir()
    for output in (tmp_path / "nowhere" / name, tmp_path / name):
        with pytest.raises(ConfigError, match=r"cannot (write|read)"):
            await job_of(client, IterableSource(ids(10)), output).run()
    assert client.stats().requests == 0


async def test_a_parquet_file_that_could_not_be_put_together_is_by_the_next_run(
    client: GroupClient, tmp_path: Path
) -> None:
    source = file_source(written(tmp_path / "ids.txt", *ids(2000)))
    output = tmp_path / "out.parquet"
    in_the_way = tmp_path / "out.parquet.new"
    in_the_way.mkdir()
    with pytest.raises(OSError, match=r"out\.parquet\.new"):
        await job_of(client, source, output).run()
    in_the_way.rmdir()
    requests = client.stats().requests
    assert (await job_of(client, source, output).run()).complete
    assert client.stats().requests == requests
    assert names_in(output) == list((await client.get_many(ids(2000))).found)
    assert files_in(tmp_path) == ["ids.txt", "out.parquet"]


async def test_a_parquet_file_that_is_put_together_can_be_left_and_is_by_the_next_run(
    client: GroupClient, tmp_path: Path
) -> None:
    output = tmp_path / "out.parquet"
    sink = open_sink(output)
    profile = await client.get("g1")
    assert profile is not None
    sink.begin(None, keep=False)
    sink.write([sink.encode(profile)] * 100)
    sink.commit(Checkpoint(kind="iterable", complete=True))
    sink.cancel()
    with pytest.raises(WriteCancelled):
        sink.publish()
    assert not output.exists()
    again = open_sink(output)
    assert again.load() is not None
    again.publish()
    assert len(names_in(output)) == 100


async def test_the_row_groups_of_parquet_have_10000_rows(client: GroupClient, tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "out.parquet")
    profile = await client.get("g1")
    assert profile is not None
    sink.begin(None, keep=False)
    for count in (15_000, 7_000, 30_000, 3):
        sink.write([sink.encode(profile)] * count)
        sink.commit(Checkpoint(kind="iterable", fingerprint=None, digest=""))
    sink.publish()
    file = pq.ParquetFile(tmp_path / "out.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [10_000] * 5 + [2_003]


async def test_a_database_keeps_other_rows_and_updates_those_that_come_again(
    client: GroupClient, emulator: Emulator, tmp_path: Path
) -> None:
    output = tmp_path / "out.db"
    emulator.service.universe.add("a", groupName="before")
    emulator.service.universe.add("b", groupName="stays")
    await job_of(client, IterableSource(["a", "b"]), output).run()
    emulator.service.universe.add("a", groupName="after")
    await job_of(client, IterableSource(["a"]), output).run()
    assert [row[:2] for row in rows_in(output)] == [("a", "after"), ("b", "stays")]
    with closing(sqlite3.connect(output)) as database:
        assert database.execute("SELECT * FROM _sync").fetchall() == [
            ("row_schema_version", "1"),
            ("app_key", emulator.app_key),
        ]
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)


async def test_a_database_can_be_read_while_the_job_runs(emulator: Emulator, tmp_path: Path) -> None:
    output = tmp_path / "out.db"
    seen: list[int] = []

    async def names() -> AsyncIterator[str]:
        for group_id in ids(2000):
            yield group_id
        await until(counted)
        seen.append(counted())
        for group_id in ids(200, "y"):
            yield group_id

    reader = sqlite3.connect(output)

    def counted() -> int:
        try:
            return int(reader.execute("SELECT count(*) FROM groups").fetchone()[0])
        except sqlite3.OperationalError:
            return 0

    async with client_of(emulator, rate=100) as client:
        await job_of(client, IterableSource(names()), output).run()
    assert 0 < seen[0] < 2200
    reader.close()


async def test_a_table_of_another_kind_is_refused(client: GroupClient, tmp_path: Path) -> None:
    output = tmp_path / "out.db"
    with closing(sqlite3.connect(output)) as database:
        database.execute("CREATE TABLE groups (group_id TEXT PRIMARY KEY)")
    with pytest.raises(ConfigError, match="of another kind: it has no column 'group_name'"):
        await job_of(client, IterableSource(["a"]), output).run()


async def test_a_file_that_is_no_database_is_refused(client: GroupClient, tmp_path: Path) -> None:
    output = written(tmp_path / "out.db", "this is text and no database, " * 200)
    with pytest.raises(ConfigError, match="not a database"):
        await job_of(client, IterableSource(["a"]), output).run()


async def test_stdout_takes_rows_and_failures_are_shown(
    client: GroupClient, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    shown: list[Failure] = []
    for file_format in ("jsonl", "csv"):
        job = Job(
            client, IterableSource(["x1", "no good"]), open_sink(None, file_format), FailedIdsPrinter(shown.append)
        )
        assert (await job.run()).complete
    rows = capfdbinary.readouterr().out.splitlines()
    assert msgspec.json.decode(rows[0], type=GroupProfile) == await client.get("x1")
    assert rows[1].decode().split(",") == list(COLUMNS)
    assert [(failure.group_id, failure.error) for failure in shown] == [("no good", "InvalidGroupId")] * 2


@pytest.mark.parametrize(
    ("path", "file_format", "words"),
    [
        (Path("x.xyz"), None, "does not tell a format"),
        (None, "sqlite", "cannot go to stdout"),
        (None, "parquet", "cannot go to stdout"),
    ],
)
def test_an_output_without_a_format_is_refused(path: Path | None, file_format: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_sink(path, file_format)


def test_parquet_without_its_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rongcloud_groups.bulk.sinks.parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"rongcloud-groups\[parquet\]"):
        open_sink(Path("x.parquet"))
