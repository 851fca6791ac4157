import asyncio
from collections.abc import Sequence
from itertools import cycle
from math import inf
from time import monotonic

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limiters.simulation import counted
from support.virtual_time import at, now, run, stall, virtual_time

from rongcloud_groups import ClientClosed, ConfigError, GroupClient, LocalLimiter
from rongcloud_groups.limiters.schedule import MAX_LATE, PATH_JITTER, PAUSE, PAUSE_JITTER, WAKE_UP_SLACK, Window

LIMITS = [0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 33.3, 99.0, 100.0, 250.0, 1000.0]


class Sender:
    """Takes tokens one after the other, as the client does, and notes when."""

    def __init__(self, limiter: LocalLimiter) -> None:
        self.limiter = limiter
        self.granted: list[float] = []

    async def take_until(self, end: float, stalls: Sequence[tuple[float, float]] = ()) -> None:
        """Take tokens until ``end``; before the token at or after each given time the loop stalls for so long."""
        due = sorted(stalls)
        while now() < end:
            if due and now() >= due[0][0]:
                stall(due.pop(0)[1])
            await self.limiter.acquire()
            self.granted.append(now())


async def grants_of(limit: float, seconds: float, stalls: Sequence[tuple[float, float]] = ()) -> list[float]:
    sender = Sender(LocalLimiter(limit))
    await sender.take_until(seconds, stalls)
    return sender.granted


def most_in_one_second(times: Sequence[float]) -> int:
    worst = first = 0
    for last, end in enumerate(times):
        while end - times[first] >= 1.0:
            first += 1
        worst = max(worst, last - first + 1)
    return worst


@pytest.mark.parametrize("lateness", [1e-6, 0.001, 0.0019, 0.02])
@pytest.mark.parametrize("limit", LIMITS)
def test_no_second_holds_more_grants_than_the_limit(limit: float, lateness: float) -> None:
    granted = run(grants_of(limit, max(10.0, 5 / limit)), lateness=lateness)
    assert most_in_one_second(granted) <= max(1, int(limit))


@pytest.mark.parametrize("limit", LIMITS)
def test_timers_a_millisecond_late_leave_98_9_percent_of_the_limit(limit: float) -> None:
    granted = run(grants_of(limit, max(20.0, 50 / limit)), lateness=0.001)
    assert (len(granted) - 1) / (granted[-1] - granted[0]) >= 0.989 * Window.of(limit).rate


@given(
    limit=st.sampled_from(LIMITS),
    lateness=st.floats(1e-6, 0.01),
    stalls=st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 2.0)), max_size=20),
)
@settings(max_examples=60)
def test_a_stalled_loop_makes_no_burst(limit: float, lateness: float, stalls: list[tuple[float, float]]) -> None:
    granted = run(grants_of(limit, 6.0, stalls), lateness=lateness)
    assert most_in_one_second(granted) <= max(1, int(limit))


@given(
    limit=st.sampled_from(LIMITS),
    late=st.lists(st.sampled_from([0.0] * 8 + [0.003, 0.02, MAX_LATE]), min_size=1, max_size=30),
)
@settings(max_examples=60, deadline=None)
def test_a_process_that_is_interrupted_before_the_write_keeps_the_limit(limit: float, late: list[float]) -> None:
    async def sent_times() -> list[float]:
        limiter, sent, again = LocalLimiter(limit), list[float](), cycle(late)
        while now() < max(5.0, 5 / limit):
            await limiter.acquire()
            stall(next(again))
            limiter.sent()
            sent.append(now())
        return sent

    sent = run(sent_times())
    requests, seconds = Window.of(limit, max_requests=inf)
    spans = [later - earlier for earlier, later in zip(sent, sent[requests:], strict=False)]
    assert all(span >= seconds + PATH_JITTER - WAKE_UP_SLACK - 1e-5 for span in spans)


@virtual_time
async def test_the_first_grant_comes_at_once_and_idle_time_saves_up_no_burst() -> None:
    sender = Sender(LocalLimiter(100))
    await sender.take_until(0.001)
    assert sender.granted[0] == 0.0
    await at(10.0)
    await sender.take_until(12.0)
    assert most_in_one_second(sender.granted) <= 100
    assert sender.granted[2] == pytest.approx(10.0, abs=1e-5)


@virtual_time
async def test_a_cancelled_wait_takes_no_token() -> None:
    limiter = LocalLimiter(1)
    await limiter.acquire()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(limiter.acquire(), 0.2)
    await limiter.acquire()
    assert now() < 1.02


@virtual_time
async def test_a_refusal_pauses_and_cuts_the_rate_once() -> None:
    limiter = LocalLimiter(100)
    await limiter.acquire()
    pause = await limiter.throttle(None, age=0.01)
    assert PAUSE <= pause <= PAUSE + PAUSE_JITTER
    assert limiter.rate == pytest.approx(85)
    await limiter.acquire()
    assert pause <= now() <= pause + 2 / 85


@virtual_time
async def test_a_refusal_holds_back_a_request_that_waits_for_a_token_already() -> None:
    limiter = LocalLimiter(100)
    await limiter.acquire()
    waiting = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(0)
    pause = await limiter.throttle(None, age=0.0)
    await waiting
    assert now() >= pause


@virtual_time
async def test_a_burst_of_refusals_is_one_cut() -> None:
    limiter = LocalLimiter(100)
    await at(5.0)
    await limiter.throttle(None, age=0.02)
    for since in (0.0, 0.01, 0.05, 0.2):
        await at(5.0 + since)
        await limiter.throttle(None, age=since + 0.03)
    assert limiter.rate == pytest.approx(85)
    await at(6.0)
    await limiter.throttle(None, age=0.1)
    assert limiter.rate < 75


@virtual_time
async def test_old_news_does_not_lengthen_the_pause() -> None:
    limiter = LocalLimiter(100)
    await limiter.throttle(None, age=0.0)
    await at(0.15)
    assert await limiter.throttle(None, age=0.3) <= PAUSE + PAUSE_JITTER - 0.15
    await at(3.0)
    assert await limiter.throttle(None, age=3.1) == 0.0


@pytest.mark.parametrize(
    ("retry_after", "least", "most"), [(0.0, 0.2, 0.25), (2.0, 2.0, 2.05), (60.0, 60.0, 60.05), (inf, 60.0, 60.05)]
)
@virtual_time
async def test_retry_after_is_honoured_up_to_a_minute(retry_after: float, least: float, most: float) -> None:
    limiter = LocalLimiter(100)
    assert least <= await limiter.throttle(retry_after, age=0.0) <= most
    await limiter.acquire()
    assert least <= now() <= most + 2 / 85


@virtual_time
async def test_old_news_with_a_retry_after_pauses_without_a_cut() -> None:
    limiter = LocalLimiter(100)
    await limiter.throttle(None, age=0.0)
    await at(0.1)
    assert await limiter.throttle(3.0, age=0.5) >= 3.0
    assert limiter.rate == pytest.approx(85)


@pytest.mark.parametrize("limit", [5.0, 20.0, 100.0, 1000.0])
@pytest.mark.parametrize("refusals", [1, 2, 5, 9, 40])
@virtual_time
async def test_the_rate_has_a_floor_and_climbs_back_within_ten_seconds(refusals: int, limit: float) -> None:
    limiter = LocalLimiter(limit)
    for _ in range(refusals):
        await asyncio.sleep(0.01)
        await limiter.throttle(None, age=0.0)
    assert limit * 0.05 <= limiter.rate <= max(limit * 0.85**refusals, limit * 0.05) * 1.0001
    refused_at = now()
    rates = []
    while now() < refused_at + 10.0:
        await asyncio.sleep(0.2)
        await limiter.acquire()
        rates.append(limiter.rate)
    assert rates == sorted(rates)
    assert limiter.rate == limit


@virtual_time
async def test_the_climb_is_slow_near_the_rate_that_was_refused() -> None:
    limiter = LocalLimiter(100)
    await limiter.throttle(None, age=0.0)
    rates = {}
    for seconds in (0.5, 1.0, 2.0, 3.0, 3.9, 4.1):
        await at(seconds)
        await limiter.acquire()
        rates[seconds] = limiter.rate
    assert rates[1.0] - rates[0.5] > rates[3.9] - rates[3.0]
    assert rates[3.9] < 100
    assert rates[4.1] == 100


@given(
    limit=st.sampled_from(LIMITS[:-1]),
    lateness=st.floats(1e-6, 0.01),
    refusals=st.lists(
        st.tuples(st.floats(0.0, 8.0), st.none() | st.floats(0.0, 2.0), st.floats(0.0, 1.0)), min_size=1, max_size=12
    ),
)
@settings(max_examples=100)
def test_no_second_holds_more_grants_than_the_limit_while_the_rate_changes(
    limit: float, lateness: float, refusals: list[tuple[float, float | None, float]]
) -> None:
    async def refused_at_times() -> list[float]:
        limiter = LocalLimiter(limit)
        sender = Sender(limiter)
        taking = asyncio.create_task(sender.take_until(20.0))
        for time, retry_after, age in sorted(refusals, key=lambda refusal: refusal[0]):
            await at(time)
            await limiter.throttle(retry_after, age)
        await taking
        return sender.granted

    assert most_in_one_second(run(refused_at_times(), lateness=lateness)) <= max(1, int(limit))


@virtual_time
async def test_a_low_limit_holds_when_a_wait_for_a_token_outlasts_the_pause() -> None:
    limiter = LocalLimiter(2)
    sender = Sender(limiter)
    taking = asyncio.create_task(sender.take_until(5.0))
    await at(0.1)
    await limiter.throttle(None, age=0.0)
    await taking
    assert most_in_one_second(sender.granted) <= 2


def test_a_limiter_serves_one_event_loop_after_the_other_and_keeps_the_limit() -> None:
    async def take(count: int) -> None:
        for _ in range(count):
            await limiter.acquire()

    limiter = LocalLimiter(20)
    before = monotonic()
    for _ in range(3):
        asyncio.run(take(2))
    assert monotonic() - before >= 5 / 20


def test_a_limiter_in_use_in_another_event_loop_is_refused() -> None:
    limiter = LocalLimiter(100)

    async def take_beside_another_loop() -> None:
        await limiter.acquire()
        with pytest.raises(ClientClosed, match="LocalLimiter is in use in another event loop: make one"):
            await asyncio.to_thread(asyncio.run, limiter.acquire())
        await limiter.acquire()

    asyncio.run(take_beside_another_loop())


@pytest.mark.parametrize(
    ("block", "free", "least"),
    [(0.01, 0.005, 95), (0.02, 0.005, 92), (0.05, 0.005, 85), (0.1, 0.005, 80), (0.02, 0.0, 88), (0.05, 0.0, 80)],
)
@virtual_time
async def test_a_blocked_loop_catches_up_and_stays_even(block: float, free: float, least: float) -> None:
    async def block_again_and_again() -> None:
        while True:
            stall(block)
            await asyncio.sleep(free)

    blocking = asyncio.create_task(block_again_and_again())
    sender = Sender(LocalLimiter(100))
    await sender.take_until(12.0)
    blocking.cancel()
    assert sum(2 <= time < 12 for time in sender.granted) >= 10 * least
    counts = counted(sender.granted, Window(100, 1.0))
    assert max(counts.sliding, counts.fixed, counts.estimated) <= 100


@pytest.mark.parametrize("limit", [0, -1, float("nan"), inf, True, "100", None])
def test_a_limit_that_is_no_positive_number_is_refused(limit: object) -> None:
    with pytest.raises(ConfigError, match=r"rate is .*give a positive number"):
        LocalLimiter(limit)  # type: ignore[arg-type]


@virtual_time
async def test_its_repr_shows_the_limit_and_the_rate() -> None:
    limiter = LocalLimiter(100)
    await limiter.throttle(None, age=0.0)
    assert repr(limiter) == "LocalLimiter(100, rate=85.0)"


def missing(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"code": 200, "profiles": []})


async def test_a_client_that_is_opened_after_another_resumes_its_budget() -> None:
    async def get() -> None:
        async with GroupClient("reopened", "secret", rate=10, transport=httpx.MockTransport(missing)) as client:
            await client.get("g1")

    began = monotonic()
    for _ in range(4):
        await get()
    await asyncio.to_thread(asyncio.run, get())
    assert monotonic() - began >= 4 / 10


async def test_a_limiter_is_notified_of_each_request_that_left() -> None:
    class Counting(LocalLimiter):
        left = 0

        def sent(self) -> None:
            self.left += 1

    limiter = Counting(1000)
    async with GroupClient("key", "secret", limiter=limiter, transport=httpx.MockTransport(missing)) as client:
        await client.get_many([f"g{number}" for number in range(120)])
        assert limiter.left == client.stats().requests == 3


async def test_the_word_for_it_is_local() -> None:
    transport = httpx.MockTransport(missing)
    async with GroupClient("another", "secret", rate=20, limiter="local", transport=transport) as client:
        assert await client.get("g1") is None
        assert client.stats().rate == 20
