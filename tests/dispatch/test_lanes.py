import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest_asyncio

from rongcloud_groups import Event, GroupClient
from rongcloud_groups._dispatch.pending import BULK_EVERY
from rongcloud_groups.emulator import Emulator
from rongcloud_groups.events import BatchSent


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(record_ids=True, limit=None) as emulator:
        yield emulator


class Sent:
    """A hook that counts requests, and wakes the test that waits for them.

    Attributes:
        requests: how many were sent.
        short: the batches of fewer than 50 IDs that left others waiting.
    """

    client: GroupClient

    def __init__(self) -> None:
        self.requests = self.short = 0
        self._changed = asyncio.Event()

    def __call__(self, event: Event) -> None:
        if isinstance(event, BatchSent):
            self.requests += 1
            self.short += event.id_count < 50 and self.client.stats().waiting > 0
            self._changed.set()

    async def reach(self, requests: int) -> None:
        while self.requests < requests:
            self._changed.clear()
            await self._changed.wait()


@asynccontextmanager
async def opened(emulator: Emulator) -> AsyncIterator[tuple[GroupClient, Sent]]:
    """A client with one connection, on which batches arrive in the order in which they were sent."""
    sent = Sent()
    async with GroupClient(
        emulator.app_key,
        emulator.app_secret,
        base_urls=emulator.url,
        verify=emulator.ssl_context,
        rate=1000,
        requests_per_connection=1_000_000,
        max_in_flight=4,
        hooks=[sent],
    ) as sent.client:
        yield sent.client, sent


async def streamed(client: GroupClient, group_ids: Iterable[str]) -> int:
    async with client.stream(group_ids) as parts:
        return sum([len(part) async for part in parts])


@asynccontextmanager
async def in_background(coroutine: Coroutine[Any, Any, int]) -> AsyncIterator[asyncio.Task[int]]:
    task = asyncio.create_task(coroutine)
    yield task
    task.cancel()
    await asyncio.wait([task])


def bulk_ids(count: int) -> list[str]:
    return [f"bulk{number}" for number in range(count)]


def batch_of(emulator: Emulator) -> dict[str, int]:
    """Which batch each ID came in, from 0."""
    return {group_id: number for number, batch in enumerate(emulator.batches) for group_id in batch}


async def test_a_get_is_in_the_next_batch_of_a_stream_whose_batches_stay_full(emulator: Emulator) -> None:
    asked_after: dict[str, int] = {}
    async with opened(emulator) as (client, sent), in_background(streamed(client, bulk_ids(100_000))) as stream:
        await sent.reach(5)
        for number in range(60):
            asked_after[f"page{number}"] = sent.requests
            await client.get(f"page{number}")
            await sent.reach(sent.requests + number % 3)
        assert not stream.done()
    came_in = batch_of(emulator)
    late = [came_in[group_id] - before for group_id, before in asked_after.items()]
    # Every tenth batch that both lanes could fill is the bulk lane's, and the get is in the one after it.
    assert set(late) <= {0, 1}
    assert sum(late) <= (60 + sum(late)) // BULK_EVERY
    assert sent.short == 0


async def test_gets_cost_a_stream_only_their_places_in_its_batches(emulator: Emulator) -> None:
    async with opened(emulator) as (client, sent), in_background(streamed(client, bulk_ids(15_000))) as stream:
        for burst in range(3):
            await sent.reach(20 * (burst + 1))
            await asyncio.gather(*(client.get(f"page{burst}-{number}") for number in range(20)))
        assert not stream.done()
        assert await stream == 15_000
    assert sent.short == 0
    assert emulator.report().ids_asked == 15_000 + 60


async def test_a_burst_of_gets_goes_before_the_bulk_that_waits(emulator: Emulator) -> None:
    async with opened(emulator) as (client, sent), in_background(streamed(client, bulk_ids(100_000))):
        await sent.reach(5)
        gets = asyncio.gather(*(client.get(f"page{number}") for number in range(200)))
        await asyncio.sleep(0)  # now they are asked for
        before = sent.requests
        await gets
    came_in = batch_of(emulator)
    assert max(came_in[f"page{number}"] for number in range(200)) - before <= 200 // 50


async def test_many_in_bulk_wait_behind_the_stream_and_others_do_not(emulator: Emulator) -> None:
    async with opened(emulator) as (client, sent), in_background(streamed(client, bulk_ids(100_000))):
        await sent.reach(5)
        both = asyncio.gather(client.get_many(["later"], bulk=True), client.get_many(["now"]))
        await asyncio.sleep(0)  # now they are asked for
        before, waiting = sent.requests, client.stats().waiting
        assert waiting > 100
        await both
    came_in = batch_of(emulator)
    assert came_in["now"] - before <= 1
    assert came_in["later"] - before >= waiting // 50 - 1


async def test_a_flood_of_gets_leaves_the_stream_a_tenth(emulator: Emulator) -> None:
    async with opened(emulator) as (client, sent), in_background(streamed(client, bulk_ids(100_000))):
        await sent.reach(5)
        before = sent.requests
        await client.get_many(f"page{number}" for number in range(9_000))
    flooded = [batch[0].startswith("bulk") for batch in emulator.batches[before : before + 190]]
    assert sum(flooded) == 190 // BULK_EVERY
