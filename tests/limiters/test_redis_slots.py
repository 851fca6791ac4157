"""Processes that share a Redis, in virtual time; the scripts run in a real one, as far away as a test says."""

import asyncio
from collections.abc import Sequence
from itertools import count
from random import Random, seed
from typing import Any

import pytest
from redis import Redis
from support.redis_server import eval_at
from support.virtual_time import now, run

from rongcloud_groups.emulator import worst_second
from rongcloud_groups.limiters import redis_connection, redis_slots
from rongcloud_groups.limiters.redis_connection import Reply
from rongcloud_groups.limiters.redis_slots import RedisSlots

START = 1_800_000_000.0
SEND_TIME = 0.0002
SETTLED = 10.0
"""Seconds after which each process has found its part."""


@pytest.fixture(autouse=True)
def _virtual_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    seed(0)  # slots are asked for with a fraction
    for module in (redis_slots, redis_connection):
        monkeypatch.setattr(module, "monotonic", lambda: asyncio.get_running_loop().time())


class FarRedis:
    """A connection to a Redis whose answers take a while, and a little longer for one than for another."""

    name = "far"

    def __init__(self, redis: Redis, round_trip: float) -> None:
        self._redis = redis
        self._round_trip = round_trip
        self._random = Random(0)
        self.calls = 0
        self.is_cut = False

    def run(self, script: str, keys: Sequence[str], arguments: Sequence[float]) -> "asyncio.Future[Reply]":
        loop = asyncio.get_running_loop()
        sent_at = loop.time()
        reply: asyncio.Future[Reply] = loop.create_future()
        self.calls += 1

        def at_redis() -> None:
            if self.is_cut:
                return
            values = eval_at(START + loop.time(), self._redis, script, keys, arguments)
            loop.call_later(self._way(), answered, values)

        def answered(values: list[float]) -> None:
            if not reply.done():
                reply.set_result((sent_at, loop.time(), values))

        loop.call_later(self._way(), at_redis)
        return reply

    def _way(self) -> float:
        return self._round_trip / 2 * self._random.uniform(1.0, 1.05)


async def sent_by(
    redis: Redis, pauses: Sequence[Any], round_trip: float, seconds: float
) -> tuple[list[list[float]], int]:
    """When the requests of processes leave, each of which pauses for so many seconds after its nth request.

    Returns:
        The times, and how often Redis was called.
    """
    redis.flushall()
    redises = [FarRedis(redis, round_trip) for _ in pauses]

    async def work(far: FarRedis, pause: Any, begin: float) -> list[float]:
        slots, sent = RedisSlots(far, "budget", 100), list[float]()  # type: ignore[arg-type]
        await asyncio.sleep(begin)
        await slots.connect()
        for number in count(1):
            await slots.acquire()
            if now() >= seconds:
                return sent
            sent.append(now())
            await asyncio.sleep(SEND_TIME + pause(number))
        raise AssertionError

    begins = [0.07 * number % 0.3 for number in range(len(pauses))]
    tasks = map(work, redises, pauses, begins)
    return list(await asyncio.gather(*tasks)), sum(far.calls for far in redises)


async def sent_beside_killed(redis: Redis, round_trip: float, seconds: float) -> list[float]:
    """When the requests leave of four processes, and of others, each of which is killed after a second."""
    redis.flushall()
    sent: list[float] = []

    async def work(far: FarRedis) -> None:
        slots = RedisSlots(far, "budget", 100)  # type: ignore[arg-type]
        await slots.connect()
        while True:
            await slots.acquire()
            sent.append(now())
            await asyncio.sleep(SEND_TIME)

    async with asyncio.TaskGroup() as group:
        last = [group.create_task(work(FarRedis(redis, round_trip))) for _ in range(4)]
        while now() < seconds:
            far = FarRedis(redis, round_trip)
            last.append(group.create_task(work(far)))
            await asyncio.sleep(0.97 + 0.0123 * len(last) % 0.06)
            far.is_cut = True
            last[-1].cancel()
        for task in last:
            task.cancel()
    return sent


def busy(_: int) -> float:
    return 0.0


def bursts(number: int) -> float:
    return 0.0 if number % 30 else 2.0


def steady(_: int) -> float:
    return 0.05


def together(sent: Sequence[Sequence[float]], seconds: float) -> list[float]:
    """Requests/s of each process, once it has settled."""
    return [sum(SETTLED <= time < seconds for time in times) / (seconds - SETTLED) for times in sent]


@pytest.mark.parametrize("processes", [1, 4, 10])
@pytest.mark.parametrize("round_trip", [0.001, 0.06, 0.09, 0.16])
def test_processes_far_from_redis_use_the_whole_budget_in_equal_parts(
    redis: Redis, processes: int, round_trip: float
) -> None:
    sent, calls = run(sent_by(redis, [busy] * processes, round_trip, 20.0), lateness=0.0005)
    parts = together(sent, 20.0)
    assert sum(parts) >= 95
    assert max(parts) <= 1.75 * sum(parts) / processes
    assert min(parts) >= 0.6 * sum(parts) / processes
    assert worst_second(time for times in sent for time in times) <= 100
    assert calls <= 1.1 * sum(map(len, sent))


@pytest.mark.parametrize("round_trip", [0.06, 0.09, 0.16])
def test_processes_far_from_redis_come_to_equal_parts_within_seconds(redis: Redis, round_trip: float) -> None:
    sent, _ = run(sent_by(redis, [busy] * 4, round_trip, 12.0), lateness=0.0005)
    parts = [sum(6.0 <= time < 12.0 for time in times) for times in sent]
    assert max(parts) <= 1.15 * sum(parts) / 4
    assert min(parts) >= 0.85 * sum(parts) / 4


def test_sixty_processes_use_the_whole_budget(redis: Redis) -> None:
    sent, _ = run(sent_by(redis, [busy] * 60, 0.01, 14.0), lateness=0.0005)
    assert sum(together(sent, 14.0)) >= 98
    assert worst_second(time for times in sent for time in times) <= 100


@pytest.mark.parametrize(("round_trip", "least"), [(0.001, 97), (0.16, 90)])
def test_slots_of_a_process_that_becomes_idle_go_to_the_others(redis: Redis, round_trip: float, least: float) -> None:
    sent, _ = run(sent_by(redis, [busy, bursts, bursts, bursts], round_trip, 20.0), lateness=0.0005)
    assert sum(together(sent, 20.0)) >= least
    assert worst_second(time for times in sent for time in times) <= 100


@pytest.mark.parametrize("round_trip", [0.001, 0.06])
def test_a_process_takes_no_more_than_it_uses(redis: Redis, round_trip: float) -> None:
    sent, _ = run(sent_by(redis, [busy, steady, steady], round_trip, 20.0), lateness=0.0005)
    parts = together(sent, 20.0)
    assert sum(parts) >= 95
    assert min(parts) >= 13


@pytest.mark.parametrize(("round_trip", "least"), [(0.0005, 98.4), (0.005, 98.1)])
def test_a_process_that_is_killed_costs_the_others_less_than_one_request(
    redis: Redis, round_trip: float, least: float
) -> None:
    sent = run(sent_beside_killed(redis, round_trip, 30.0), lateness=0.0005)
    assert sum(SETTLED <= time < 30.0 for time in sent) / 20 >= least
    assert worst_second(sent) <= 100
