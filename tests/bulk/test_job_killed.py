import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bulk_jobs import OUTPUTS, client_of, failures_in, files_in, ids, job_of, names_in, written

from rongcloud_groups import ConfigError, GroupClient
from rongcloud_groups.bulk import IterableSource, Job, ResumeError, file_source
from rongcloud_groups.bulk.files import PartialFile
from rongcloud_groups.bulk.output import JobOutput
from rongcloud_groups.emulator import Emulator


def remove(output: Path) -> None:
    Path(f"{output}.partial").unlink()


def damage(output: Path) -> None:
    partial = Path(f"{output}.partial")
    partial.write_bytes(bytes(partial.stat().st_size))


async def killed_at_its_end(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a job to its last checkpoint, and no file is put in its place."""

    def killed(_: JobOutput) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(JobOutput, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            await job.run()


def shorten(output: Path) -> None:
    Path(f"{output}.partial").write_bytes(b"")


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

    def open_and_die(file: PartialFile, size: int, **options: bool) -> None:
        nonlocal opened
        begin(file, size, **options)
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


async def test_another_app_looks_the_same_ids_up_after_a_job_killed_at_its_end(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = file_source(written(tmp_path / "ids.txt", *ids(30)))
    async with client_of(emulator) as client:
        await killed_at_its_end(job_of(client, source, tmp_path / "out.jsonl"), monkeypatch)
    async with Emulator(app_key="second-app") as second, client_of(second) as client:
        assert (await job_of(client, source, tmp_path / "out.jsonl").run()).requests == 1
        assert client.stats().requests == 1


@pytest.mark.parametrize("name", OUTPUTS)
async def test_a_second_job_for_an_output_is_refused_until_the_first_has_published_it(
    name: str, client: GroupClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / name
    publish, at_the_end, resume = JobOutput.publish, threading.Event(), threading.Event()

    def held_up(output: JobOutput) -> None:
        at_the_end.set()
        resume.wait()
        publish(output)

    monkeypatch.setattr(JobOutput, "publish", held_up)
    first = asyncio.create_task(job_of(client, IterableSource(ids(30)), output).run())
    await asyncio.to_thread(at_the_end.wait)
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
