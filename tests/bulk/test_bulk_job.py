import asyncio
import json
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import pytest_asyncio
from support.bulk_jobs import client_of, failures_in, files_in, ids, job_of, names_in, rows_in, until, written

from rongcloud_groups import AuthenticationError, ConfigError, GroupClient, GroupProfile
from rongcloud_groups._tables.arrow import SCHEMA
from rongcloud_groups._tables.rows import flat_row
from rongcloud_groups.bulk import (
    COLUMNS,
    Checkpoint,
    Counts,
    FailedIdsFile,
    FailedIdsPrinter,
    Failure,
    IterableSource,
    Job,
    ListingSource,
    OutputError,
    ResumeError,
    ServiceUnavailable,
    Source,
    SourceError,
    file_source,
    open_sink,
)
from rongcloud_groups.bulk.blocks import InputScan
from rongcloud_groups.bulk.files import PartialFile
from rongcloud_groups.bulk.output import JobOutput
from rongcloud_groups.emulator import Emulator, Faults, Universe
from rongcloud_groups.events import Event

ALL_TEXT = pa.table({column: ["many"] for column in COLUMNS})
NO_GROUP_ID = pa.table({field.name: pa.array([None], field.type) for field in SCHEMA})
OUTPUTS = ("out.jsonl", "out.csv", "out.db", "out.parquet")


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(limit=None, universe=Universe(listed=2500)) as emulator:
        yield emulator


@pytest_asyncio.fixture
async def client(emulator: Emulator) -> AsyncIterator[GroupClient]:
    async with client_of(emulator) as client:
        yield client


@pytest.mark.parametrize("name", OUTPUTS)
async def test_each_distinct_id_is_one_row_in_the_order_of_the_input(
    name: str, client: GroupClient, emulator: Emulator, tmp_path: Path
) -> None:
    asked = [*ids(700), *ids(300), "no good", *ids(900)]
    output = tmp_path / name
    report = await job_of(client, file_source(written(tmp_path / "ids.txt", *asked)), output).run()
    known = [group_id for group_id in ids(900) if emulator.service.universe.knows(group_id)]
    assert names_in(output) == known
    assert report.complete
    assert report.counts == Counts(1901, 1000, len(known), 900 - len(known), 1)
    [failed] = failures_in(output)
    assert (failed["group_id"], failed["error"], failed["code"]) == ("no good", "InvalidGroupId", None)
    assert failed["attempts"] == 0
    assert files_in(tmp_path) == sorted(["ids.txt", name, f"{name}.failed.jsonl"])


async def test_the_rows_are_the_same_in_every_format(client: GroupClient, tmp_path: Path) -> None:
    for name in OUTPUTS:
        await job_of(client, IterableSource(ids(200)), tmp_path / name).run()
    found = (await client.get_many(ids(200))).found
    expected = [tuple(flat_row(profile)) for profile in found.values()]
    assert rows_in(tmp_path / "out.jsonl") == expected
    for name in OUTPUTS[1:]:
        assert rows_in(tmp_path / name) == [tuple(cell if cell != "" else None for cell in row) for row in expected]


async def test_what_is_absent_or_unusual_in_a_profile_comes_through(
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


class Interrupted:
    """Gives IDs, and stops its job after some of them."""

    def __init__(self, names: list[str], stop_after: int) -> None:
        self.names = names
        self.stop_after = stop_after
        self.job: Job | None = None

    def __iter__(self) -> Iterator[str]:
        for number, group_id in enumerate(self.names):
            if number == self.stop_after and self.job is not None:
                self.job.stop()
            yield group_id


async def run_until(client: GroupClient, output: Path, names: list[str], stop_after: int) -> Job:
    source = Interrupted(names, stop_after)
    job = source.job = job_of(client, IterableSource(source), output)
    report = await job.run()
    assert not report.complete
    return job


@pytest.mark.parametrize("name", OUTPUTS)
async def test_a_stopped_job_resumes_and_ends_as_an_undisturbed_one(
    name: str, client: GroupClient, tmp_path: Path
) -> None:
    names = [*ids(1500), *ids(500), "no good", *ids(2500), "bad,too"]
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    expected = await job_of(client, IterableSource(names), undisturbed / name).run()
    output = tmp_path / name
    for stop_after in (2300, 2700, 3500):
        await run_until(client, output, names, stop_after)
    report = await job_of(client, IterableSource(names), output).run()
    assert report.complete
    assert report.resumed_from > 0
    assert report.counts == expected.counts
    assert rows_in(output) == rows_in(undisturbed / name)
    assert failures_in(output) == failures_in(undisturbed / name)


@pytest.mark.parametrize("name", OUTPUTS)
async def test_rows_behind_the_last_checkpoint_are_written_once(name: str, client: GroupClient, tmp_path: Path) -> None:
    output = tmp_path / name
    await run_until(client, output, ids(2000), 1000)
    sink = open_sink(output)
    saved = sink.load()
    assert saved is not None
    sink.begin(saved, keep=False)
    found = (await client.get_many(ids(2000, "y"))).found
    sink.write([sink.encode(profile) for profile in found.values()])  # never committed
    sink.close()
    await job_of(client, IterableSource(ids(2000)), output).run()
    assert names_in(output) == list((await client.get_many(ids(2000))).found)


async def test_another_input_is_refused_until_the_job_is_restarted(
    client: GroupClient, emulator: Emulator, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    source = file_source(written(tmp_path / "ids.txt", *ids(3000)))
    done = await done_by_a_stopped_job(emulator, source, output)
    for other in (ids(2999), [*ids(2998), "changed", "x2999"], ["changed", *ids(2999)]):
        written(tmp_path / "ids.txt", *other)
        with pytest.raises(ResumeError, match=r"ids.txt is not the input .* --restart"):
            await job_of(client, source, output).run()
    with pytest.raises(ResumeError, match="has another input"):
        await job_of(client, IterableSource(ids(3000)), output).run()
    assert not output.exists()
    assert not client.stats().requests
    report = await job_of(client, source, output, restart=True).run()
    assert report.resumed_from == 0 < done
    assert report.counts.records == 3000


async def done_by_a_stopped_job(emulator: Emulator, source: Source, output: Path) -> int:
    """Records that a job did before it was stopped."""
    async with client_of(emulator, rate=50) as client:
        job = job_of(client, source, output)
        await stop_when(job, lambda: job.progress().counts.records > 0)
    return job.progress().counts.records


@pytest.mark.parametrize("name", OUTPUTS)
async def test_lines_appended_to_the_input_are_looked_up_when_the_job_is_resumed(
    name: str, client: GroupClient, emulator: Emulator, tmp_path: Path
) -> None:
    output = tmp_path / name
    source = file_source(written(tmp_path / "ids.txt", *ids(3000)))
    done = await done_by_a_stopped_job(emulator, source, output)
    written(tmp_path / "ids.txt", *ids(3000), *ids(250, "new"), "x1")
    report = await job_of(client, source, output).run()
    assert report.complete
    assert report.resumed_from == done > 0
    assert (report.counts.records, report.counts.duplicates) == (3251, 1)
    undisturbed = tmp_path / f"undisturbed-{name}"
    await job_of(client, source, undisturbed).run()
    assert rows_in(output) == rows_in(undisturbed)


async def test_an_iterable_that_begins_otherwise_is_refused(client: GroupClient, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    await run_until(client, output, ids(2000), 1000)
    for other in (ids(2000, "y"), ids(20)):
        with pytest.raises(ResumeError, match="the IDs is not the input"):
            await job_of(client, IterableSource(other), output).run()


async def test_a_file_that_changes_while_it_is_read_is_an_error(
    client: GroupClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "ids.txt", *ids(2000))
    read = InputScan.read

    async def and_then_change(scan: InputScan, source: Any) -> None:
        await read(scan, source)
        written(path, *ids(1999), "changed")

    monkeypatch.setattr(InputScan, "read", and_then_change)
    with pytest.raises(SourceError, match="changed while it was read"):
        await job_of(client, file_source(path), tmp_path / "out.jsonl").run()
    assert not (tmp_path / "out.jsonl").exists()


async def test_a_finished_output_is_replaced_only_when_the_next_run_is_complete(
    client: GroupClient, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    await job_of(client, IterableSource(ids(10)), output).run()
    first = output.read_bytes()
    await run_until(client, output, ids(2000), 1000)
    assert output.read_bytes() == first
    await job_of(client, IterableSource(ids(2000)), output).run()
    assert len(names_in(output)) > 1500


def spoil_checkpoint(output: Path) -> None:
    Path(f"{output}.checkpoint").write_bytes(b"{")


def shorten(output: Path) -> None:
    Path(f"{output}.partial").write_bytes(b"")


def remove(output: Path) -> None:
    Path(f"{output}.partial").unlink()


def damage(output: Path) -> None:
    partial = Path(f"{output}.partial")
    partial.write_bytes(bytes(partial.stat().st_size))


def half_a_row(output: Path) -> None:
    with Path(f"{output}.partial").open("ab") as file:
        file.write(b"half a r")


def version_0_1_0(output: Path) -> None:
    path = Path(f"{output}.checkpoint")
    path.write_bytes(path.read_bytes().replace(b'"version": 2', b'"version": 1', 1).replace(b'"total"', b'"older"'))


def newer_version(output: Path) -> None:
    path = Path(f"{output}.checkpoint")
    path.write_bytes(path.read_bytes().replace(b'"version": 2', b'"version": 3', 1))


async def killed_at_its_end(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a job to its last checkpoint, and no file is put in its place."""

    async def killed(_: JobOutput) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(JobOutput, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            await job.run()


@pytest.mark.parametrize("name", OUTPUTS)
async def test_a_complete_job_killed_before_its_files_were_in_place_is_put_in_place(
    name: str, client: GroupClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = file_source(written(tmp_path / "ids.txt", *ids(300), "no good"))
    output = tmp_path / name
    await killed_at_its_end(job_of(client, source, output), monkeypatch)
    requests = client.stats().requests
    report = await job_of(client, source, output).run()
    assert client.stats().requests == requests
    assert report.complete
    assert names_in(output) == list((await client.get_many(ids(300))).found)
    assert [failed["group_id"] for failed in failures_in(output)] == ["no good"]
    assert len(files_in(tmp_path)) == 3


async def killed_as_it_begins(job: Job, files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a job until it has opened so many of its files."""
    opened = 0
    begin = PartialFile.begin

    def open_and_die(file: PartialFile, size: int | None) -> None:
        nonlocal opened
        begin(file, size)
        opened += 1
        if opened == files:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(PartialFile, "begin", open_and_die)
        with pytest.raises(KeyboardInterrupt):
            await job.run()


@pytest.mark.parametrize(
    ("name", "files"),
    [("out.db", 1), *((name, files) for name in ("out.jsonl", "out.csv", "out.parquet") for files in (1, 2))],
)
async def test_a_job_killed_as_it_started_over_loses_nothing(
    name: str, files: int, client: GroupClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = file_source(written(tmp_path / "ids.txt", *ids(300), "no good"))
    output = tmp_path / name
    await killed_at_its_end(job_of(client, source, output), monkeypatch)
    await killed_as_it_begins(job_of(client, source, output, restart=True), files, monkeypatch)
    assert (await job_of(client, source, output).run()).complete
    assert names_in(output) == list((await client.get_many(ids(300))).found)
    assert [failed["group_id"] for failed in failures_in(output)] == ["no good"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
@pytest.mark.parametrize(
    ("lose", "words"), [(shorten, "shorter than its checkpoint"), (remove, "is missing although its checkpoint")]
)
async def test_a_complete_job_whose_rows_were_lost_is_refused(
    lose: Callable[[Path], None],
    words: str,
    name: str,
    client: GroupClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = file_source(written(tmp_path / "ids.txt", *ids(300)))
    output = tmp_path / name
    await killed_at_its_end(job_of(client, source, output), monkeypatch)
    lose(output)
    with pytest.raises(ResumeError, match=words):
        await job_of(client, source, output).run()
    assert not output.exists()
    assert (await job_of(client, source, output, restart=True).run()).complete


async def test_a_complete_parquet_job_whose_rows_are_damaged_is_refused(
    client: GroupClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = file_source(written(tmp_path / "ids.txt", *ids(300)))
    output = tmp_path / "out.parquet"
    await killed_at_its_end(job_of(client, source, output), monkeypatch)
    damage(output)
    with pytest.raises(ResumeError, match=r"out\.parquet\.partial is damaged .*--restart"):
        await job_of(client, source, output).run()
    assert not output.exists()


@pytest.mark.parametrize("first", [IterableSource(ids(30)), None])
async def test_a_job_with_another_input_follows_one_that_was_complete(
    first: IterableSource | None, client: GroupClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = first or file_source(written(tmp_path / "ids.txt", *ids(30)))
    output = tmp_path / "out.jsonl"
    await killed_at_its_end(job_of(client, before, output), monkeypatch)
    report = await job_of(client, file_source(written(tmp_path / "ids.txt", *ids(40, "y"))), output).run()
    assert report.counts.records == 40
    assert names_in(output) == list((await client.get_many(ids(40, "y"))).found)


async def test_the_groups_of_two_apps_are_not_mixed(emulator: Emulator, tmp_path: Path) -> None:
    source = file_source(written(tmp_path / "ids.txt", *ids(3000)))
    output = tmp_path / "out.jsonl"
    async with client_of(emulator, rate=20) as client:
        await stop_when(job_of(client, source, output), lambda: client.stats().requests > 0)
    refused = f"out.jsonl has the groups of another App Key .{emulator.app_key}, not second-app"
    async with Emulator(app_key="second-app") as second, client_of(second) as client:
        with pytest.raises(ResumeError, match=refused):
            await job_of(client, source, output).run()
        assert not client.stats().requests
        report = await job_of(client, source, output, restart=True).run()
        assert report.complete
        assert report.resumed_from == 0


async def test_another_app_has_the_same_ids_looked_up_after_a_job_that_was_killed_at_its_end(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = file_source(written(tmp_path / "ids.txt", *ids(30)))
    async with client_of(emulator) as client:
        await killed_at_its_end(job_of(client, source, tmp_path / "out.jsonl"), monkeypatch)
    async with Emulator(app_key="second-app") as second, client_of(second) as client:
        assert (await job_of(client, source, tmp_path / "out.jsonl").run()).requests == 1
        assert client.stats().requests == 1


async def test_only_what_failed_is_noted_and_a_later_run_without_failures_removes_the_note(
    client: GroupClient, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.service.faults = Faults(poison={"x7", "x77"})
    output = tmp_path / "out.jsonl"
    source = file_source(written(tmp_path / "ids.txt", *ids(100)))
    report = await job_of(client, source, output).run()
    assert report.counts.failed == 2
    lines = failures_in(output)
    assert [(line["group_id"], line["error"], line["code"], line["attempts"]) for line in lines] == [
        ("x7", "ParameterError", 1002, 1),
        ("x77", "ParameterError", 1002, 1),
    ]
    emulator.service.faults = Faults()
    await job_of(client, source, output).run()
    assert files_in(tmp_path) == ["ids.txt", "out.jsonl"]


@pytest.mark.parametrize("name", OUTPUTS)
async def test_rows_of_retried_ids_are_added_to_the_output(
    name: str, client: GroupClient, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.service.faults = Faults(poison={"x7", "x33"})
    output = tmp_path / name
    await job_of(client, IterableSource([*ids(100), "no good"]), output).run()
    before = rows_in(output)
    emulator.service.faults = Faults()
    note = tmp_path / f"{name}.failed.jsonl"
    report = await job_of(client, file_source(note), output, keep=True).run()
    assert report.counts == Counts(3, 0, 2, 0, 1)
    assert rows_in(output)[: len(before)] == before
    assert names_in(output)[len(before) :] == ["x7", "x33"]
    assert len(note.read_text().splitlines()) == 1


async def test_ids_retried_into_a_new_output_are_all_that_it_has(client: GroupClient, tmp_path: Path) -> None:
    for name in OUTPUTS:
        await job_of(client, IterableSource(["x1"]), tmp_path / name, keep=True).run()
        assert names_in(tmp_path / name) == ["x1"]


async def test_a_service_that_is_gone_ends_the_job_and_no_id_counts_as_failed(
    emulator: Emulator, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    # the 11th block of a hundred is half answered
    emulator.service.faults = Faults(at=dict.fromkeys(range(22, 500), "error-500"))
    async with client_of(emulator, rate=300, max_attempts=2) as client:
        with pytest.raises(ServiceUnavailable, match="the service no longer responds"):
            await job_of(client, IterableSource(ids(3000)), output).run()
        saved = open_sink(output).load()
        assert saved is not None
        assert 0 < saved.counts.records < 1100
        emulator.service.faults = Faults()
        report = await job_of(client, IterableSource(ids(3000)), output).run()
    assert report.counts.failed == 0
    assert report.counts.found + report.counts.missing == 3000


async def test_a_service_that_never_answers_leaves_the_old_output_alone(emulator: Emulator, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    async with client_of(emulator, max_attempts=2) as client:
        await job_of(client, IterableSource(ids(10)), output).run()
        before = output.read_bytes()
        emulator.service.faults = Faults(share={"error-500": 1.0})
        with pytest.raises(ServiceUnavailable, match="the service does not respond"):
            await job_of(client, IterableSource(ids(30)), output).run()
    assert output.read_bytes() == before


async def test_ids_without_an_answer_count_as_failed_where_others_were_answered(
    emulator: Emulator, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    async with client_of(emulator, max_attempts=1) as client:

        async def names() -> AsyncIterator[str]:
            for group_id in ids(100):
                yield group_id
            await until(lambda: client.stats().found + client.stats().missing == 100)
            emulator.service.faults = Faults(share={"garbage": 1.0})
            for group_id in ids(50, "z"):
                yield group_id

        report = await job_of(client, IterableSource(names()), output).run()
    assert report.counts.failed == 50
    assert report.complete
    line = failures_in(output)[0]
    assert (line["error"], line["code"]) == ("DecodeError", None)


async def test_single_ids_that_are_never_answered_do_not_end_the_job(emulator: Emulator, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    emulator.service.faults = Faults(share={"garbage": 0.5})
    async with client_of(emulator, max_attempts=1) as client:
        report = await job_of(client, IterableSource(ids(9000)), output).run()
    assert report.counts.records == 9000
    assert 1000 < report.counts.failed < 8000
    assert len(failures_in(output)) == report.counts.failed
    found = names_in(output)
    assert found == sorted(found, key=ids(9000).index)


async def test_an_error_that_is_not_retryable_ends_the_job_and_all_before_it_is_saved(
    client: GroupClient, emulator: Emulator, tmp_path: Path
) -> None:
    async def names() -> AsyncIterator[str]:
        for group_id in ids(500):
            yield group_id
        await until(lambda: client.stats().found + client.stats().missing == 500)
        emulator.service.locked = True
        yield "z"

    output = tmp_path / "out.jsonl"
    with pytest.raises(AuthenticationError):
        await job_of(client, IterableSource(names()), output).run()
    saved = open_sink(output).load()
    assert saved is not None
    assert saved.counts.records == 500


async def test_an_error_of_the_source_is_raised_and_what_came_before_is_saved(
    client: GroupClient, tmp_path: Path
) -> None:
    def names() -> Iterator[str]:
        yield from ids(500)
        raise LookupError("the query ended")

    output = tmp_path / "out.jsonl"
    with pytest.raises(LookupError, match="the query ended"):
        await job_of(client, IterableSource(names()), output).run()
    saved = open_sink(output).load()
    assert saved is not None
    assert saved.counts.records == 500


async def test_an_output_that_fails_is_raised_and_its_last_checkpoint_stands(
    client: GroupClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.jsonl"
    write, calls = PartialFile.write, [0]

    def full(self: PartialFile, content: bytes) -> None:
        calls[0] += 1
        if calls[0] == 5:
            write(self, content[:100])
            raise OSError(28, "No space left on device")
        write(self, content)

    monkeypatch.setattr(PartialFile, "write", full)
    with pytest.raises(OSError, match="No space left"):
        await job_of(client, IterableSource(ids(9000)), output).run()
    monkeypatch.setattr(PartialFile, "write", write)
    await job_of(client, IterableSource(ids(9000)), output).run()
    assert names_in(output) == list((await client.get_many(ids(9000))).found)


async def test_a_database_that_fails_keeps_its_last_checkpoint(client: GroupClient, tmp_path: Path) -> None:
    output = tmp_path / "out.db"
    job = job_of(client, IterableSource(ids(9000)), output)
    begin = job._sink.begin

    def small(saved: Any, *, keep: bool) -> None:
        begin(saved, keep=keep)
        job._sink._database.execute("PRAGMA max_page_count = 400")  # type: ignore[attr-defined]

    job._sink.begin = small  # type: ignore[method-assign]
    with pytest.raises(OutputError, match="full"):
        await job.run()
    await job_of(client, IterableSource(ids(9000)), output).run()
    assert sorted(names_in(output)) == sorted((await client.get_many(ids(9000))).found)


@pytest.mark.parametrize("name", OUTPUTS)
async def test_a_second_job_with_one_output_is_refused_until_the_first_has_put_it_in_its_place(
    name: str, client: GroupClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / name
    publish, at_the_end, resume = JobOutput.publish, asyncio.Event(), asyncio.Event()

    async def held_up(output: JobOutput) -> None:
        at_the_end.set()
        await resume.wait()
        await publish(output)

    monkeypatch.setattr(JobOutput, "publish", held_up)
    first = asyncio.create_task(job_of(client, IterableSource(ids(30)), output).run())
    await at_the_end.wait()
    for restart in (False, True):
        with pytest.raises(ConfigError, match=f"another process is writing .*{name}"):
            await job_of(client, IterableSource(ids(30)), output, restart=restart).run()
    resume.set()
    assert (await first).complete
    assert names_in(output) == list((await client.get_many(ids(30))).found)
    assert files_in(tmp_path) == [name]


async def test_a_lock_that_a_killed_process_left_is_taken_over(client: GroupClient, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl.lock").touch()
    assert (await job_of(client, IterableSource(ids(30)), tmp_path / "out.jsonl").run()).complete
    assert files_in(tmp_path) == ["out.jsonl"]


async def test_an_unfinished_run_in_another_format_is_refused(emulator: Emulator, tmp_path: Path) -> None:
    output = tmp_path / "out"
    async with client_of(emulator, rate=20) as client:
        job = Job(client, IterableSource(ids(3000)), open_sink(output, "jsonl"), FailedIdsFile(output))
        await stop_when(job, lambda: client.stats().requests > 0)
        for other in ("csv", "parquet"):
            with pytest.raises(ResumeError, match=f"wrote jsonl, not {other}; give the same format, or --restart"):
                await Job(client, IterableSource(ids(3000)), open_sink(output, other), FailedIdsFile(output)).run()


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


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_checkpoint, "cannot be read"),
        (shorten, "shorter than its checkpoint"),
        (newer_version, "another version's; finish the run with that one, or use --restart"),
        (version_0_1_0, "another version's; finish the run with that one, or use --restart"),
    ],
)
async def test_a_checkpoint_that_does_not_fit_is_refused(
    spoil: Callable[[Path], None], words: str, client: GroupClient, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    await run_until(client, output, ids(2000), 1000)
    spoil(output)
    with pytest.raises(ResumeError, match=words):
        await job_of(client, IterableSource(ids(2000)), output).run()
    assert (await job_of(client, IterableSource(ids(2000)), output, restart=True).run()).complete


async def test_a_job_has_as_many_requests_under_way_as_its_client_may(emulator: Emulator, tmp_path: Path) -> None:
    emulator.service.latency = 1.0
    in_flight: list[int] = []

    def look(_: Event) -> None:
        in_flight.append(roomy.stats().in_flight)

    async with client_of(emulator, max_in_flight=90, hooks=[look]) as roomy:
        await job_of(roomy, IterableSource(ids(5000)), tmp_path / "out.jsonl").run()
    assert max(in_flight) == 90


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
async def test_rows_that_no_checkpoint_counts_are_cut_off(name: str, client: GroupClient, tmp_path: Path) -> None:
    output = tmp_path / name
    await run_until(client, output, ids(2000), 1000)
    half_a_row(output)
    await job_of(client, IterableSource(ids(2000)), output).run()
    assert names_in(output) == list((await client.get_many(ids(2000))).found)


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


async def test_all_groups_of_the_listing_are_looked_up_and_a_stopped_listing_is_resumed(
    client: GroupClient, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    job = job_of(client, ListingSource(client.list_groups(), output=output), output)
    await stop_when(job, lambda: client.stats().found > 0)
    assert not output.exists()
    report = await job_of(client, ListingSource(client.list_groups(), output=output), output).run()
    assert names_in(output) == [f"g{number}" for number in range(2500)]
    assert report.counts == Counts(2500, 0, 2500, 0, 0)
    assert files_in(tmp_path) == ["out.jsonl"]


async def stop_when(job: Job, it_is_time: Callable[[], bool]) -> None:
    running = asyncio.create_task(job.run())
    await until(it_is_time)
    job.stop()
    assert not (await running).complete


async def test_since_leaves_out_older_groups_and_keeps_those_without_a_time(
    client: GroupClient, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.service.universe = Universe(only_explicit=True)
    for group_id, created in (("old", 1_600_000_000_000), ("edge", 1_700_000_000_000), ("timeless", None)):
        emulator.service.universe.add(group_id, **({} if created is None else {"createTime": created}))
    output = tmp_path / "out.jsonl"
    since = datetime.fromtimestamp(1_700_000_000, UTC)
    await job_of(client, ListingSource(client.list_groups(), since=since, output=output), output).run()
    assert names_in(output) == ["edge", "timeless"]


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


async def test_progress_says_how_far_the_job_is(client: GroupClient, tmp_path: Path) -> None:
    path = written(tmp_path / "ids.txt", *ids(120))
    job = job_of(client, file_source(path), tmp_path / "out.jsonl")
    assert job.progress().total is None
    await job.run()
    progress = job.progress()
    assert (progress.counts.records, progress.total, progress.resumed_from) == (120, 120, 0)
    assert progress.requests == 3
    assert FailedIdsFile(tmp_path / "out.jsonl").path.name == "out.jsonl.failed.jsonl"
