from collections.abc import Callable
from pathlib import Path

import pytest
from support.bulk_jobs import ids, job_of, rows_in
from support.clients import ClientFor

from rongcloud_groups import GroupClient
from rongcloud_groups._protocol.dialects import DIALECTS
from rongcloud_groups.bulk import IterableSource, ListingSource, Source
from rongcloud_groups.bulk.report import Report
from rongcloud_groups.emulator import Emulator, Universe
from rongcloud_groups.events import BatchAnswered, Event

LISTED = 2100
SourceOf = Callable[[GroupClient, Path], Source]


def ids_of_a_file(_client: GroupClient, _output: Path) -> Source:
    return IterableSource([*ids(1500), "no good"])


def whole_listing(client: GroupClient, output: Path) -> Source:
    return ListingSource(client.list_groups(), output=output)


class Stopping:
    """A hook that stops the job after so many answered requests."""

    def __init__(self, after: int) -> None:
        self._left = after
        self.stop: Callable[[], None] = lambda: None

    def __call__(self, event: Event) -> None:
        if isinstance(event, BatchAnswered):
            self._left -= 1
            if not self._left:
                self.stop()


async def synced(client: GroupClient, source_of: SourceOf, output: Path, stopping: Stopping | None = None) -> Report:
    async with client:
        job = job_of(client, source_of(client, output), output)
        if stopping is not None:
            stopping.stop = job.stop
        return await job.run()


@pytest.mark.parametrize(
    ("source_of", "name"),
    [
        (ids_of_a_file, "out.jsonl"),
        (ids_of_a_file, "out.csv"),
        (ids_of_a_file, "out.db"),
        (ids_of_a_file, "out.parquet"),
        (whole_listing, "out.jsonl"),
    ],
)
async def test_a_sync_begun_in_one_dialect_ends_in_the_other_with_the_same_rows(
    source_of: SourceOf, name: str, client_for: ClientFor, dialect: str, tmp_path: Path
) -> None:
    other = DIALECTS[dialect].other.name
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    async with Emulator(limit=None, latency=0.002, universe=Universe(listed=LISTED)) as emulator:
        whole = await synced(client_for(emulator, rate=2000), source_of, undisturbed / name)
        asked_before = dict(emulator.report().requests)
        for each in (dialect, other):
            stopping = Stopping(after=6)
            client = client_for(emulator, rate=2000, max_in_flight=4, dialect=each, hooks=[stopping])
            begun = await synced(client, source_of, tmp_path / name, stopping)
            assert not begun.complete
        report = await synced(client_for(emulator, rate=2000, dialect=other), source_of, tmp_path / name)
        asked = emulator.report().requests
    assert report.complete
    assert report.resumed_from > 0
    assert report.counts == whole.counts
    assert rows_in(tmp_path / name) == rows_in(undisturbed / name)
    assert asked[DIALECTS[dialect].batch_path] > asked_before[DIALECTS[dialect].batch_path]
    assert asked[DIALECTS[other].batch_path] > 6
