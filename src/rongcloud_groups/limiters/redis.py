"""RedisLimiter: processes of many machines share a budget through Redis or Valkey. Needs the extra ``redis``."""

from asyncio import AbstractEventLoop, Lock, TimerHandle, get_running_loop, sleep, timeout
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from math import ceil
from random import random
from time import monotonic
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import anyio
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from rongcloud_groups._validation import positive
from rongcloud_groups.errors import ClientClosed, ConfigError
from rongcloud_groups.events import logger
from rongcloud_groups.limiters.local import LocalLimiter
from rongcloud_groups.limiters.schedule import MAX_LATE, QUIET_PERIOD, WAKE_UP_SLACK
from rongcloud_groups.limiters.scripts import CLOCK_ERROR, REFUSED, RESERVE
from rongcloud_groups.limiters.throttle import MAX_PAUSE, PAUSE_JITTER

DEFAULT_SHARE = 0.05
"""Of the budget, for each process while Redis is away: right for twenty processes or fewer."""
FALLBACK_MARGIN = 0.9
"""Of that share, what is used."""
TIMEOUT = 0.1
"""Seconds that Redis has for an answer."""
FIRST_TIMEOUT = 0.35
"""Seconds that Redis has for an answer where the connection may have to be opened first."""
TICKS = 10
"""Parts in which a time limit is counted; a stall of the event loop uses up one of them, however long it is."""
PROBE_EVERY = 1.0
"""Seconds between two looks at whether Redis is back."""
BUSY = 0.01
"""Seconds after a request within which the next one comes, if there is always one waiting."""
LEAST_SLOTS = 3
"""Slots that a busy process takes at a time, so that it asks Redis for every third request only."""
MOST_SLOTS = 10
UNUSED = -1.0
"""In place of the time when the request of a slot left."""


class Slot(NamedTuple):
    """A reserved send time, on Redis's clock; its name is a number."""

    name: int
    time: float


class RedisLimiter:
    """A budget that processes of many machines share, if each of them names the same Redis and the same App Key.

    Each request gets a send time of its own on Redis's clock, whichever process sends it, such that no second has more
    than the limit; Redis remembers when the latest ones left. A busy process takes a few of them at a time; what it has
    claimed and not yet begun to use when it dies is free again. Works on Redis 6.2 and later and on Valkey.

    Have Redis near, with a clock that is slewed and not stepped, and don't let it evict keys: a round trip that takes a
    few milliseconds more one way than the other, or keys that are gone, can let a request or more over the limit.

    Where Redis is away or too slow, the process is silent for 1.6 s, goes on at nine tenths of its ``share`` of the
    limit, and is silent for 1.6 s again when Redis is back: the sum never exceeds the limit as long as ``share``
    times the number of processes is at most 1 and Redis is away for all of them.

    Use it in one event loop; it keeps connections that belong to the loop of its first use.

    Args:
        url: where Redis is: ``redis://HOST…`` or ``rediss://HOST…``, as redis-py reads it.
        app_key: the App Key whose budget it is.
        limit: requests/s that the service allows to all processes together; the same in each of them.
        share: the part of the limit for this process while Redis is away; 1 / the greatest number of processes.

    Attributes:
        key: where Redis keeps the budget; two more keys begin with it.

    Raises:
        ConfigError: an argument cannot be used; the message names it.
    """

    def __init__(self, url: str, *, app_key: str, limit: float = 100.0, share: float = DEFAULT_SHARE) -> None:
        self._limit = self._rate = positive("rate", limit)
        self._share = positive("share", share)
        if self._share > 1:
            raise ConfigError(f"share is {share!r}; give a number above 0 and not above 1")
        self._where = _host_of(url)
        self._redis = _client(url)
        self.key = f"rongcloud-groups:{{{app_key}}}:budget"
        self._reserve_script = self._redis.register_script(RESERVE)
        self._refused_script = self._redis.register_script(REFUSED)
        self._clock = RedisClock()
        self._clock_synced = False
        self._local = LocalLimiter(self._limit * self._share * FALLBACK_MARGIN)
        self._door = Lock()
        self._refusals = Lock()
        self._keys = [self.key, f"{self.key}:sent", f"{self.key}:claimed"]
        self._slots: deque[Slot] = deque()
        self._claims: list[Slot] = []  # to be confirmed before they are slots
        self._used: list[tuple[Slot, float]] = []  # and when their requests left, until Redis is told
        self._paused_until = 0.0  # on Redis's clock
        self._slots_wanted = 1
        self._granted_at = float("-inf")
        self._away = False
        self._silent_until = self._probe_at = float("-inf")
        self._loop: AbstractEventLoop | None = None

    @property
    def rate(self) -> float:
        """Requests/s that all processes together may send now; while Redis is away, what this one may send."""
        return self._local.rate if self._away else self._rate

    async def acquire(self) -> None:
        """Wait until one request may leave.

        Raises:
            ClientClosed: the limiter was first used in another event loop.
        """
        self._stay_in_one_loop()
        async with self._door:
            busy = monotonic() - self._granted_at <= BUSY
            while True:
                await sleep(max(0.0, self._silent_until - monotonic()))
                if await (self._acquire_fallback() if self._away else self._from_redis(busy=busy)):
                    self._granted_at = monotonic()
                    return

    async def throttle(self, retry_after: float | None, age: float) -> float:
        """Pause all processes, cut the rate once for all of them, and climb back on a cubic curve.

        Raises:
            ClientClosed: the limiter was first used in another event loop.
        """
        self._stay_in_one_loop()
        refused_at = monotonic() - age
        async with self._refusals:
            if not self._away:
                try:
                    return await self._report_refusal(retry_after, monotonic() - refused_at)
                except (RedisError, OSError) as error:
                    self._enter_fallback(error)
            return await self._local.throttle(retry_after, monotonic() - refused_at)

    async def aclose(self) -> None:
        """Close the connections to Redis.

        Raises:
            ClientClosed: the limiter was first used in another event loop.
        """
        self._stay_in_one_loop()
        await self._redis.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        away = ", away" if self._away else ""
        return f"<RedisLimiter at {self._where}, {self._limit:g}, rate={self.rate:.1f}{away}>"

    def _stay_in_one_loop(self) -> None:
        loop = get_running_loop()
        self._loop = self._loop or loop
        if loop is not self._loop:
            raise ClientClosed("the RedisLimiter was first used in another event loop: make one limiter in each")

    async def _from_redis(self, *, busy: bool) -> bool:
        """Wait for a slot; True where it came in time."""
        try:
            while not self._slots:
                await sleep(self._until_claims())
                await self._reserve(busy=busy)
            # A slot whose wait was cancelled is still here, for whoever comes next.
            while self._slots and (wait := self._slots[0].time - self._clock.now()) > 0:  # noqa: ASYNC110  a timer may be early
                await sleep(wait)
            return bool(self._slots) and self._let_go(self._slots.popleft())
        except (RedisError, OSError) as error:
            self._enter_fallback(error)
            return False

    async def _reserve(self, *, busy: bool) -> None:
        while not self._clock_synced:
            await self._sync_clock()
        enough = max(LEAST_SLOTS, ceil(self._clock.round_trip * self._rate * self._share) + 1)
        wanted = self._slots_wanted + (1 if busy else -1)
        self._slots_wanted = max(1, min(wanted, enough, MOST_SLOTS))
        self._clock_synced = await self._ask_redis(self._slots_wanted if busy or not self._claims else 0)

    async def _sync_clock(self) -> None:
        """Open the connection with one call, too long to tell the time by, and read Redis's clock with another."""
        await self._ask_redis(0, FIRST_TIMEOUT)
        self._clock = RedisClock()
        self._clock_synced = await self._ask_redis(0)

    def _until_claims(self) -> float:
        """Seconds until it is time to confirm them."""
        if not self._claims:
            return 0.0
        return max(0.0, self._claims[0].time - self._clock.now() - 2 * self._clock.round_trip - WAKE_UP_SLACK)

    async def _ask_redis(self, wanted: int, seconds: float = TIMEOUT) -> bool:
        """Take so many slots, confirm the claims of the last time, and tell what became of the slots before.

        Returns:
            False where this process stood still meanwhile: then the answer cannot tell the time, and no slot is taken.
        """
        claims, self._claims = self._claims, []
        used, self._used = self._used, []
        confirm = [len(claims), *(claim.name for claim in claims)]
        told = [value for slot, left_at in used for value in (slot.name, f"{left_at:.6f}")]
        asked_at = monotonic()
        reply = await self._run(
            self._reserve_script, [self._limit, self._clock.round_trip, wanted, *confirm, *told], seconds
        )
        answered_at = monotonic()
        now, self._paused_until, self._rate, confirmed, firm, first, *times = reply
        slots = [Slot(int(first) + nth, time) for nth, time in enumerate(times)]
        # The claims that it came too late for are the first ones.
        granted = claims[len(claims) - int(confirmed) :] + slots[: int(firm)]
        if answered_at - asked_at > seconds:
            self._used += [(slot, UNUSED) for slot in granted]
            return False
        self._clock.note(asked_at, answered_at, now)
        self._slots += granted
        self._claims = slots[int(firm) :]
        return True

    def _let_go(self, slot: Slot) -> bool:
        """Whether a request may leave now that has this slot; if not, it does not count."""
        now = self._clock.now()
        in_time = slot.time >= self._paused_until and now - slot.time <= MAX_LATE
        self._used.append((slot, now if in_time else UNUSED))
        return in_time

    async def _report_refusal(self, retry_after: float | None, age: float) -> float:
        wait = -1 if retry_after is None else min(retry_after, MAX_PAUSE)
        reply = await self._run(self._refused_script, [self._limit, age, random() * PAUSE_JITTER, wait], FIRST_TIMEOUT)
        self._paused_until, pause, self._rate = reply
        return pause

    async def _run(self, script: AsyncScript, arguments: Sequence[float | str], seconds: float) -> list[float]:
        # Not redis-py's own time limit: asyncio.wait_for, which it uses, can lose a cancellation before Python 3.12.
        try:
            async with time_limit(seconds):
                return [float(value) for value in await script(keys=self._keys, args=arguments)]
        except TimeoutError:
            raise TimeoutError(f"no answer within {seconds:g} s") from None

    def _enter_fallback(self, error: Exception) -> None:
        self._slots.clear()
        self._claims.clear()
        self._clock_synced = False
        self._used.clear()  # Redis takes them for as late as they may have been
        self._silent_until = monotonic() + QUIET_PERIOD
        if not self._away:
            self._away = True
            logger.warning(
                "Redis at %s cannot hand out the budget (%s): going on at %.1f requests/s until it can",
                self._where,
                error,
                self._local.rate,
            )

    async def _acquire_fallback(self) -> bool:
        """Look whether Redis is back, now and then; else wait for this process's share. True where that came."""
        if monotonic() >= self._probe_at:
            self._probe_at = monotonic() + PROBE_EVERY
            if await self._leave_fallback():
                return False
        with anyio.move_on_after(PROBE_EVERY):
            await self._local.acquire()
            return True
        return False

    async def _leave_fallback(self) -> bool:
        try:
            await self._reserve(busy=False)
        except (RedisError, OSError):
            return False
        self._slots.clear()
        self._claims.clear()
        self._away = False
        self._silent_until = monotonic() + QUIET_PERIOD
        logger.warning("Redis at %s hands out the budget again", self._where)
        return True


class RedisClock:
    """Redis's clock as it is seen from here, by the quickest of the latest calls."""

    LATEST = 16
    OLDEST = 60.0
    """Seconds, after which two clocks may have drifted apart."""

    def __init__(self) -> None:
        self._calls: deque[tuple[float, float, float]] = deque(maxlen=self.LATEST)
        self._ahead = 0.0
        self.round_trip = 0.0
        """Seconds that a call takes, on average."""

    def note(self, asked_at: float, answered_at: float, redis_time: float) -> None:
        """A call left and came back at these times here, and Redis read its clock meanwhile."""
        round_trip = answered_at - asked_at
        ahead = redis_time - (asked_at + answered_at) / 2
        self.round_trip += (round_trip - self.round_trip) / (4 if self._calls else 1)
        if self._calls and abs(ahead - self._ahead) > round_trip + CLOCK_ERROR:
            self._calls.clear()  # one of the clocks was set
        self._calls.append((round_trip, ahead, answered_at))
        while self._calls[0][2] < answered_at - self.OLDEST:
            self._calls.popleft()
        self._ahead = min(self._calls)[1]

    def now(self) -> float:
        """What it shows."""
        return monotonic() + self._ahead


@asynccontextmanager
async def time_limit(seconds: float) -> AsyncIterator[None]:
    """As `asyncio.timeout`, but a stall of the event loop is no delay of whoever is waited for.

    Args:
        seconds: how long the block may take, stalls beyond a tenth of it left out.

    Raises:
        TimeoutError: it took longer.
    """
    loop = get_running_loop()
    timer: TimerHandle
    async with timeout(None) as limit:

        def tick(left: int) -> None:
            nonlocal timer
            if left:
                timer = loop.call_later(seconds / TICKS, tick, left - 1)
            else:
                limit.reschedule(loop.time())  # ends the wait in the next turn: what is there by now comes first

        timer = loop.call_later(seconds / TICKS, tick, TICKS - 1)
        try:
            yield
        finally:
            timer.cancel()


def _host_of(url: str) -> str:
    """The host and port, without the user and the password."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"the Redis URL cannot be read: {error}") from None
    if parts.scheme not in {"redis", "rediss"}:
        raise ConfigError("a Redis URL starts with redis:// or rediss://")
    if not parts.hostname:
        raise ConfigError("the Redis URL names no host: write redis://HOST:PORT/DATABASE")
    return parts.netloc.rpartition("@")[2]


def _client(url: str) -> Redis:
    try:
        redis = Redis.from_url(
            url, protocol=2, socket_timeout=None, socket_connect_timeout=None, retry=Retry(NoBackoff(), 0)
        )
    except ValueError as error:
        raise ConfigError(f"the Redis URL cannot be read: {error}") from None
    pool = redis.connection_pool
    if pool.connection_kwargs.get("socket_timeout") is not None:
        raise ConfigError(f"leave socket_timeout out of the Redis URL: an answer has {TIMEOUT:g} s")
    try:
        pool.connection_class(**pool.connection_kwargs)  # redis-py looks at the options when it makes a connection
    except (TypeError, AttributeError, RedisError) as error:
        raise ConfigError(f"an option of the Redis URL cannot be used: {error}") from None
    return redis
