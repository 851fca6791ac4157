import asyncio
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from random import Random
from time import monotonic
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis
from support.redis_server import RedisServer, delayed, redis_time
from support.virtual_time import now, run

from rongcloud_groups import ClientClosed, ConfigError, GroupClient
from rongcloud_groups.emulator import Emulator, Service, worst_second
from rongcloud_groups.limiters.local import LocalLimiter
from rongcloud_groups.limiters.redis import RedisLimiter, fallback_limit
from rongcloud_groups.limiters.redis_connection import RedisClock
from rongcloud_groups.limiters.schedule import MAX_LATE, PAUSE, QUIET_PERIOD, Window


def in_use(redis: Redis, key: str, *, ahead: float = -5.0, **fields: Any) -> float:
    """Put a budget that was used before, so that it is not quiet first; return Redis's time."""
    now = redis_time(redis)
    state = {"next_slot": now + ahead, "paused_until": 0, "cut_at": 0, "cut_from": 0, "number": 0, "late": 0}
    redis.hset(key, mapping=state | {"late_at": 0} | fields)
    return now


class Warnings(logging.Handler):
    """The warnings of the package, in order."""

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
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis may take as long as a busy machine does."""
    monkeypatch.setattr("rongcloud_groups.limiters.redis_connection.TIMEOUT", 30)


@pytest.fixture
async def warned() -> AsyncIterator[Warnings]:
    logger = logging.getLogger("rongcloud_groups")
    handler = Warnings()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@asynccontextmanager
async def limiters(redis: Redis, url: str, count: int = 1, **options: Any) -> AsyncIterator[list[RedisLimiter]]:
    """Limiters of one App Key, as several processes have them, whose budget is in use."""
    made = [RedisLimiter(url, app_key="app", **options) for _ in range(count)]
    in_use(redis, made[0].key, limit=options.get("limit", 100))
    for limiter in made:
        await limiter.open()
    yield made
    for limiter in made:
        await limiter.aclose()


def script_calls(redis: Redis) -> int:
    return int(redis.info("commandstats")["cmdstat_evalsha"]["calls"])


# ---- Redis's clock


@given(
    ahead=st.floats(-1e6, 1e6),
    trips=st.lists(st.tuples(st.floats(0, 0.09), st.floats(0, 0.09), st.floats(0, 10)), min_size=1, max_size=40),
)
@settings(max_examples=100)
def test_the_clock_is_off_by_at_most_half_the_quickest_recent_round_trip(
    ahead: float, trips: list[tuple[float, float, float]]
) -> None:
    clock = RedisClock()
    now = monotonic()
    calls = []
    for there, back, pause in trips:
        assert clock.note(now, now + there + back, now + there + ahead) == 0
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
    assert clock.note(start + 10, start + 10.002, start + 10.001 + step) == pytest.approx(step)
    assert clock.now() == pytest.approx(monotonic() + step, abs=0.05)


# ---- the limiter


async def test_limiters_of_one_app_key_share_its_slots(redis: Redis, server: RedisServer) -> None:
    async with limiters(redis, server.url, 3) as several:
        granted: list[float] = []

        async def work(limiter: RedisLimiter) -> None:
            for _ in range(40):
                await limiter.acquire()
                granted.append(monotonic())

        await asyncio.gather(*map(work, several))
    assert worst_second(granted) <= 100
    assert max(granted) - min(granted) >= 1


async def test_app_keys_do_not_share(redis: Redis, server: RedisServer) -> None:
    async with RedisLimiter(server.url, app_key="one") as one, RedisLimiter(server.url, app_key="two") as two:
        in_use(redis, one.key)
        in_use(redis, two.key, ahead=50)
        await one.acquire()


@pytest.mark.usefixtures("patient")
async def test_an_idle_process_reserves_one_slot_for_one_request(redis: Redis, server: RedisServer) -> None:
    async with limiters(redis, server.url) as (limiter,):
        in_use(redis, limiter.key, ahead=0.3)
        await limiter.acquire()
        assert int(redis.hget(limiter.key, "number") or 0) == 1


@pytest.mark.usefixtures("patient")
async def test_closing_gives_back_the_slots_that_were_not_used(redis: Redis, server: RedisServer) -> None:
    async with limiters(redis, server.url, limit=1) as (limiter,):
        await limiter.acquire()
        with anyio.move_on_after(0.05):
            await limiter.acquire()
        await limiter.aclose()
        assert redis.zcard(f"{limiter.key}:sent") == 1 + redis.zcard(f"{limiter.key}:free") > 1


@pytest.mark.usefixtures("patient")
async def test_cancelled_waits_take_one_slot_together(redis: Redis, server: RedisServer) -> None:
    async with limiters(redis, server.url, limit=1) as (limiter,):
        in_use(redis, limiter.key, ahead=5, limit=1)
        for _ in range(10):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(limiter.acquire(), 0.02)
        assert int(redis.hget(limiter.key, "number") or 0) == 1


async def test_one_cancellation_ends_the_wait_at_whatever_step_it_comes(server: RedisServer) -> None:
    for steps in range(30):
        async with RedisLimiter(server.url, app_key=f"app {steps}", limit=0.1) as limiter:
            waiting = asyncio.create_task(limiter.acquire())
            for _ in range(steps):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting], timeout=60)
            assert waiting.cancelled(), f"after {steps} steps"


@pytest.mark.usefixtures("patient")
async def test_a_refusal_pauses_and_cuts_the_rate_for_every_limiter(redis: Redis, server: RedisServer) -> None:
    async with limiters(redis, server.url, 2) as (refused, other):
        before = monotonic()
        pause = await refused.throttle(None, age=0.01)
        assert refused.rate == pytest.approx(85)
        await other.acquire()
        assert monotonic() >= before + pause
        assert 85 <= other.rate < 100


@pytest.mark.usefixtures("patient")
async def test_a_refusal_holds_back_the_slots_of_its_own_process(redis: Redis, server: RedisServer) -> None:
    async with limiters(redis, server.url) as (limiter,):
        in_use(redis, limiter.key, ahead=1.5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(limiter.acquire(), 0.1)  # it has its slot now
        before = monotonic()
        pause = await limiter.throttle(2, age=0.0)
        await limiter.acquire()
        assert monotonic() >= before + pause - 0.001


@pytest.mark.parametrize("away", [0.03, 0.08])
@pytest.mark.usefixtures("patient")
async def test_a_redis_that_is_far_away_serves_a_busy_process_ahead(
    redis: Redis, server: RedisServer, warned: Warnings, away: float
) -> None:
    async with delayed(server.port, away) as port, limiters(redis, f"redis://127.0.0.1:{port}/0") as (limiter,):
        for _ in range(40):
            await limiter.acquire()
        before = script_calls(redis)
        for _ in range(40):
            await limiter.acquire()
        assert script_calls(redis) - before <= 20
    assert warned.all_read


# ---- busy event loops


@contextmanager
def blocked(seconds: float) -> Iterator[list[int]]:
    """Block the event loop for so long in each of its turns, and count them."""
    turns = [0]

    async def block() -> None:
        while True:
            time.sleep(seconds)  # noqa: ASYNC251  the block
            turns[0] += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(block())
    yield turns
    task.cancel()


@pytest.mark.parametrize("seconds", [0.01, 0.05, 2 * MAX_LATE])
async def test_a_loop_that_is_never_free_gets_its_slots(
    redis: Redis, server: RedisServer, warned: Warnings, seconds: float
) -> None:
    async with limiters(redis, server.url) as (limiter,):
        with blocked(seconds) as turns:
            for _ in range(4):
                before = turns[0]
                await limiter.acquire()
                assert turns[0] - before <= 12 + 0.5 / seconds
    assert warned.all_read


async def test_a_busy_loop_uses_several_slots_in_a_turn(redis: Redis, server: RedisServer) -> None:
    async with limiters(redis, server.url) as (limiter,):
        with blocked(0.05) as turns:
            for _ in range(60):
                await limiter.acquire()
            before = turns[0]
            for _ in range(60):
                await limiter.acquire()
            assert turns[0] - before <= 30


@pytest.mark.parametrize("steps", [0, 1, 3])
async def test_a_stall_of_its_own_loop_is_not_held_against_redis(
    redis: Redis, server: RedisServer, warned: Warnings, steps: int
) -> None:
    async with limiters(redis, server.url) as (limiter,):
        waiting = asyncio.create_task(limiter.acquire())
        for _ in range(steps):
            await asyncio.sleep(0)
        time.sleep(0.7)  # noqa: ASYNC251  longer than Redis has to reply
        await waiting
        assert limiter.rate == 100
    assert warned.all_read


async def test_a_request_counts_from_the_moment_at_which_it_left(redis: Redis, server: RedisServer) -> None:
    async with limiters(redis, server.url) as (limiter,):
        await limiter.acquire()
        time.sleep(0.4)  # noqa: ASYNC251  the process is interrupted
        left_at = redis_time(redis)
        limiter.sent()
        await limiter.aclose()
        assert redis.zcount(f"{limiter.key}:sent", left_at - 0.2, redis_time(redis)) == 1


# ---- event loops, and the end


def test_one_event_loop_after_the_other_may_use_a_limiter(redis: Redis, server: RedisServer) -> None:
    limiter = RedisLimiter(server.url, app_key="app")
    in_use(redis, limiter.key)
    for _ in range(3):
        asyncio.run(limiter.acquire())

    async def beside_another_loop() -> None:
        await limiter.acquire()
        with pytest.raises(ClientClosed, match="in use in another event loop: make one limiter in each"):
            await asyncio.to_thread(asyncio.run, limiter.acquire())
        with pytest.raises(ClientClosed, match="another event loop"):
            await asyncio.to_thread(asyncio.run, limiter.throttle(None, age=0.0))
        with pytest.raises(ClientClosed, match="another event loop"):
            await asyncio.to_thread(asyncio.run, limiter.aclose())
        await limiter.aclose()

    asyncio.run(beside_another_loop())


async def test_a_closed_limiter_says_so(server: RedisServer) -> None:
    limiter = RedisLimiter(server.url, app_key="app")
    await limiter.aclose()
    await limiter.aclose()
    with pytest.raises(ClientClosed, match="the RedisLimiter is closed: make another one"):
        await limiter.acquire()


def test_a_process_ends_though_its_limiter_was_never_closed(redis: Redis, server: RedisServer) -> None:
    limiter = RedisLimiter(server.url, app_key="app")
    in_use(redis, limiter.key)
    script = (
        "import asyncio; from rongcloud_groups.limiters import RedisLimiter;"
        f"asyncio.run(RedisLimiter({server.url!r}, app_key='app').acquire())"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=100)  # noqa: S603  ours


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_limiter_made_before_a_fork_works_after_it(redis: Redis, server: RedisServer) -> None:
    script = f"""
import asyncio, os
from rongcloud_groups.limiters import RedisLimiter
limiter = RedisLimiter({server.url!r}, app_key='app')
asyncio.run(limiter.acquire())
child = os.fork()
asyncio.run(limiter.acquire())
assert limiter.rate == 100
if child:
    raise SystemExit(os.waitpid(child, 0)[1])
"""
    in_use(redis, RedisLimiter(server.url, app_key="app").key)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=100)  # noqa: S603  ours


# ---- what happens to the budget


async def test_lost_keys_are_reported_and_followed_by_a_pause(
    redis: Redis, server: RedisServer, warned: Warnings
) -> None:
    async with limiters(redis, server.url) as (limiter,):
        await limiter.acquire()
        redis.flushall()
        redis.script_flush()
        lost_at = monotonic()
        await limiter.acquire()
        await limiter.acquire()
        assert "was lost: pausing for 1.6 s" in await warned.next()
        assert monotonic() - lost_at >= QUIET_PERIOD - 0.05


async def test_a_clock_of_redis_that_goes_back_is_reported_and_silences_for_a_pause_only(
    redis: Redis, server: RedisServer, warned: Warnings
) -> None:
    async with limiters(redis, server.url) as (limiter,):
        await limiter.acquire()
        now = redis_time(redis)
        redis.hset(limiter.key, mapping={"seen_at": now + 30, "next_slot": now + 30})
        before = monotonic()
        await limiter.acquire()
        await limiter.acquire()
        assert "clock of Redis at 127.0.0.1" in (message := await warned.next())
        assert "by -30.0 s: pausing for 1.6 s" in message
        assert monotonic() - before < 5


async def test_another_rate_on_the_same_key_is_reported_once(
    redis: Redis, server: RedisServer, warned: Warnings
) -> None:
    async with limiters(redis, server.url) as (one,), RedisLimiter(server.url, app_key="app", limit=50) as other:
        assert "with a rate of 100 requests/s, this one with 50" in await warned.next()
        await one.acquire()
        assert "with a rate of 50 requests/s, this one with 100" in await warned.next()
        await other.acquire()
    assert warned.all_read


# ---- without Redis


@pytest.mark.parametrize("how", ["killed", "suspended"])
async def test_redis_away_and_back(redis: Redis, server: RedisServer, warned: Warnings, how: str) -> None:
    async with limiters(redis, server.url, 2, share=0.5) as several:
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
            for limiter in several:
                working.start_soon(work, limiter)
            await some_more()
            (server.kill if how == "killed" else server.suspend)()
            for _ in several:
                assert "45.0 requests/s" in await warned.next()
            await some_more()
            assert all(limiter.rate == 45 for limiter in several)
            (server.start if how == "killed" else server.resume)()
            for _ in several:
                assert "again" in await warned.next()
            assert all(limiter.rate == 100 for limiter in several)
            for _ in range(3):
                await some_more()
            working.cancel_scope.cancel()
    assert worst_second(granted) <= 100
    assert warned.all_read


async def test_a_connection_that_redis_closed_is_opened_again_without_a_word(
    redis: Redis, server: RedisServer, warned: Warnings
) -> None:
    async with limiters(redis, server.url) as (limiter,):
        for _ in range(5):
            await limiter.acquire()
            redis.client_kill_filter(_type="normal", skipme=True)
            await limiter.acquire()
    assert warned.all_read


@pytest.mark.parametrize(
    ("trouble", "message"), [({"maxmemory": "1"}, "maxmemory"), ({"min-replicas-to-write": "1"}, "NOREPLICAS")]
)
async def test_a_redis_that_takes_no_writes_is_away_until_it_does(
    redis: Redis, server: RedisServer, warned: Warnings, trouble: dict[str, str], message: str
) -> None:
    async with limiters(redis, server.url, share=1) as (limiter,):
        for name, value in trouble.items():
            redis.config_set(name, value)
        await limiter.acquire()
        assert message in await warned.next()
        for name in trouble:
            redis.config_set(name, "0")
        while limiter.rate != 100:
            await limiter.acquire()
        assert "again" in await warned.next()


@given(limit=st.sampled_from([0.5, 1, 1.08, 3.33, 7.5, 12.5, 100, 499]), processes=st.integers(1, 600))
def test_shares_without_redis_never_add_up_to_more_than_the_whole(limit: float, processes: int) -> None:
    whole = Window.of(limit, max_requests=math.inf)
    if share := fallback_limit(limit, 1 / processes):
        part = Window.of(share, max_requests=math.inf)
        assert part.seconds >= whole.seconds
        assert part.requests * processes <= whole.requests
    else:
        assert processes > whole.requests


@pytest.mark.parametrize(
    ("limit", "processes"), [(100.0, 60), (100.0, 8), (100.0, 70), (100.0, 100), (12.5, 4), (7.5, 7)]
)
def test_processes_without_redis_keep_the_limit_together(limit: float, processes: int) -> None:
    async def sent_by(random: Random) -> list[float]:
        limiter, times = LocalLimiter(fallback_limit(limit, 1 / processes)), []
        await asyncio.sleep(random.choice([0.0, 0.0, random.uniform(0, 2)]))
        while now() < 8.0:
            await limiter.acquire()
            times.append(now())
            await asyncio.sleep(random.choice([0.0, 0.0, 0.0, random.uniform(0, 1.5)]))
        return times

    runs = [run(sent_by(Random(number)), lateness=0.001) for number in range(processes)]
    assert 0 < worst_second(time for sent in runs for time in sent) <= limit


async def test_a_share_of_less_than_one_request_waits_for_redis(
    redis: Redis, server: RedisServer, warned: Warnings
) -> None:
    async with limiters(redis, server.url, share=1 / 200) as (limiter,):
        server.suspend()
        waiting = asyncio.create_task(limiter.acquire())
        assert "share is less than one request, and nothing leaves" in await warned.next()
        assert limiter.rate == 0
        server.resume()
        assert "again" in await warned.next()
        await waiting


async def test_a_refusal_without_redis_holds_back_the_share_of_its_process(warned: Warnings) -> None:
    async with RedisLimiter("redis://127.0.0.1:1/0", app_key="app", share=0.1) as limiter:
        assert "127.0.0.1:1" in await warned.next()
        assert await limiter.throttle(None, age=0.0) >= PAUSE
        assert limiter.rate == pytest.approx(9 * 0.85)
        assert await limiter.throttle(2.0, age=1.0) >= 2.0
        assert warned.all_read
        assert repr(limiter) == "<RedisLimiter at 127.0.0.1:1, 100, rate=7.7, away>"


async def test_a_refusal_that_redis_does_not_take_pauses_this_process(redis: Redis, server: RedisServer) -> None:
    async with limiters(redis, server.url) as (limiter,):
        await limiter.acquire()
        server.suspend()
        pause = await limiter.throttle(1.0, age=0.0)
        server.resume()
        before = monotonic()
        await limiter.acquire()
        assert monotonic() - before >= pause - 0.01


async def test_a_long_wait_for_the_share_still_looks_for_redis(
    redis: Redis, server: RedisServer, warned: Warnings
) -> None:
    async with limiters(redis, server.url, limit=10, share=0.1) as (limiter,):
        server.suspend()
        await limiter.acquire()
        assert "requests/s" in await warned.next()
        waiting = asyncio.create_task(limiter.acquire())
        server.resume()
        assert "again" in await warned.next()
        await waiting


# ---- in a client


async def test_a_client_takes_a_url_and_closes_the_limiter_it_made(redis: Redis, server: RedisServer) -> None:
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
        assert set(redis.keys()) - {f"{key}:free".encode()} == {key.encode(), f"{key}:sent".encode()}


def until_alone(redis: Redis) -> None:
    while len(redis.client_list()) != 1:
        time.sleep(0.001)


async def test_a_client_leaves_a_limiter_open_that_is_not_its_own(redis: Redis, server: RedisServer) -> None:
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


@pytest.mark.parametrize("limit", [0, -1, math.nan])
def test_a_limit_that_is_no_positive_number_is_refused(limit: float) -> None:
    with pytest.raises(ConfigError, match="rate is"):
        RedisLimiter("redis://host", app_key="app", limit=limit)
