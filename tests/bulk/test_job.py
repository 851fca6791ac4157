import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.bulk_jobs import (
    OUTPUTS,
    client_of,
    failures_in,
    files_in,
    ids,
    job_of,
    names_in,
    rows_in,
    stop_when,
    until,
    written,
)

from rongcloud_groups import GroupClient
from rongcloud_groups._tables.rows import flat_row
from rongcloud_groups.bulk import Counts, FailedIdsFile, IterableSource, ListingSource, file_source, open_sink
from rongcloud_groups.emulator import Emulator, Universe
from rongcloud_groups.events import Event


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


async def test_duplicates_that_end_the_input_are_counted(client: GroupClient, tmp_path: Path) -> None:
    source = file_source(written(tmp_path / "ids.txt", *ids(200), *ids(150)))
    report = await job_of(client, source, tmp_path / "out.jsonl").run()
    assert report.complete
    assert (report.counts.records, report.counts.duplicates) == (350, 150)


async def test_the_rows_are_the_same_in_every_format(client: GroupClient, tmp_path: Path) -> None:
    for name in OUTPUTS:
        await job_of(client, IterableSource(ids(200)), tmp_path / name).run()
    found = (await client.get_many(ids(200))).found
    expected = [tuple(flat_row(profile)) for profile in found.values()]
    assert rows_in(tmp_path / "out.jsonl") == expected
    for name in OUTPUTS[1:]:
        assert rows_in(tmp_path / name) == [tuple(cell if cell != "" else None for cell in row) for row in expected]


async def test_a_job_has_as_many_requests_under_way_as_its_client_may(emulator: Emulator, tmp_path: Path) -> None:
    emulator.service.latency = 60  # no response comes before the job is stopped
    in_flight: list[int] = []

    def look(_: Event) -> None:
        in_flight.append(roomy.stats().in_flight)

    async with client_of(emulator, max_in_flight=90, hooks=[look]) as roomy:
        job = job_of(roomy, IterableSource(ids(5000)), tmp_path / "out.jsonl")
        await stop_when(job, lambda: roomy.stats().in_flight >= 90)
    assert max(in_flight) == 90


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


async def test_outcomes_are_saved_while_the_source_waits(client: GroupClient, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    saved = asyncio.Event()

    async def names() -> AsyncIterator[str]:
        for group_id in ids(120):
            yield group_id
        await saved.wait()

    running = asyncio.create_task(job_of(client, IterableSource(names()), output).run())
    await until(lambda: (checkpoint := open_sink(output).load()) is not None and checkpoint.counts.records == 120)
    saved.set()
    assert (await running).complete


async def test_progress_says_how_far_the_job_is(client: GroupClient, tmp_path: Path) -> None:
    path = written(tmp_path / "ids.txt", *ids(120))
    job = job_of(client, file_source(path), tmp_path / "out.jsonl")
    assert job.progress().total is None
    await job.run()
    progress = job.progress()
    assert (progress.counts.records, progress.total, progress.resumed_from) == (120, 120, 0)
    assert progress.requests == 3
    assert FailedIdsFile(tmp_path / "out.jsonl").path.name == "out.jsonl.failed.jsonl"
