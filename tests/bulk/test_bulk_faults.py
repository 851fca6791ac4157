"""A job that is misused, stopped, or has an environment that lacks something."""

import asyncio
import errno
import os
import select
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from support.bulk_jobs import OUTPUTS, client_of, failures_in, files_in, ids, job_of, names_in, rows_in, until, written
from support.command_line import run_python

from rongcloud_groups import ConfigError, GroupClient
from rongcloud_groups._tables.rows import COLUMNS
from rongcloud_groups.bulk import (
    FailedIdsFile,
    IterableSource,
    Job,
    MissingIdsFile,
    OutputLost,
    SourceError,
    file_source,
    files,
    open_sink,
)
from rongcloud_groups.bulk.files import OutputLock
from rongcloud_groups.emulator import Emulator, Faults, Universe


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(limit=None, universe=Universe(unknown_share=0)) as emulator:
        yield emulator


@pytest.mark.parametrize("name", OUTPUTS)
async def test_a_job_runs_once(name: str, client: GroupClient, tmp_path: Path) -> None:
    job = job_of(client, IterableSource(["g1"]), tmp_path / name)
    assert repr(job) == f"<Job the IDs -> {tmp_path / name}: new, 0 records, 0 open IDs>"
    assert (await job.run()).complete
    with pytest.raises(RuntimeError, match="a Job runs once; make another one"):
        await job.run()
    assert names_in(tmp_path / name) == ["g1"]
    assert repr(job) == f"<Job the IDs -> {tmp_path / name}: ended, 1 records, 0 open IDs>"


async def test_a_job_that_failed_or_was_stopped_runs_once_too(client: GroupClient, tmp_path: Path) -> None:
    failed = job_of(client, file_source(tmp_path / "absent.txt"), tmp_path / "out.jsonl")
    with pytest.raises(SourceError):
        await failed.run()
    stopped = job_of(client, IterableSource(["g1"]), tmp_path / "out.jsonl")
    stopped.stop()
    assert not (await stopped.run()).complete
    for job in (failed, stopped):
        with pytest.raises(RuntimeError, match="runs once"):
            await job.run()
    assert not client.stats().requests


async def test_the_list_of_failed_ids_has_the_attempts_that_its_client_makes(
    emulator: Emulator, tmp_path: Path
) -> None:
    emulator.service.faults = Faults(poison={"x1"})
    async with client_of(emulator, max_attempts=1) as client:
        await job_of(client, IterableSource(ids(3)), tmp_path / "a.jsonl").run()

        async def names() -> AsyncIterator[str]:
            for group_id in ids(100):
                yield group_id
            await until(lambda: client.stats().found >= 99)
            emulator.service.faults = Faults(share={"garbage": 1.0})
            yield "y1"

        await job_of(client, IterableSource(names()), tmp_path / "b.jsonl").run()
    assert failures_in(tmp_path / "b.jsonl")[-1]["group_id"] == "y1"
    assert failures_in(tmp_path / "b.jsonl")[-1]["attempts"] == 1


async def test_a_scan_of_a_long_file_shows_how_far_it_is_and_can_be_stopped(
    client: GroupClient, tmp_path: Path
) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("".join(f"g{number}\n" for number in range(400_000)))
    job = job_of(client, file_source(path), tmp_path / "out.jsonl")
    running = asyncio.create_task(job.run())
    await until(lambda: job.progress().scanned)
    job.stop()
    report = await running
    assert not report.complete
    assert 0 < (job.progress().scanned or 0) < 400_000
    assert not client.stats().requests
    assert files_in(tmp_path) == ["ids.txt"]


@pytest.mark.parametrize("name", OUTPUTS)
async def test_a_stopped_job_abandons_requests_without_a_response(
    name: str, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.service.faults = Faults(at=dict.fromkeys(range(9, 900), "hang"))
    async with client_of(emulator, rate=300) as client:
        job = job_of(client, IterableSource(ids(3000)), tmp_path / name)
        running = asyncio.create_task(job.run())
        await until(lambda: job.progress().counts.records)
        job.stop()
        stopped = await running
        assert not stopped.complete
        emulator.service.faults = Faults()
        report = await job_of(client, IterableSource(ids(3000)), tmp_path / name).run()
    assert report.resumed_from == stopped.counts.records > 0
    assert names_in(tmp_path / name) == ids(3000)


async def test_a_stopped_job_abandons_a_reader_that_does_not_read(
    client: GroupClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as stdout, os.fdopen(reading, "rb"):
        monkeypatch.setattr(sys, "stdout", stdout)
        job = Job(client, IterableSource(ids(3000)), open_sink(None), FailedIdsFile(tmp_path / "out"))
        running = asyncio.create_task(job.run())
        await until(lambda: not select.select([], [stdout], [], 0)[1])
        job.stop()
        assert not (await running).complete


async def test_a_stopped_job_abandons_a_database_that_is_locked(client: GroupClient, tmp_path: Path) -> None:
    output = tmp_path / "out.db"
    with closing(sqlite3.connect(output, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        job = job_of(client, IterableSource(ids(3000)), output)
        running = asyncio.create_task(job.run())
        await until(lambda: "out.db.lock" in files_in(tmp_path))
        job.stop()
        assert not (await running).complete
    assert not client.stats().requests


@pytest.mark.parametrize("name", OUTPUTS)
async def test_an_output_in_a_directory_that_cannot_be_synced_is_written(
    name: str, client: GroupClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync
    refused: list[int] = []

    def of_a_network(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            refused.append(descriptor)
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", of_a_network)
    assert (await job_of(client, IterableSource(ids(100)), tmp_path / name).run()).complete
    assert refused
    assert names_in(tmp_path / name) == ids(100)


async def test_another_error_of_fsync_ends_the_job(
    client: GroupClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        await job_of(client, IterableSource(ids(100)), tmp_path / "out.jsonl").run()


async def test_a_system_without_file_locks_writes_to_stdout_alone(
    client: GroupClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(files, "fcntl", None)
    with pytest.raises(ConfigError, match="needs a POSIX system"):
        await job_of(client, IterableSource(["g1"]), tmp_path / "out.jsonl").run()
    job = Job(client, IterableSource(["g1"]), open_sink(None), FailedIdsFile(tmp_path / "out.jsonl"))
    assert (await job.run()).complete
    assert capfdbinary.readouterr().out.startswith(b'{"group_id":"g1"')


def test_the_package_is_imported_without_file_locks() -> None:
    code = "import sys; sys.modules['fcntl'] = None; import rongcloud_groups.bulk"
    assert run_python(code, env=os.environ) == (0, "", "")


async def test_times_have_milliseconds_always(client: GroupClient, emulator: Emulator, tmp_path: Path) -> None:
    for number, time in enumerate([1_700_000_000_000, 1_700_000_000_001, 1]):
        emulator.service.universe.add(f"t{number}", createTime=time)
    expected = ["2023-11-14T22:13:20.000Z", "2023-11-14T22:13:20.001Z", "1970-01-01T00:00:00.001Z"]
    for name in ("out.jsonl", "out.csv", "out.db"):
        await job_of(client, IterableSource(["t0", "t1", "t2"]), tmp_path / name).run()
    with closing(sqlite3.connect(tmp_path / "out.db")) as database:
        assert [row[0] for row in database.execute("SELECT create_time FROM groups")] == expected
    for name in ("out.jsonl", "out.csv"):
        lines = (tmp_path / name).read_text().splitlines()[-3:]
        assert [time in line for time, line in zip(expected, lines, strict=True)] == [True] * 3


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.db"])
async def test_times_of_an_older_output_that_is_added_to_get_milliseconds(
    name: str, client: GroupClient, emulator: Emulator, tmp_path: Path
) -> None:
    text = 'see "create_time":"2023-11-14T22:13:20Z", please'
    emulator.service.universe.add("t0", createTime=1_700_000_000_000, groupName=text, introduction=text)
    emulator.service.universe.add("t1", createTime=1_700_000_000_250)
    output = tmp_path / name
    await job_of(client, IterableSource(["t0", "t1"]), output).run()
    before = rows_in(output)
    if name == "out.db":
        with closing(sqlite3.connect(output)) as database, database:
            for new, old in ((".000Z", "Z"), (".250Z", ".250000Z")):
                database.execute("UPDATE groups SET create_time = replace(create_time, ?, ?)", (new, old))
    else:
        output.write_text(output.read_text().replace(":20.000Z", ":20Z").replace(".250Z", ".250000Z"))
    await job_of(client, IterableSource(["g1"]), output, keep=True).run()
    assert rows_in(output)[:2] == before
    assert names_in(output) == ["t0", "t1", "g1"]


async def test_csv_tells_an_empty_text_from_an_absent_value(
    client: GroupClient, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.service.universe.add("odd", groupName="")
    for _ in range(2):  # and still does when rows are added
        await job_of(client, IterableSource(["odd"]), tmp_path / "out.csv", keep=True).run()
    header, *rows = (tmp_path / "out.csv").read_text().splitlines()
    assert header == ",".join(COLUMNS)
    assert [row[:8] for row in rows] == ['odd,"",,', 'odd,"",,']


async def test_stdin_and_names_may_be_text(client: GroupClient, tmp_path: Path) -> None:
    output = str(tmp_path / "out.jsonl")
    source = file_source(str(written(tmp_path / "ids.txt", "g1")))
    assert (await Job(client, source, open_sink(output), FailedIdsFile(output)).run()).complete
    assert names_in(Path(output)) == ["g1"]


def removed(output: Path, suffix: str) -> None:
    Path(f"{output}{suffix}").unlink()


def replaced(output: Path, suffix: str) -> None:
    other = written(output.with_name("other"), "another file")
    other.replace(f"{output}{suffix}")


@pytest.mark.parametrize("done_to_it", [removed, replaced])
@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("out.jsonl", ".partial"),
        ("out.csv", ".partial"),
        ("out.parquet", ".partial"),
        ("out.db", ""),
        ("out.jsonl", ".lock"),
        ("out.jsonl", ".missing.txt.partial"),
    ],
)
async def test_a_job_whose_output_is_removed_while_it_runs_ends_with_output_lost(
    name: str, suffix: str, done_to_it: Callable[[Path, str], None], client: GroupClient, tmp_path: Path
) -> None:
    output = tmp_path / name
    removable = asyncio.Event()

    async def names() -> AsyncIterator[str]:
        for group_id in ids(300):
            yield group_id
        await removable.wait()
        yield "last"

    job = job_of(client, IterableSource(names()), output, missing=MissingIdsFile.beside(output))
    running = asyncio.create_task(job.run())
    await until(lambda: job.progress().counts.records)
    done_to_it(output, suffix)
    removable.set()
    with pytest.raises(OutputLost, match=rf"{name}{suffix} was removed or replaced"):
        await running


async def test_a_lock_of_another_run_outlives_one_that_was_removed(client: GroupClient, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with OutputLock(output):
        removed(output, ".lock")
        with OutputLock(output):
            pass
        other = OutputLock(output)
        other.__enter__()
    assert files_in(tmp_path) == ["out.jsonl.lock"]
    with pytest.raises(ConfigError, match="another process is writing"):
        await job_of(client, IterableSource(["g1"]), output).run()
    other.__exit__()


async def test_a_file_system_without_locks_is_warned_of_and_written_to(
    client: GroupClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refused)  # type: ignore[attr-defined]
    assert (await job_of(client, IterableSource(["g1"]), tmp_path / "out.jsonl").run()).complete
    assert "take care that no other run writes" in caplog.text
    assert files_in(tmp_path) == ["out.jsonl"]


async def test_an_unexpected_error_of_an_output_is_raised_as_it_is(
    client: GroupClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(client, IterableSource(ids(300)), tmp_path / "out.jsonl")

    def too_large(_: Sequence[Any]) -> None:
        raise MemoryError

    monkeypatch.setattr(job._sink, "write", too_large)
    with pytest.raises(MemoryError):
        await job.run()
