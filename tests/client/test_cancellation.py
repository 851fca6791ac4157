import asyncio
import random

import anyio
import anyio.lowlevel
import pytest
from support.clients import ClientFor

from rongcloud_groups import DeadlineExceeded, Lookup
from rongcloud_groups.emulator import Emulator, Faults


async def test_cancelled_waiters_harm_no_other_and_cost_no_request(client_for: ClientFor) -> None:
    async with Emulator(latency=0.1) as emulator, client_for(emulator) as client:
        calls = [asyncio.create_task(client.get(f"g{number}")) for number in range(50)]
        await emulator.wait_for(1)
        for call in calls[::5]:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(result, asyncio.CancelledError) for result in results) == 10
        kept = [result for result in results if not isinstance(result, asyncio.CancelledError)]
        assert not any(isinstance(result, BaseException) for result in kept)
        assert emulator.report().batch_requests == 1


async def test_one_of_two_that_wait_for_an_id_may_leave(client_for: ClientFor) -> None:
    async with Emulator(latency=0.05) as emulator, client_for(emulator) as client:
        one, other = (asyncio.create_task(client.get("g1")) for _ in range(2))
        await emulator.wait_for(1)
        one.cancel()
        assert await other is not None
        assert emulator.report().batch_requests == 1


async def test_a_request_without_a_waiter_is_abandoned_and_its_slot_is_free(client_for: ClientFor) -> None:
    async with Emulator() as emulator, client_for(emulator, max_in_flight=4) as client:
        await client.get("first")
        emulator.faults.next("hang", times=4)
        for number in range(4):
            with pytest.raises(DeadlineExceeded, match="waiting for the service"):
                await client.get(f"hung{number}", deadline=0.4)
        assert await client.get("g1") is not None
        assert emulator.report().connections == 1


async def test_ids_cancelled_before_they_are_sent_are_never_asked_for(client_for: ClientFor) -> None:
    async with Emulator(record_ids=True, faults=Faults(handshake=0.1)) as emulator, client_for(emulator) as client:
        gone = asyncio.create_task(client.get_many([f"gone{number}" for number in range(200)]))
        kept = asyncio.create_task(client.get_many(["g1", "gone7"]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gone.cancel()
        assert len(await kept) == 2
        assert emulator.batches == [["gone7", "g1"]] or sorted(emulator.batches[0]) == ["g1", "gone7"]


@pytest.mark.parametrize(
    ("handshake", "rate", "phase"),
    [(20, 100.0, "connecting"), (0, 0.2, "waiting for budget"), (0, 100.0, "waiting for the service")],
)
async def test_a_deadline_says_what_took_the_time(
    client_for: ClientFor, handshake: float, rate: float, phase: str
) -> None:
    async with Emulator(faults=Faults(handshake=handshake)) as emulator, client_for(emulator, rate=rate) as client:
        if not handshake:
            await client.get("first")
            emulator.faults.share["hang"] = 1.0
        lookup = await client.get_many(["g1", "g2", "a b"], deadline=0.6)
        assert list(lookup.failed) == ["g1", "g2", "a b"]
        error = lookup.failed["g1"]
        assert isinstance(error, DeadlineExceeded)
        assert (error.phase, error.deadline) == (phase, 0.6)
        with pytest.raises(DeadlineExceeded, match=phase):
            await client.get("g3", deadline=0.4)


async def test_ids_settled_by_the_deadline_are_returned(client_for: ClientFor) -> None:
    async with Emulator() as emulator, client_for(emulator, deadline=2.0, rate=20) as client:
        await client.get("warm")
        lookup = await client.get_many([f"g{number}" for number in range(2000)])
        assert len(lookup) == 2000
        assert len(lookup.found) + len(lookup.missing) >= 50
        assert {type(error) for error in lookup.failed.values()} == {DeadlineExceeded}
        assert client.stats().waiting == 0


async def test_cancelling_at_any_moment_leaves_a_client_that_works(client_for: ClientFor) -> None:
    chance = random.Random(5)
    async with (
        Emulator(limit=None, latency=0.002, latency_tail=0.003) as emulator,
        client_for(emulator, rate=2000, max_in_flight=8) as client,
    ):

        async def impatient(number: int) -> None:
            with anyio.move_on_after(chance.random() * 0.03):
                if number % 3:
                    await client.get(f"g{number % 40}")
                elif number % 2:
                    await client.get_many([f"g{each}" for each in range(number, number + 120)])
                else:
                    async with client.stream(f"s{each}" for each in range(2000)) as parts:
                        async for _ in parts:
                            pass

        async with anyio.create_task_group() as tasks:
            for number in range(120):
                tasks.start_soon(impatient, number)
                await asyncio.sleep(0.001)
        assert (client.stats().waiting, client.stats().in_flight) == (0, 0)
        assert len(await client.get_many([f"g{number}" for number in range(500)])) == 500
        assert emulator.report().protocol_errors == 0


async def test_leaving_the_client_in_the_middle_of_a_stream(client_for: ClientFor) -> None:
    async with Emulator(latency=0.05) as emulator:
        with anyio.CancelScope() as scope:
            async with client_for(emulator) as client, client.stream(f"g{each}" for each in range(10**6)) as parts:
                async for _ in parts:
                    scope.cancel()
        assert scope.cancelled_caught
        async with client_for(emulator) as another:
            assert len(await another.get_many(["g1"])) == 1


async def test_a_stream_accounts_for_every_id_where_its_caller_is_cancelled(client_for: ClientFor) -> None:
    group_ids = [f"g{number}" for number in range(3_000)]
    async with (
        Emulator(limit=None, latency=0.005, record_ids=True) as emulator,
        client_for(emulator, rate=500) as client,
    ):
        settled = Lookup()
        with anyio.CancelScope() as scope:
            async with client.stream(group_ids) as parts:
                async for part in parts:
                    settled.found |= part.found
                    settled.missing += part.missing
                    settled.failed |= part.failed
                    if len(settled) >= 1_000:
                        scope.cancel()
                        await anyio.lowlevel.checkpoint()  # the next parts may be there already
        assert scope.cancelled_caught
        assert client.stats().waiting == 0
        seen = {*settled.found, *settled.missing}
        assert 1_000 <= len(settled) == len(seen) < 3_000
        rest = await client.get_many([group_id for group_id in group_ids if group_id not in seen])
        everywhere = [*settled.found, *settled.missing, *rest.found, *rest.missing]
        assert sorted(everywhere) == sorted(group_ids)
        assert client.stats().in_flight == 0


async def test_a_get_many_that_is_cancelled_leaves_nothing(client_for: ClientFor) -> None:
    async with Emulator(limit=None, latency=0.02) as emulator, client_for(emulator, rate=500) as client:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.get_many, [f"g{number}" for number in range(10_000)])
                await emulator.wait_for(3)
                scope.cancel()
        assert scope.cancelled_caught
        assert client.stats().waiting == 0
        assert await client.get("g1") is not None
        assert client.stats().in_flight == 0
