import asyncio
import logging
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import ConnectionError as RedisUnreachable

from rongcloud_groups import ClientClosed, ConfigError, GroupClient
from rongcloud_groups.emulator import Emulator, Service, worst_second
from rongcloud_groups.limiters.redis import FIRST_TIMEOUT, TIMEOUT, UNUSED, RedisClock, RedisLimiter, time_limit
from rongcloud_groups.limiters.schedule import MAX_HISTORY, MAX_LATE, QUIET_PERIOD, SHARED_JITTER, WAKE_UP_SLACK
from rongcloud_groups.limiters.scripts import CATCH_UP, HORIZON, REFUSED, RESERVE, SOON
from rongcloud_groups.limiters.throttle import DECREASE_FACTOR, PAUSE, Throttle
from rongcloud_groups.limiters.url import limiter_from_url

GAP = 1 / 100
SECOND = 1 + SHARED_JITTER


class Call(NamedTuple):
    """One call of the script for slots, and how late the requests leave that it grants slots for.

    Those of a process that is killed after that leave as late as they may, and nobody tells when.
    """

    process: int
    wanted: int
    lead: float
    killed: bool
    late: list[float]


calls = st.builds(
    Call,
    process=st.integers(0, 1),
    wanted=st.sampled_from([0, 1, 1, 1, 2, 8]),
    lead=st.sampled_from([0.0, 0.02, 0.1]),
    killed=st.sampled_from([False] * 5 + [True]),
    late=st.lists(st.sampled_from([0.0] * 16 + [0.004, MAX_LATE] + [UNUSED] * 4), min_size=1, max_size=5),
)


class Server:
    """A real ``redis-server`` on the loopback."""

    def __init__(self, program: str, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [program, "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        self._directory = directory

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, cwd=self._directory, stdout=subprocess.DEVNULL)  # noqa: S603  ours
        give_up_at = monotonic() + 20
        while not self._answers():
            assert monotonic() < give_up_at
            time.sleep(0.01)

    def stand_still(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            with Redis.from_url(self.url) as redis:
                return bool(redis.ping())
        except RedisUnreachable:
            return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program = shutil.which("redis-server")
    if program is None:
        assert not os.environ.get("CI"), "redis-server must be installed in CI"
        pytest.skip("redis-server is not installed")
    server = Server(program, tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis(server: Server) -> Iterator["Redis"]:
    with Redis.from_url(server.url) as redis:
        redis.flushall()
        yield redis


class Reserved(NamedTuple):
    """What the script for slots answers."""

    now: float
    paused_until: float
    rate: float
    confirmed: int
    firm: int
    first: int
    slots: list[float]


Run = Callable[..., list[float]]


@pytest.fixture
def run(redis: "Redis") -> Run:
    return scripts_for(redis)


def scripts_for(redis: "Redis") -> Run:
    """Run one of the scripts for the budget ``app``."""

    def run(script: str, *arguments: float) -> list[float]:
        return [float(value) for value in redis.eval(script, 3, "app", "app:sent", "app:claimed", *map(str, arguments))]

    return run


def reserve(
    run: Run,
    wanted: int = 1,
    *,
    limit: int = 100,
    lead: float = 0.0,
    confirm: Sequence[int] = (),
    used: dict[int, float] | None = None,
) -> Reserved:
    told = [value for slot in (used or {}).items() for value in slot]
    now, paused_until, rate, confirmed, firm, first, *slots = run(
        RESERVE, limit, lead, wanted, len(confirm), *confirm, *told
    )
    return Reserved(now, paused_until, rate, int(confirmed), int(firm), int(first), slots)


def refuse(run: Run, age: float = 0.01, retry_after: float = -1) -> list[float]:
    return run(REFUSED, 100, age, 0.0, retry_after)


def in_use(redis: "Redis", key: str = "app", *, ahead: float = -5.0, **fields: Any) -> float:
    """Put a budget that was used already, so that no silence comes first; return Redis's time."""
    seconds, microseconds = redis.time()
    now = seconds + microseconds / 1e6
    budget: dict[str, Any] = {"next_slot": now + ahead, "paused_until": 0, "cut_at": 0, "cut_from": 0, "number": 0}
    redis.hset(key, mapping=budget | fields)
    return now


class Heard(logging.Handler):
    """The warnings, one after the other."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._messages: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.put_nowait(record.getMessage())

    async def next(self) -> str:
        return await self._messages.get()

    @property
    def all_read(self) -> bool:
        return self._messages.empty()


@pytest.fixture
async def heard() -> AsyncIterator[Heard]:
    logger = logging.getLogger("rongcloud_groups")
    handler = Heard()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@asynccontextmanager
async def limiters(redis: "Redis", url: str, count: int = 1, **options: Any) -> AsyncIterator[list[RedisLimiter]]:
    """Limiters of one App Key, as several processes have them, whose budget is in use."""
    those = [RedisLimiter(url, app_key="app", **options) for _ in range(count)]
    in_use(redis, those[0].key)
    yield those
    for limiter in those:
        await limiter.aclose()


# ---- the scripts


def test_a_new_budget_is_silent_first(run: Run) -> None:
    reserved = reserve(run)
    assert reserved.slots == pytest.approx([reserved.now + QUIET_PERIOD], abs=1e-5)


def test_slots_follow_each_other_whoever_takes_them(redis: "Redis", run: Run) -> None:
    in_use(redis)
    now, _, rate, _, _, first, slots = reserve(run, 3)
    assert rate == 100
    assert slots == pytest.approx([now, now + GAP, now + 2 * GAP], abs=1e-5)
    following = reserve(run)
    assert following.slots == pytest.approx([now + 3 * GAP], abs=1e-5)
    assert following.first == first + 3


def test_a_budget_long_unused_saves_nothing_up(redis: "Redis", run: Run) -> None:
    in_use(redis, ahead=-3600)
    now, *_, slots = reserve(run, 2)
    assert slots == pytest.approx([now, now + GAP], abs=1e-5)


def test_the_way_back_is_allowed_for(redis: "Redis", run: Run) -> None:
    in_use(redis)
    now, *_, slots = reserve(run, lead=0.04)
    assert slots == pytest.approx([now + 0.04], abs=1e-5)


def slots_of_a_second(run: Run) -> Reserved:
    """A hundred slots, in several calls."""
    reserved = reserve(run, 100)
    while len(reserved.slots) < 100:
        reserved.slots.extend(reserve(run, 100 - len(reserved.slots)).slots)
    return reserved


def test_the_hundred_and_first_leaves_a_second_and_the_jitter_after_the_first(redis: "Redis", run: Run) -> None:
    in_use(redis)
    reserved = slots_of_a_second(run)
    reserve(run, 0, used={reserved.first: reserved.slots[0]})
    assert reserve(run).slots == pytest.approx([reserved.slots[0] + SECOND], abs=1e-5)


@pytest.mark.parametrize(("ago", "more"), [(0, 0.015 - WAKE_UP_SLACK), (60, 0.0)])
def test_more_jitter_is_allowed_for_where_one_left_late(redis: "Redis", run: Run, ago: float, more: float) -> None:
    in_use(redis)
    reserved = slots_of_a_second(run)
    left_at = reserved.slots[0] + 0.015
    reserve(run, 0, used={reserved.first: left_at})
    redis.hset("app", "late_at", redis_time(redis) - ago)
    assert reserve(run).slots == pytest.approx([left_at + SECOND + more], abs=5e-4)


def test_what_is_not_known_to_have_left_counts_as_late_as_it_may(redis: "Redis", run: Run) -> None:
    in_use(redis)
    reserved = slots_of_a_second(run)
    assert reserve(run).slots == pytest.approx([reserved.slots[0] + MAX_LATE + SECOND], abs=1e-5)


def test_a_slot_that_was_not_used_is_free_for_another_request(redis: "Redis", run: Run) -> None:
    in_use(redis)
    reserved = slots_of_a_second(run)
    left = {reserved.first: reserved.slots[0], reserved.first + 1: reserved.slots[1], reserved.first + 50: -1.0}
    reserve(run, 0, used=left)
    assert reserve(run).slots == pytest.approx([reserved.slots[-1] + GAP], abs=1e-5)
    assert reserve(run).slots == pytest.approx([reserved.slots[-1] + 2 * GAP], abs=1e-5)


@pytest.mark.parametrize(("ago", "gap"), [(0.05, CATCH_UP * GAP), (0.2, GAP)])
def test_what_was_not_used_for_a_moment_is_made_good(redis: "Redis", run: Run, ago: float, gap: float) -> None:
    now = in_use(redis)
    redis.zadd("app:sent", {str(number): now - SECOND - ago for number in range(102)})
    first, second, third = reserve(run, 3).slots
    assert [second - first, third - second] == pytest.approx([gap, gap], abs=1e-5)


def test_a_slot_soon_is_firm_and_one_later_a_claim(redis: "Redis", run: Run) -> None:
    in_use(redis, ahead=SOON - 1.5 * GAP)
    reserved = reserve(run, 5)
    firm = sum(slot <= reserved.now + SOON for slot in reserved.slots)  # two, unless the machine is slow
    assert (reserved.firm, len(reserved.slots)) == (firm, 5)
    assert 2 <= firm < 5
    claims = range(reserved.first + firm, reserved.first + 5)
    assert reserve(run, 0, confirm=claims).confirmed == 5 - firm
    assert reserve(run, 0, confirm=claims).confirmed == 0


def test_a_claim_that_nobody_confirms_is_free_again_and_one_confirmed_is_not(redis: "Redis", run: Run) -> None:
    in_use(redis, ahead=SOON + 0.01)
    reserved = reserve(run, 2)
    assert reserve(run, 0, confirm=[reserved.first]).confirmed == 1
    while redis_time(redis) <= reserved.slots[1] + MAX_LATE:
        time.sleep(0.005)
    assert reserve(run, 0, confirm=[reserved.first + 1]).confirmed == 0
    assert redis.zrange("app:sent", 0, -1) == [str(reserved.first).encode()]
    assert not redis.exists("app:claimed")


def test_no_more_is_remembered_than_counts(redis: "Redis", run: Run) -> None:
    in_use(redis)
    for _ in range(7):
        reserve(run, 100)
        redis.hset("app", "next_slot", redis_time(redis))
        redis.zunionstore("app:sent", {"app:sent": 0.0})  # all of them long ago
    assert redis.zcard("app:sent") == MAX_HISTORY


@settings(max_examples=100, deadline=None)
@given(script=st.lists(calls, min_size=5, max_size=60), limit=st.sampled_from([3, 20, 40]))
def test_whoever_takes_slots_and_whatever_becomes_of_them_no_second_has_more_than_the_limit(
    server: Server, script: list[Call], limit: int
) -> None:
    with Redis.from_url(server.url) as redis:
        redis.flushall()
        in_use(redis)
        left = sorted(left_in(scripts_for(redis), script, limit))
    assert all(later - earlier >= SECOND - 1e-4 for earlier, later in zip(left, left[limit:], strict=False))


def left_in(run: Run, script: list[Call], limit: int) -> Iterator[float]:
    """When requests left, by two processes that are killed now and then and replaced by new ones."""
    claims: dict[int, dict[int, float]] = {}
    untold: dict[int, dict[int, float]] = {}
    for call in script:
        claimed = claims.pop(call.process, {})
        told = untold.pop(call.process, {})
        reserved = reserve(run, call.wanted, limit=limit, lead=call.lead, confirm=list(claimed), used=told)
        slots = dict(enumerate(reserved.slots, reserved.first))
        confirmed = list(claimed)[len(claimed) - reserved.confirmed :]
        firm = list(slots)[: reserved.firm]
        granted = {name: (claimed | slots)[name] for name in confirmed + firm}
        used = {
            name: UNUSED if late == UNUSED else slot + late
            for (name, slot), late in zip(
                granted.items(), cycle([MAX_LATE] if call.killed else call.late), strict=False
            )
        }
        yield from (left_at for left_at in used.values() if left_at != UNUSED)
        if not call.killed:
            untold[call.process] = used
            claims[call.process] = {name: slot for name, slot in slots.items() if name not in granted}


def test_nobody_reserves_far_ahead_what_others_could_use(redis: "Redis", run: Run) -> None:
    in_use(redis, ahead=HORIZON - 2.5 * GAP)
    assert len(reserve(run, 10).slots) == 3
    assert len(reserve(run, 10).slots) == 1


@pytest.mark.parametrize(
    "damage",
    [
        {"next_slot": "tomorrow"},
        {"cut_at": 9e9, "cut_from": 50},
        {"next_slot": 9e9},
        {"paused_until": 9e9},
        {"cut_from": ""},
        {"number": "many"},
    ],
)
def test_a_damaged_budget_is_silent_first(redis: "Redis", run: Run, damage: dict[str, Any]) -> None:
    in_use(redis)
    slots_of_a_second(run)
    in_use(redis, **damage)
    reserved = reserve(run)
    assert reserved.slots == pytest.approx([reserved.now + QUIET_PERIOD], abs=1e-5)
    assert reserved.rate == 100


def test_a_refusal_pauses_and_cuts_once(redis: "Redis", run: Run) -> None:
    in_use(redis)
    paused_until, pause, rate = refuse(run)
    assert pause == pytest.approx(PAUSE, abs=1e-5)
    assert rate == pytest.approx(100 * DECREASE_FACTOR)
    assert refuse(run, age=0.0)[0] == paused_until
    assert refuse(run, age=5.0)[2] >= 100 * DECREASE_FACTOR
    assert reserve(run).slots == pytest.approx([paused_until], abs=1e-5)


def test_a_refusal_after_the_pause_cuts_again_and_aims_lower(redis: "Redis", run: Run) -> None:
    now = in_use(redis)
    in_use(redis, paused_until=now - 0.1, cut_at=now - 0.5, cut_from=100)
    before = reserve(run).rate
    assert refuse(run, age=0.0)[2] == pytest.approx(before * (1 + DECREASE_FACTOR) / 2 * DECREASE_FACTOR, rel=0.01)


@pytest.mark.parametrize(("retry_after", "pause"), [(0.0, PAUSE), (2.5, 2.5), (3600.0, 60.0)])
def test_retry_after_is_honoured_up_to_a_minute(redis: "Redis", run: Run, retry_after: float, pause: float) -> None:
    in_use(redis)
    assert refuse(run, retry_after=retry_after)[1] == pytest.approx(pause, abs=1e-5)


@pytest.mark.parametrize("elapsed", [0.0, 0.3, 1.0, 2.0, 3.9, 4.1, 9.0, 500.0])
@pytest.mark.parametrize("cut_from", [100.0, 92.5, 40.0, 5.0])
def test_the_climb_is_that_of_one_process(redis: "Redis", run: Run, cut_from: float, elapsed: float) -> None:
    now = in_use(redis)
    in_use(redis, cut_at=now - elapsed, cut_from=cut_from)
    redis_now, _, rate, _, _, _, slots = reserve(run, 2)
    alone = Throttle(100, cut_at=now - elapsed, cut_from=cut_from).rate(redis_now)
    assert rate == pytest.approx(alone, rel=1e-3)
    assert slots[1] - slots[0] == pytest.approx(1 / alone, rel=1e-3)


# ---- Redis's clock


@given(
    ahead=st.floats(-1e6, 1e6),
    trips=st.lists(st.tuples(st.floats(0, 0.09), st.floats(0, 0.09), st.floats(0, 10)), min_size=1, max_size=40),
)
@settings(max_examples=100)
def test_the_clock_is_off_by_no_more_than_half_the_quickest_of_the_latest_round_trips(
    ahead: float, trips: list[tuple[float, float, float]]
) -> None:
    clock = RedisClock()
    now = monotonic()
    calls = []
    for there, back, pause in trips:
        clock.note(now, now + there + back, now + there + ahead)
        now += there + back + pause
        calls.append((now - pause, there + back))
    quickest = min(trip for at, trip in calls[-16:] if at >= calls[-1][0] - 59)
    before = monotonic()
    until = now + ahead - clock.now()
    assert now - monotonic() - quickest / 2 - 1e-6 <= until <= now - before + quickest / 2 + 1e-6


@pytest.mark.parametrize("step", [-3600.0, -0.5, 0.5, 3600.0])
def test_a_clock_that_is_set_is_believed_at_once(step: float) -> None:
    clock = RedisClock()
    start = monotonic()
    for number in range(10):
        clock.note(start + number, start + number + 0.001, start + number + 0.0005)
    clock.note(start + 10, start + 10.002, start + 10.001 + step)
    assert clock.now() == pytest.approx(monotonic() + step, abs=0.05)


# ---- the limiter


async def test_limiters_of_one_app_key_share_its_slots(redis: "Redis", server: Server) -> None:
    async with limiters(redis, server.url, 3) as those:
        granted: list[float] = []

        async def work(limiter: RedisLimiter) -> None:
            for _ in range(40):
                await limiter.acquire()
                granted.append(monotonic())

        await asyncio.gather(*map(work, those))
    assert worst_second(granted) <= 100
    assert max(granted) - min(granted) >= 1


async def test_app_keys_do_not_share(redis: "Redis", server: Server) -> None:
    async with RedisLimiter(server.url, app_key="one") as one, RedisLimiter(server.url, app_key="two") as two:
        in_use(redis, one.key)
        in_use(redis, two.key, ahead=50)
        await one.acquire()


async def test_a_busy_process_asks_redis_for_several_slots_at_a_time(redis: "Redis", server: Server) -> None:
    async with limiters(redis, server.url, limit=20) as (limiter,):
        await limiter.acquire()
        before = scripts_run(redis)
        for _ in range(18):
            await limiter.acquire()
        assert scripts_run(redis) - before < 18  # how many slots come late, and are asked for again, is the machine's


async def test_an_idle_process_takes_no_slot_that_it_may_not_use(redis: "Redis", server: Server) -> None:
    async with limiters(redis, server.url, limit=1000) as (limiter,):
        for _ in range(3):
            await asyncio.sleep(0.02)
            await limiter.acquire()
            before = float(redis.hget(limiter.key, "next_slot") or 0)
            assert before - redis_time(redis) < 1 / 1000


def scripts_run(redis: "Redis") -> int:
    return int(redis.info("commandstats")["cmdstat_evalsha"]["calls"])


def redis_time(redis: "Redis") -> float:
    seconds, microseconds = redis.time()
    return float(seconds + microseconds / 1e6)


async def test_cancelled_waits_take_one_slot_together(redis: "Redis", server: Server) -> None:
    async with limiters(redis, server.url, limit=1) as (limiter,):
        now = in_use(redis, limiter.key, ahead=5)
        for _ in range(10):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(limiter.acquire(), 0.05)
        assert float(redis.hget(limiter.key, "next_slot") or 0) < now + 5 + 1.5 * 1


async def test_a_refusal_pauses_and_cuts_the_rate_for_every_limiter(redis: "Redis", server: Server) -> None:
    async with limiters(redis, server.url, 2) as (refused, other):
        before = monotonic()
        pause = await refused.throttle(None, age=0.01)
        assert refused.rate == pytest.approx(85)
        await other.acquire()
        assert monotonic() >= before + pause
        assert 85 <= other.rate < 100


async def test_a_refusal_holds_back_its_own_process_s_slots(redis: "Redis", server: Server) -> None:
    async with limiters(redis, server.url) as (limiter,):
        in_use(redis, limiter.key, ahead=0.4)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(limiter.acquire(), 0.1)  # it has its slot now
        before = monotonic()
        pause = await limiter.throttle(0.8, age=0.0)
        await limiter.acquire()
        assert monotonic() >= before + pause - 0.001


async def test_a_redis_that_is_some_way_off_still_serves(redis: "Redis", server: Server) -> None:
    async with slow_way(server.port, 0.03) as port, limiters(redis, f"redis://127.0.0.1:{port}/0") as (limiter,):
        for _ in range(20):
            await asyncio.wait_for(limiter.acquire(), 2)
        for _ in range(3):
            await asyncio.sleep(0.1)
            await asyncio.wait_for(limiter.acquire(), 2)


async def test_an_idle_process_claims_one_slot_for_one_request(redis: "Redis", server: Server) -> None:
    async with limiters(redis, server.url) as (limiter,):
        in_use(redis, limiter.key, ahead=0.3)
        await limiter.acquire()
        assert int(redis.hget(limiter.key, "number") or 0) == 1
        assert not redis.exists(f"{limiter.key}:claimed")


def test_after_a_loss_a_slot_has_the_name_of_no_earlier_one(redis: "Redis", run: Run) -> None:
    in_use(redis)
    earlier = reserve(run, 3)
    redis.flushall()
    assert reserve(run).first > earlier.first + 2


@asynccontextmanager
async def slow_way(port: int, seconds: float) -> AsyncIterator[int]:
    """A port behind which Redis is so far away."""
    tasks = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(seconds)
            writer.write(data)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        ways = [asyncio.create_task(carry(reader, back)), asyncio.create_task(carry(there, writer))]
        tasks.update(ways)

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await asyncio.wait(tasks)


async def test_one_cancellation_ends_the_wait_at_whatever_step_it_comes(server: Server) -> None:
    for steps in range(60):
        async with RedisLimiter(server.url, app_key=f"app {steps}", limit=0.1) as limiter:
            waiting = asyncio.create_task(limiter.acquire())
            for _ in range(steps):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting], timeout=5)
            assert waiting.cancelled(), f"after {steps} steps"


@pytest.mark.parametrize("steps", range(12))
async def test_a_stall_of_the_own_loop_is_not_held_against_redis(
    redis: "Redis", server: Server, heard: Heard, steps: int
) -> None:
    async with limiters(redis, server.url) as (limiter,):
        await limiter.acquire()
        waiting = asyncio.create_task(limiter.acquire())
        await stall(TIMEOUT * 1.2, after=steps)
        await waiting
        assert limiter.rate == 100
    assert heard.all_read


@pytest.mark.parametrize("steps", range(4, 40, 3))
async def test_a_stall_while_the_connection_is_opened_is_not_held_against_redis(
    redis: "Redis", server: Server, heard: Heard, steps: int
) -> None:
    async with limiters(redis, server.url) as (limiter,):
        waiting = asyncio.create_task(limiter.acquire())
        await stall(FIRST_TIMEOUT * 1.2, after=steps)
        await waiting
        assert limiter.rate == 100
    assert heard.all_read


async def stall(seconds: float, *, after: int) -> None:
    """Keep the event loop busy, after so many turns of it."""
    for _ in range(after):
        await asyncio.sleep(0)
    time.sleep(seconds)  # noqa: ASYNC251  the stall


async def test_an_answer_that_came_in_a_stall_tells_no_time_and_its_slots_are_free_again(
    redis: "Redis", server: Server
) -> None:
    async with limiters(redis, server.url) as (limiter,):
        await limiter.acquire()
        trips = list(limiter._clock._calls)
        asking = asyncio.create_task(limiter._ask_redis(1))
        await stall(TIMEOUT * 1.2, after=1)
        assert not await asking
        assert list(limiter._clock._calls) == trips
        assert redis.zcard(f"{limiter.key}:sent") == 2
        await limiter._ask_redis(0)
        assert redis.zcard(f"{limiter.key}:sent") == 1


async def test_a_time_limit_ends_what_does_not_come() -> None:
    began = monotonic()
    with pytest.raises(TimeoutError):
        async with time_limit(0.05):
            await asyncio.Event().wait()
    assert monotonic() - began >= 0.05


def test_a_second_event_loop_is_refused_in_words(redis: "Redis", server: Server) -> None:
    limiter = RedisLimiter(server.url, app_key="app")
    in_use(redis, limiter.key)

    async def use() -> None:
        await limiter.acquire()
        await limiter.aclose()

    asyncio.run(use())
    with pytest.raises(ClientClosed, match="another event loop: make one limiter in each"):
        asyncio.run(use())
    with pytest.raises(ClientClosed, match="another event loop"):
        asyncio.run(limiter.aclose())
    with pytest.raises(ClientClosed, match="another event loop"):
        asyncio.run(limiter.throttle(None, age=0.0))


# ---- without Redis


@pytest.mark.parametrize("how", ["killed", "stands still"])
async def test_redis_away_and_back(redis: "Redis", server: Server, heard: Heard, how: str) -> None:
    async with limiters(redis, server.url, 2, share=0.5) as those:
        granted: list[float] = []
        one_more = asyncio.Event()

        async def work(limiter: RedisLimiter) -> None:
            while True:
                await limiter.acquire()
                granted.append(monotonic())
                one_more.set()

        async def some_more() -> None:
            enough = len(granted) + 20
            while len(granted) < enough:
                one_more.clear()
                await one_more.wait()

        async with anyio.create_task_group() as working:
            for limiter in those:
                working.start_soon(work, limiter)
            await some_more()
            (server.kill if how == "killed" else server.stand_still)()
            for _ in those:
                assert "45.0 requests/s" in await heard.next()
            await some_more()
            assert all(limiter.rate == 45 for limiter in those)
            (server.start if how == "killed" else server.go_on)()
            for _ in those:
                assert "again" in await heard.next()
            assert all(limiter.rate == 100 for limiter in those)
            for _ in range(3):
                await some_more()
            working.cancel_scope.cancel()
    assert worst_second(granted) <= 100
    assert heard.all_read


async def test_a_refusal_without_redis_holds_back_the_own_share(heard: Heard) -> None:
    async with RedisLimiter("redis://127.0.0.1:1/0", app_key="app", share=0.1) as limiter:
        assert await limiter.throttle(None, age=0.0) >= PAUSE
        assert "127.0.0.1:1" in await heard.next()
        assert limiter.rate == pytest.approx(100 * 0.1 * 0.9 * 0.85)
        assert await limiter.throttle(2.0, age=1.0) >= 2.0
        assert heard.all_read
        assert repr(limiter) == "<RedisLimiter at 127.0.0.1:1, 100, rate=7.7, away>"


async def test_a_long_wait_for_the_own_share_still_looks_for_redis(
    redis: "Redis", server: Server, heard: Heard
) -> None:
    async with limiters(redis, server.url, limit=0.5, share=0.1) as (limiter,):
        server.stand_still()
        await limiter.acquire()
        assert "0.0 requests/s" in await heard.next()
        waiting = asyncio.create_task(limiter.acquire())
        server.go_on()
        assert "again" in await heard.next()
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_a_refused_password_is_no_reason_to_stop_and_shown_nowhere(server: Server, heard: Heard) -> None:
    url = f"redis://user:hunter2@127.0.0.1:{server.port}/0"
    async with RedisLimiter(url, app_key="app", share=1) as limiter:
        await limiter.acquire()
        assert "hunter2" not in await heard.next() + repr(limiter)


# ---- in a client, and in words


async def test_a_client_takes_the_words_for_it_and_closes_what_it_made(redis: "Redis", server: Server) -> None:
    async with Emulator(Service()) as emulator:
        client = GroupClient(
            emulator.app_key,
            emulator.app_secret,
            base_urls=emulator.url,
            verify=emulator.ssl_context,
            limiter=f"{server.url}?share=0.5",
        )
        key = RedisLimiter(server.url, app_key=emulator.app_key).key
        in_use(redis, key)
        async with client:
            await client.get("g1")
            assert len(redis.client_list()) == 2
        await asyncio.to_thread(until_alone, redis)
        assert set(redis.keys()) == {key.encode(), f"{key}:sent".encode()}


def until_alone(redis: "Redis") -> None:
    while len(redis.client_list()) != 1:
        time.sleep(0.001)


async def test_a_client_leaves_a_limiter_open_that_is_not_its_own(redis: "Redis", server: Server) -> None:
    async with Emulator(Service()) as emulator, limiters(redis, server.url) as (limiter,):
        for _ in range(2):
            async with GroupClient(
                emulator.app_key,
                emulator.app_secret,
                base_urls=emulator.url,
                verify=emulator.ssl_context,
                limiter=limiter,
            ) as client:
                await client.get("g1")
        assert len(redis.client_list()) == 2


def test_words_carry_the_limit_and_share_and_other_options() -> None:
    limiter = limiter_from_url("redis://host:7/3?share=0.25&client_name=me", app_key="app", limit=40)
    assert repr(limiter) == "<RedisLimiter at host:7, 40, rate=40.0>"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://host?share=0", "share is"),
        ("redis://host?share=1.5", "share is"),
        ("redis://host?share=half", "share is 'half'"),
        ("redis://host?share=", "share is ''"),
        ("redis://host?socket_timeout=soon", "cannot be read"),
        ("redis://host:port", "cannot be read"),
        ("redis://host?shares=0.25", "option of the Redis URL cannot be used: .*'shares'"),
        ("redis://host?ssl_cert_reqs=none", "option of the Redis URL cannot be used: .*'ssl_cert_reqs'"),
        ("rediss://host?ssl_cert_reqs=maybe", "option of the Redis URL cannot be used: .*maybe"),
        ("redis://host?socket_timeout=1", "leave socket_timeout out of the Redis URL"),
        ("redis://[::1", "the Redis URL cannot be read"),
        ("redis://host?retry=3", "option of the Redis URL cannot be used: .*update_supported_errors"),
        ("redis://", "redis://HOST:PORT/DATABASE"),
        ("redis:///0", "redis://HOST:PORT/DATABASE"),
        ("redis://user:password@:6379/0", "redis://HOST:PORT/DATABASE"),
        ("redis:127.0.0.1", "redis://HOST:PORT/DATABASE"),
    ],
)
def test_words_that_cannot_be_used_are_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        limiter_from_url(url, app_key="app", limit=100)


@pytest.mark.parametrize("limit", [0, -1, math.nan])
def test_a_limit_that_is_no_positive_number_is_refused(limit: float) -> None:
    with pytest.raises(ConfigError, match="rate is"):
        RedisLimiter("redis://host", app_key="app", limit=limit)


@pytest.mark.parametrize(("url", "message"), [("http://host", "rediss://"), ("redis://[::1", "cannot be read")])
def test_another_kind_of_url_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RedisLimiter(url, app_key="app")


@pytest.mark.parametrize("options", ["", "?ssl_cert_reqs=none&ssl_check_hostname=no"])
def test_options_of_tls_are_those_of_a_rediss_url(options: str) -> None:
    assert "at host:7," in repr(RedisLimiter(f"rediss://host:7/0{options}", app_key="app"))


def test_without_redis_py_the_words_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rongcloud_groups.limiters.redis", None)
    with pytest.raises(ConfigError, match=r"rongcloud-groups\[redis\]"):
        limiter_from_url("redis://host", app_key="app", limit=100)
