from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support.bulk_jobs import OUTPUTS, client_of, failures_in, ids, job_of, names_in, rows_in, stop_when, until, written

from rongcloud_groups import GroupClient
from rongcloud_groups.bulk import (
    FailedIdsFile,
    IterableSource,
    Job,
    ResumeError,
    Source,
    SourceError,
    file_source,
    open_sink,
)
from rongcloud_groups.bulk.input import JobInput
from rongcloud_groups.emulator import Emulator


async def run_until(client: GroupClient, output: Path, names: list[str], stop_after: int) -> Job:
    """Run a job that its source stops after some IDs, once the first of them are written."""

    async def interrupted() -> AsyncIterator[str]:
        for number, group_id in enumerate(names):
            if number == stop_after:
                await until(lambda: job.progress().counts.records)
                job.stop()
            yield group_id

    job = job_of(client, IterableSource(interrupted()), output)
    report = await job.run()
    assert not report.complete
    return job


def shorten(output: Path) -> None:
    Path(f"{output}.partial").write_bytes(b"")


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
    scan = JobInput.scan

    async def and_then_change(job_input: JobInput, saved: Any) -> None:
        await scan(job_input, saved)
        written(path, *ids(1999), "changed")

    monkeypatch.setattr(JobInput, "scan", and_then_change)
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


def half_a_row(output: Path) -> None:
    with Path(f"{output}.partial").open("ab") as file:
        file.write(b"half a r")


def version_0_1_0(output: Path) -> None:
    path = Path(f"{output}.checkpoint")
    path.write_bytes(path.read_bytes().replace(b'"version": 2', b'"version": 1', 1).replace(b'"total"', b'"older"'))


def newer_version(output: Path) -> None:
    path = Path(f"{output}.checkpoint")
    path.write_bytes(path.read_bytes().replace(b'"version": 2', b'"version": 3', 1))


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


async def test_an_unfinished_run_in_another_format_is_refused(emulator: Emulator, tmp_path: Path) -> None:
    output = tmp_path / "out"
    async with client_of(emulator, rate=20) as client:
        job = Job(client, IterableSource(ids(3000)), open_sink(output, "jsonl"), FailedIdsFile(output))
        await stop_when(job, lambda: client.stats().requests > 0)
        for other in ("csv", "parquet"):
            with pytest.raises(ResumeError, match=f"wrote jsonl, not {other}; give the same format, or --restart"):
                await Job(client, IterableSource(ids(3000)), open_sink(output, other), FailedIdsFile(output)).run()


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


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
async def test_rows_that_no_checkpoint_counts_are_cut_off(name: str, client: GroupClient, tmp_path: Path) -> None:
    output = tmp_path / name
    await run_until(client, output, ids(2000), 1000)
    half_a_row(output)
    await job_of(client, IterableSource(ids(2000)), output).run()
    assert names_in(output) == list((await client.get_many(ids(2000))).found)
