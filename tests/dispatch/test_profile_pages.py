import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from support.bulk_jobs import client_of, until

from rongcloud_groups import AuthenticationError, ClientClosed, GroupClient, ServerError
from rongcloud_groups.emulator import Emulator, Faults, Universe

EVERYTHING = [f"g{number}" for number in range(3456)]


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(universe=Universe(listed=3456)) as emulator:
        yield emulator


@pytest_asyncio.fixture
async def client(emulator: Emulator) -> AsyncIterator[GroupClient]:
    async with client_of(emulator, rate=1000) as client:
        yield client


async def test_all_profiles_come_in_the_order_of_the_listing(client: GroupClient) -> None:
    async with client.list_profiles() as pages:
        lookups = [page.lookup async for page in pages]
    assert [group_id for lookup in lookups for group_id in lookup.found] == EVERYTHING
    assert [len(lookup) for lookup in lookups] == [1000, 1000, 1000, 456]


async def test_a_token_resumes_after_its_page(client: GroupClient) -> None:
    async with client.list_profiles() as pages:
        first = await anext(pages)
    async with client.list_profiles(after=first.next_page_token) as pages:
        rest = [page async for page in pages]
    assert [group_id for page in rest for group_id in page.lookup.found] == EVERYTHING[1000:]
    assert rest[-1].next_page_token is None


async def test_since_leaves_out_older_groups(client: GroupClient) -> None:
    groups = [group async for group in client.list_groups()]
    middle = groups[2000].create_time
    assert middle is not None
    async with client.list_profiles(since=middle) as pages:
        found = [group_id async for page in pages for group_id in page.lookup.found]
    assert found == EVERYTHING[2000:]


async def test_pages_are_looked_up_ahead_but_not_without_bound(client: GroupClient, emulator: Emulator) -> None:
    emulator.service.universe = Universe(listed=20_000)
    async with client.list_profiles() as pages:
        await anext(pages)
        await until(lambda: client.stats().found >= 3000)  # the pages ahead, which nothing has consumed
        assert client.stats().found + client.stats().waiting <= 5000


async def test_a_page_that_cannot_be_had_is_raised_after_those_before_it(emulator: Emulator) -> None:
    emulator.service.universe = Universe(listed=20_000)
    async with client_of(emulator, max_attempts=1, rate=1000) as client:
        async with client.list_profiles() as pages:
            first = await anext(pages)
            emulator.service.faults = Faults(share={"error-500": 1.0})
            with pytest.raises(ServerError):
                async for _ in pages:
                    pass
        assert len(first.lookup) == 1000


async def test_a_wrong_secret_is_raised(emulator: Emulator) -> None:
    wrong = GroupClient(emulator.app_key, "another", base_urls=emulator.url, verify=emulator.ssl_context)
    async with wrong as client, client.list_profiles() as pages:
        with pytest.raises(AuthenticationError):
            await anext(pages)


async def test_leaving_early_gives_up_what_is_open(client: GroupClient) -> None:
    async with client.list_profiles() as pages:
        await anext(pages)
    assert client.stats().waiting == 0
    assert len(await client.get_many(["g1"])) == 1


async def test_closing_the_client_ends_the_iteration(emulator: Emulator) -> None:
    emulator.service.faults = Faults(share={"hang": 1.0})
    client = await client_of(emulator).__aenter__()
    async with client.list_profiles() as pages:
        waiting = asyncio.ensure_future(anext(pages))
        await until(lambda: bool(client.stats().connections))
        await client.aclose()
        with pytest.raises(ClientClosed):
            await waiting
