import asyncio
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from support.bulk_jobs import client_of, until

from rongcloud_groups import (
    AuthenticationError,
    ClientClosed,
    DecodeError,
    GroupClient,
    RongCloudError,
    ServerError,
    TransportError,
)
from rongcloud_groups.emulator import Emulator, Faults, Universe


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(universe=Universe(listed=3456)) as emulator:
        yield emulator


@pytest_asyncio.fixture
async def client(emulator: Emulator) -> AsyncIterator[GroupClient]:
    async with client_of(emulator, rate=100) as client:
        yield client


EVERYTHING = [f"g{number}" for number in range(3456)]


async def listed(client: GroupClient) -> list[str]:
    return [group.group_id async for group in client.list_groups()]


async def test_all_groups_are_listed_oldest_first(client: GroupClient) -> None:
    groups = [group async for group in client.list_groups()]
    assert [group.group_id for group in groups] == EVERYTHING
    created = [group.create_time for group in groups if group.create_time]
    assert created == sorted(created)


async def test_pages_have_a_thousand_groups_and_resume_after_a_token(client: GroupClient) -> None:
    pages = [page async for page in client.list_groups().pages()]
    assert [len(page.groups) for page in pages] == [1000, 1000, 1000, 456]
    rest = [page async for page in client.list_groups().pages(after=pages[1].next_page_token)]
    assert rest == pages[2:]


async def test_an_app_without_groups_has_an_empty_listing(client: GroupClient, emulator: Emulator) -> None:
    emulator.service.universe = Universe(listed=0)
    assert await listed(client) == []


async def test_listing_and_lookups_run_beside_each_other(client: GroupClient) -> None:
    listing = asyncio.create_task(listed(client))
    lookup = await client.get_many(EVERYTHING[:1000])
    assert len(lookup.found) == 1000
    assert await listing == EVERYTHING


@pytest.mark.parametrize("fault", ["error-500", "garbage", "rst", "refuse", "drop", "429"])
async def test_a_page_that_is_lost_is_asked_for_again(fault: str, client: GroupClient, emulator: Emulator) -> None:
    emulator.service.faults = Faults(at={1: fault, 3: fault})
    assert await listed(client) == EVERYTHING


@pytest.mark.parametrize(("fault", "error"), [("error-500", ServerError), ("garbage", DecodeError)])
async def test_a_page_that_is_always_lost_is_an_error(
    fault: str, error: type[RongCloudError], emulator: Emulator
) -> None:
    emulator.service.faults = Faults(share={fault: 1.0})
    async with client_of(emulator, max_attempts=2) as client:
        with pytest.raises(error):
            await listed(client)


async def test_no_retry_mends_a_wrong_secret(emulator: Emulator) -> None:
    emulator.service.locked = True
    async with client_of(emulator) as client:
        with pytest.raises(AuthenticationError):
            await listed(client)
    assert emulator.service.codes[1006] == 1


async def test_no_host_is_an_error() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # bound and not listening: refuses connections
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        async with GroupClient("key", "secret", base_urls=url, outage_timeout=0.3) as client:
            with pytest.raises(TransportError):
                await listed(client)


async def test_closing_the_client_ends_a_listing_that_waits(emulator: Emulator) -> None:
    emulator.service.faults = Faults(share={"hang": 1.0})
    client = client_of(emulator)
    await client.__aenter__()
    waiting = asyncio.create_task(listed(client))
    await until(lambda: emulator.report().requests)
    await client.aclose()
    with pytest.raises(ClientClosed):
        await waiting
    with pytest.raises(ClientClosed):
        client.list_groups()


async def test_leaving_a_listing_takes_its_request_back(client: GroupClient, emulator: Emulator) -> None:
    emulator.service.faults = Faults(at={1: "hang"})
    waiting = asyncio.create_task(listed(client))
    await until(lambda: emulator.report().requests)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await listed(client) == EVERYTHING


@pytest.mark.parametrize("tokens", [["again", "again"], ["one", "two", "three", "one"]])
async def test_a_listing_whose_page_tokens_repeat_is_an_error(tokens: list[str]) -> None:
    left = iter(tokens)
    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, json={"code": 200, "groups": [], "pageToken": next(left)})
    )
    async with GroupClient("key", "secret", transport=transport) as client:
        with pytest.raises(DecodeError, match="repeats a page token"):
            await listed(client)
