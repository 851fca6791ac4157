"""``sync`` with the inputs and outputs that people have."""

import asyncio
import gzip
import json
import os
import select
import signal
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from support.bulk_jobs import files_in, ids, names_in, sync, until, written
from support.command_process import started

from rongcloud_groups.emulator import Emulator, Faults, Universe


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(limit=None, universe=Universe(unknown_share=0)) as emulator:
        yield emulator


async def test_all_rows_reach_a_slow_reader_of_a_pipe_that_does_not_block(
    variables: dict[str, str], here: Path
) -> None:
    written(here / "ids.txt", *ids(2000))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    process = await started("sync", "ids.txt", "-o", "-", env=variables, here=here, stdout=writing)
    os.close(writing)
    rows = bytearray()
    while piece := await asyncio.to_thread(os.read, reading, 3000):
        rows += piece
    os.close(reading)
    assert await process.wait() == 0
    assert [json.loads(line)["group_id"] for line in rows.splitlines()] == ids(2000)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ids.json", b'{"group_id":"g1"}\n'),
        ("ids.json", b'[{"group_id":"g1"}]'),
        ("ids.tsv", b'group_id\tn\ng1\t"Tea\n'),
        ("ids.csv", b'n,group_id\n5" pipe,g1\n,\n'),
        ("ids.csv.gz", gzip.compress(b"group_id\ng1\n", mtime=0)),
        ("ids.txt", b"g1\r"),
    ],
    ids=["line", "array", "tsv", "csv", "gzip", "carriage return"],
)
async def test_the_ids_of_a_file_are_found_in_its_format(
    name: str, content: bytes, variables: dict[str, str], here: Path
) -> None:
    (here / name).write_bytes(content)
    ended = await sync(name, "-o", "out.jsonl", env=variables, here=here)
    assert ended.code == 0, ended.stderr
    assert names_in(here / "out.jsonl") == ["g1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ids.xlsx", "-o", "out.jsonl"], "save the sheet as CSV"),
        (["ids", "-o", "out.jsonl"], "this is JSON, not an ID a line"),
        (["ids.txt", "-o", "s3://bucket/out.jsonl"], "is a URL, and only files can be written; write to stdout"),
        (["ids.txt", "-o", "postgres://host/db"], "is a URL"),
        (["ids.txt", "-o", ""], "the output's name is empty"),
        (["ids.txt", "-o", ":memory:", "--format", "sqlite"], ":memory: is no file"),
        (["ids.txt", "-o", f"{'x' * 243}.jsonl"], "is too long for the files beside it; give one of at most"),
        (["ids.txt", "-o", "mine.jsonl"], "mine.jsonl exists and does not look like an output of this command"),
        (["ids.txt", "-o", "mine.csv"], "use --force to replace it"),
        (["ids.txt", "-o", "mine.parquet"], "use --force to replace it"),
        (["ids.txt", "-o", "mine.db"], "not a database"),
        (["ids.txt", "-o", "read-only.jsonl"], "it is read-only"),
        (["ids.txt", "-o", "no-key.db"], "of another kind: ON CONFLICT clause does not match"),
        (["ids.txt", "-o", "number.db"], "of another kind: the column 'group_id' does not keep texts"),
        (["empty.txt", "-o", "out.jsonl"], "empty.txt has no IDs; the output is left as it is (--allow-empty"),
        (["-", "-o", "out.jsonl"], "stdin has no IDs; the output is left as it is (--allow-empty"),
    ],
)
async def test_an_input_or_output_that_cannot_be_is_refused_before_the_first_request(
    arguments: list[str], words: str, variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    written(here / "ids.txt", "g1")
    written(here / "ids", '{"group_id":"g1"}')
    (here / "ids.xlsx").write_bytes(b"PK")
    (here / "empty.txt").touch()
    for name in ("mine.jsonl", "mine.csv", "mine.parquet", "mine.db"):
        written(here / name, "my notes" * 100)
    written(here / "read-only.jsonl").chmod(0o444)
    await sync("ids.txt", "-o", "whole.db", env=variables, here=here)
    for name, of in (("no-key.db", "group_id TEXT"), ("number.db", "group_id NUMERIC PRIMARY KEY")):
        with closing(sqlite3.connect(here / "whole.db")) as whole, closing(sqlite3.connect(here / name)) as other:
            [statement] = whole.execute("SELECT sql FROM sqlite_master WHERE name = 'groups'").fetchone()
            other.execute(statement.replace("group_id TEXT PRIMARY KEY NOT NULL", of))
    before = {name: (here / name).read_bytes() for name in files_in(here)}
    emulator.reset()
    ended = await sync(*arguments, env=variables, here=here)
    assert ended.code == 2, ended.stderr
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert emulator.report().batch_requests == 0
    after = {name: (here / name).read_bytes() for name in files_in(here)}
    for name in ("no-key.db", "number.db"):
        before.pop(name)
        after.pop(name)
    assert after == before


async def test_an_output_that_no_run_wrote_is_replaced_by_force(variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", "g1")
    for name in ("out.jsonl", "out.csv", "out.parquet"):
        written(here / name, "my notes")
        assert (await sync("ids.txt", "-o", name, "--force", env=variables, here=here)).code == 0
        assert names_in(here / name) == ["g1"]
        assert (await sync("ids.txt", "-o", name, env=variables, here=here)).code == 0  # a run wrote this one


async def test_an_input_without_ids_replaces_an_output_only_if_asked(variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", "g1")
    for name in ("out.jsonl", "out.csv", "out.parquet", "out.db"):
        await sync("ids.txt", "-o", name, env=variables, here=here)
        assert (await sync("-", "-o", name, env=variables, here=here)).code == 2
        assert names_in(here / name) == ["g1"]
        other = await sync("ids.txt", "-o", name, env=variables, here=here)  # with another input, and not resumed
        assert (other.code, names_in(here / name)) == (0, ["g1"])
        assert (await sync("-", "-o", name, "--allow-empty", env=variables, here=here)).code == 0
        assert names_in(here / name) == (["g1"] if name == "out.db" else [])


async def test_missing_ids_are_listed_beside_the_output_and_for_stdout_on_request(
    variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    emulator.service.universe = Universe(only_explicit=True)
    emulator.service.universe.add("g1")
    written(here / "ids.txt", "gone", "g1", "no good", "away")
    for name in ("out.jsonl", "out.csv", "out.db", "out.parquet"):
        ended = await sync("ids.txt", "-o", name, "--report", "json", env=variables, here=here)
        assert json.loads(ended.stderr)["missing_file"] == f"{name}.missing.txt"
        assert (here / f"{name}.missing.txt").read_text() == "gone\naway\n"
    await sync("ids.txt", "-o", "-", "--missing", "list.txt", env=variables, here=here)
    assert (here / "list.txt").read_text() == "gone\naway\n"
    emulator.service.universe.add("gone")
    emulator.service.universe.add("away")
    await sync("ids.txt", "-o", "out.jsonl", env=variables, here=here)
    assert "out.jsonl.missing.txt" not in files_in(here)


async def test_a_group_that_was_dissolved_leaves_the_database_unless_its_row_is_kept(
    variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    universe = emulator.service.universe
    written(here / "ids.txt", "g1", "g2")
    await sync("ids.txt", "-o", "out.db", env=variables, here=here)
    emulator.service.universe = Universe(only_explicit=True)
    emulator.service.universe.add("g1")
    assert (await sync("ids.txt", "-o", "out.db", "--keep-missing", env=variables, here=here)).code == 0
    assert names_in(here / "out.db") == ["g1", "g2"]
    assert (await sync("ids.txt", "-o", "out.db", env=variables, here=here)).code == 0
    assert names_in(here / "out.db") == ["g1"]
    emulator.service.universe = universe
    with closing(sqlite3.connect(here / "out.db")) as database, database:
        database.execute("UPDATE _sync SET value = 'other-app' WHERE name = 'app_key'")
    ended = await sync("ids.txt", "-o", "out.db", env=variables, here=here)
    assert (ended.code, "groups of another App Key (other-app" in ended.stderr) == (2, True)
    assert (await sync("ids.txt", "-o", "out.db", "--force", env=variables, here=here)).code == 0


@pytest.mark.parametrize("how", ["signal", "--max-time"])
async def test_a_pipe_without_a_writer_is_left_by_a_signal_and_in_time(
    how: str, variables: dict[str, str], here: Path
) -> None:
    os.mkfifo(here / "pipe")
    arguments = ["--max-time", "0.2s"] if how == "--max-time" else []
    process = await started("sync", "pipe", "-o", "out.jsonl", *arguments, env=variables, here=here)
    if how == "signal":
        await until(lambda: "out.jsonl.partial" in files_in(here))
        process.send_signal(signal.SIGTERM)
    assert await process.wait() == (143 if how == "signal" else 5)


async def test_one_signal_ends_a_job_whose_requests_get_no_response(
    variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    written(here / "ids.txt", *ids(3000))
    emulator.service.faults = Faults(at=dict.fromkeys(range(5, 500), "hang"))
    process = await started("sync", "ids.txt", "-o", "out.jsonl", env=variables, here=here)
    await until(lambda: emulator.report().batch_requests > 5)
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()
    assert process.returncode == 130
    assert b"run the same command again to resume" in errors


async def test_a_reader_that_stops_reading_does_not_hold_up_a_signal(variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", *ids(3000))
    reading, writing = os.pipe()
    process = await started("sync", "ids.txt", "-o", "-", env=variables, here=here, stdout=writing)
    await until(lambda: not select.select([], [writing], [], 0)[1])  # it is full
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 130
    os.close(reading)
    os.close(writing)


async def test_mode_and_owner_of_an_output_are_kept(variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", "g1", "no good")
    for name in ("out.jsonl", "out.csv", "out.parquet", "out.db"):
        await sync("ids.txt", "-o", name, env=variables, here=here)
        (here / name).chmod(0o600)
        (here / f"{name}.failed.jsonl").unlink()
        if os.geteuid() == 0:
            os.chown(here / name, 1234, 1235)
        assert (await sync("ids.txt", "-o", name, env=variables, here=here)).code == 3
        for path in (here / name, here / f"{name}.failed.jsonl"):
            status = path.stat()
            assert stat.S_IMODE(status.st_mode) == 0o600
            if os.geteuid() == 0:
                assert (status.st_uid, status.st_gid) == (1234, 1235)


async def test_another_writer_of_a_database_is_waited_for(
    variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    written(here / "ids.txt", *ids(300))
    await sync("ids.txt", "-o", "out.db", env=variables, here=here)
    emulator.reset()
    with closing(sqlite3.connect(here / "out.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        process = await started("sync", "ids.txt", "-o", "out.db", env=variables, here=here)
        await asyncio.sleep(1)  # twice as long as a job once waited
        assert process.returncode is None
        other.execute("COMMIT")
        assert await process.wait() == 0


async def test_a_database_that_stays_locked_does_not_hold_up_a_signal(variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", "g1")
    await sync("ids.txt", "-o", "out.db", env=variables, here=here)
    with closing(sqlite3.connect(here / "out.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        process = await started("sync", "ids.txt", "-o", "out.db", env=variables, here=here)
        await until(lambda: "out.db.lock" in files_in(here))
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130


async def test_another_program_can_write_to_a_database_while_a_job_runs(
    variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    written(here / "ids.txt", *ids(3000))
    variables["RONGCLOUD_RATE"] = "20"
    process = await started("sync", "ids.txt", "-o", "out.db", env=variables, here=here)
    await until(lambda: emulator.report().batch_requests > 5)
    with closing(sqlite3.connect(here / "out.db", timeout=5)) as other:
        for number in range(10):
            with other:
                other.execute(f"CREATE TABLE mine{number} (n)")
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 143


async def test_csv_for_excel_has_a_byte_order_mark_and_no_formulas(
    variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    emulator.service.universe.add("odd", groupName='=HYPERLINK("x")', introduction="-1", memberCount=-1)
    written(here / "ids.txt", "odd")
    ended = await sync("ids.txt", "-o", "out.csv", "--format", "excel-csv", env=variables, here=here)
    assert ended.code == 0
    content = (here / "out.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbfgroup_id,")
    assert b'"\'=HYPERLINK(""x"")"' in content
    assert b",'-1," in content
