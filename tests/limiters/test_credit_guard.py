import asyncio
from dataclasses import dataclass

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.virtual_time import at, now, run, settle, virtual_time

from rongcloud_groups import GroupClient
from rongcloud_groups.limiters.credit_guard import UNKNOWN_HELD_FOR, CreditGuard

FORWARD_AND_BACK = st.tuples(st.floats(0.0, 1.5), st.floats(0.0, 1.5), st.booleans())


@dataclass
class Path:
    """A saturated path, where each request has its own delay to the server and back; some answers are lost."""

    credits: int
    delays: list[tuple[float, float, bool]]

    def __post_init__(self) -> None:
        self.guard = CreditGuard(self.credits)
        self.arrived: list[float] = []

    async def send_all(self) -> list[float]:
        async with asyncio.TaskGroup() as tasks:
            for forward, back, answered in self.delays:
                await self.guard.acquire()
                tasks.create_task(self._travel(forward, back, answered=answered))
        return sorted(self.arrived)

    async def _travel(self, forward: float, back: float, *, answered: bool) -> None:
        await asyncio.sleep(forward)
        self.arrived.append(now())
        await asyncio.sleep(back if answered else 0)
        self.guard.arrived()


def worst_second(arrived: list[float]) -> int:
    return max(sum(1 for time in arrived if start <= time < start + 1.0) for start in arrived)


@given(credits_=st.integers(1, 8), delays=st.lists(FORWARD_AND_BACK, min_size=1, max_size=80))
@example(credits_=1, delays=[(0.1, 0.1, True)] * 21 + [(0.2, 0.0, True), (0.0, 0.2, True)])
@settings(max_examples=200)
def test_no_second_at_the_server_holds_more_than_the_credits_whatever_the_delays(
    credits_: int, delays: list[tuple[float, float, bool]]
) -> None:
    assert worst_second(run(Path(credits_, delays).send_all())) <= credits_


def test_a_slow_path_that_turns_fast_does_not_break_the_promise() -> None:
    slow, turning, fast = (0.05, 0.05, True), (0.095, 0.005, True), (0.005, 0.005, True)
    assert worst_second(run(Path(100, [slow] * 200 + [turning] * 100 + [fast] * 200).send_all())) <= 100


@pytest.mark.parametrize(("round_trip", "least"), [(0.002, 98.0), (0.02, 95.0), (0.05, 93.0)])
def test_a_steady_path_keeps_its_throughput(round_trip: float, least: float) -> None:
    arrived = run(Path(100, [(round_trip / 2, round_trip / 2, True)] * 2000).send_all())
    assert worst_second(arrived) <= 100
    assert (len(arrived) - 100) / (arrived[-1] - arrived[0]) >= least


@virtual_time
async def test_a_credit_that_was_not_used_is_there_at_once() -> None:
    guard = CreditGuard(1)
    await guard.acquire()
    waiting = asyncio.create_task(guard.acquire())
    await settle()
    assert not waiting.done()
    guard.restore()
    await waiting
    assert now() < 0.001


@virtual_time
async def test_a_cancelled_wait_takes_no_credit() -> None:
    guard = CreditGuard(1)
    await guard.acquire()
    waiting = asyncio.create_task(guard.acquire())
    await settle()
    waiting.cancel()
    await asyncio.wait([waiting])
    guard.restore()
    await guard.acquire()


@virtual_time
async def test_the_credit_of_a_request_comes_back_a_second_after_it_arrived() -> None:
    guard = CreditGuard(1)
    await guard.acquire()
    guard.arrived()
    await guard.acquire()
    assert 1.0 < now() < 1.01


@pytest.mark.parametrize(("outcome", "held_for"), [(True, 1.0), (False, UNKNOWN_HELD_FOR), (None, UNKNOWN_HELD_FOR)])
@virtual_time
async def test_the_credit_of_a_lost_request_is_held_until_it_cannot_arrive(
    outcome: bool | None,  # noqa: FBT001  a parameter of the test
    held_for: float,
) -> None:
    guard = CreditGuard(1)
    await guard.acquire()
    delivered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    guard.lost(delivered)
    await at(5.0)
    if outcome is None:
        delivered.cancel()
    else:
        delivered.set_result(outcome)
    await guard.acquire()
    assert 5.0 + held_for <= now() < 5.0 + held_for + 0.01


@pytest.mark.parametrize(
    ("rate", "credits_", "window"), [(0.5, 1, 2.0), (1.9, 1, 1.0), (12.5, 12, 1.0), (5000, 5000, 1.0)]
)
@virtual_time
async def test_there_are_as_many_credits_as_a_window_has_whole_requests(
    rate: float, credits_: int, window: float
) -> None:
    guard = CreditGuard(rate)
    for _ in range(credits_):
        await guard.acquire()
        guard.arrived()
    assert now() == 0.0
    await guard.acquire()
    assert window <= now() < window + 0.01


def missing(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"code": 200, "profiles": []})


@pytest.mark.parametrize("rate", [0.5, 1.0, 1.9, 100.0])
@virtual_time
async def test_a_guarded_client_serves_at_any_rate(rate: float) -> None:
    transport = httpx.MockTransport(missing)
    async with GroupClient("key", "secret", transport=transport, rate=rate, guard=True) as client:
        lookup = await client.get_many([f"g{number}" for number in range(250)], deadline=30.0)
    assert len(lookup.missing) == 250


@virtual_time
async def test_a_guarded_client_gets_the_credits_of_failed_and_cancelled_requests_back() -> None:
    requests = 0

    async def failing(request: httpx.Request) -> httpx.Response:
        nonlocal requests
        requests += 1
        if requests % 3 == 0:
            raise httpx.ReadError("torn", request=request)
        if requests % 3 == 1:
            await asyncio.sleep(0.2)
        return missing(request)

    transport = httpx.MockTransport(failing)
    async with GroupClient("key", "secret", transport=transport, rate=5, guard=True) as client:
        for number in range(60):
            asking = asyncio.create_task(client.get(f"g{number}"))
            await asyncio.wait([asking], timeout=0.1 if number % 2 else None)
            asking.cancel()
        assert await client.get("last", deadline=5.0 + UNKNOWN_HELD_FOR) is None
