import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from support.bulk_jobs import client_of

from rongcloud_groups import ClientClosed, GroupClient, Lookup
from rongcloud_groups.emulator import Emulator


@pytest_asyncio.fixture
async def client() -> AsyncIterator[GroupClient]:
    async with Emulator(limit=None) as emulator, client_of(emulator) as client:
        yield client


async def test_a_stream_that_is_not_entered_raises_the_line_to_write_at_once(client: GroupClient) -> None:
    with pytest.raises(ClientClosed, match=r"write 'async with client\.stream\(ids\) as parts"):
        async for _ in client.stream(["g1"]):
            pass
    with pytest.raises(ClientClosed, match="the stream is not open"):
        await anext(client.stream(["g1"]))


async def test_a_stream_that_has_ended_raises_when_it_is_used_again(client: GroupClient) -> None:
    async with client.stream(["g1"]) as parts:
        assert len([part async for part in parts]) == 1
        assert [part async for part in parts] == []
    with pytest.raises(ClientClosed, match="the stream has ended"):
        await anext(parts)
    with pytest.raises(ClientClosed, match="the stream has ended"):
        aiter(parts)
    with pytest.raises(ClientClosed, match="used once"):
        await parts.__aenter__()


class Generators:
    """Generators of each kind that count how many of them have run their ``finally``."""

    ended = 0

    def plain(self) -> Iterator[str]:
        try:
            for number in range(1_000_000):
                yield f"g{number}"
        finally:
            self.ended += 1

    async def asynchronous(self) -> AsyncIterator[str]:
        try:
            for number in range(1_000_000):
                yield f"g{number}"
        finally:
            await asyncio.sleep(0)
            self.ended += 1

    def __iter__(self) -> Iterator[str]:
        return self.plain()


@pytest.mark.parametrize("kind", ["plain", "asynchronous", "iterable"])
async def test_break_runs_the_finally_of_the_generator_at_the_end_of_async_with(client: GroupClient, kind: str) -> None:
    generators = Generators()
    source = generators if kind == "iterable" else getattr(generators, kind)()
    async with client.stream(source) as parts:
        async for _ in parts:
            break
        assert generators.ended == 0
    assert generators.ended == 1
    assert client.stats().waiting == 0


async def test_an_error_in_the_finally_of_a_generator_is_raised_at_the_end_of_async_with(client: GroupClient) -> None:
    def failing() -> Iterator[str]:
        try:
            while True:
                yield "g1"
        finally:
            raise LookupError("the cursor is gone")

    with pytest.raises(LookupError, match="the cursor is gone"):
        async with client.stream(failing()) as parts:
            await anext(parts)


async def test_leaving_a_stream_ends_a_source_that_swallows_its_cancellation(client: GroupClient) -> None:
    async def stubborn() -> AsyncIterator[str]:
        while True:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                yield "g2"

    async with asyncio.timeout(60), client.stream(stubborn()):
        await asyncio.sleep(0)


async def test_a_stream_that_was_just_entered_ends_when_the_client_closes(client: GroupClient) -> None:
    async with asyncio.timeout(60):
        async with client.stream(["g1"]) as parts:
            await client.aclose()
            with pytest.raises(ClientClosed, match="the client is closed"):
                await anext(parts)


async def test_a_get_beside_a_source_that_blocks_is_not_held_up(client: GroupClient) -> None:
    def cursor() -> Iterator[str]:
        for number in range(1_600):
            time.sleep(0.0012)  # such as a query of a database
            yield f"row{number}"

    async def gets() -> float:
        worst = 0.0
        for number in range(5):
            began = time.monotonic()
            await client.get(f"page{number}")
            worst = max(worst, time.monotonic() - began)
        return worst

    await client.get("warm")
    for looked_up in (consumed(client, cursor()), client.get_many(cursor())):
        task = asyncio.ensure_future(looked_up)
        assert await gets() < 0.8  # 2 s where the source is read without a pause
        assert not task.done()
        assert len(await task) == 1_600


async def consumed(client: GroupClient, source: Iterator[str]) -> Lookup:
    whole = Lookup()
    async with client.stream(source) as parts:
        async for part in parts:
            whole.found.update(part.found)
            whole.missing.extend(part.missing)
    return whole


async def test_an_asynchronous_source_gives_ids_one_by_one_and_in_lists(client: GroupClient) -> None:
    async def ids() -> AsyncIterator[str | list[str]]:
        yield [f"g{number}" for number in range(120)]
        yield "last"
        yield []
        yield ["no good", "g120"]

    async with client.stream(ids()) as parts:
        lookups = [part async for part in parts]
    settled = [group_id for part in lookups for group_id in (*part.found, *part.missing, *part.failed)]
    assert sorted(settled) == sorted([*(f"g{number}" for number in range(121)), "last", "no good"])
    assert [each for part in lookups for each in part.failed] == ["no good"]


async def test_what_begins_after_its_client_was_closed_says_so(client: GroupClient) -> None:
    stream, pages, listing = client.stream(["g1"]), client.list_profiles(), aiter(client.list_groups())
    await client.aclose()
    async with stream as parts, pages:
        for iterator in (parts, pages, listing):
            with pytest.raises(ClientClosed, match=r"the client (was|is) closed"):
                await anext(iterator)
