"""RedisLimiter: processes of many machines share a budget through Redis or Valkey. Needs the extra ``redis``."""

from asyncio import Lock, sleep
from collections import deque
from math import ceil
from random import random
from time import monotonic
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import anyio
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from rongcloud_groups.config import positive
from rongcloud_groups.errors import ConfigError
from rongcloud_groups.events import logger
from rongcloud_groups.limiter import LATE, LONGEST_PAUSE, PAUSE_JITTER, SILENCE, LocalLimiter, slot_gap
from rongcloud_groups.limiter_redis_scripts import REFUSED, RESERVE

DEFAULT_SHARE = 0.05
"""Of the budget, for each process while Redis is away: right for twenty processes or fewer."""
CAUTION = 0.9
"""Of that share, what is used."""
TIMEOUT = 0.1
"""Seconds that Redis has for an answer."""
CONNECT_TIMEOUT = 0.25
"""Seconds that a connection to Redis may take."""
PROBE_EVERY = 1.0
"""Seconds between two looks at whether Redis is back."""
BUSY = 0.01
"""Seconds after a request within which the next one comes, if there is always one waiting."""
LEAST_SLOTS = 3
"""Slots that a busy process takes at a time, so that it asks Redis for every third request only."""
MOST_SLOTS = 10


class RedisLimiter:
    """A budget that processes of many machines share, if each of them names the same Redis and the same App Key.

    Each request gets a send time of its own, 1 / rate after the one before on Redis's clock, whichever process took
    that. A busy process takes a few of them at a time. Works on Redis 6.2 and later and on Valkey.

    Where Redis is away or too slow, the process is silent for 1.6 s, goes on at nine tenths of its ``share`` of the
    limit, and is silent for 1.6 s again when Redis is back: the sum never exceeds the limit as long as ``share``
    times the number of processes is at most 1 and Redis is away for all of them.

    Args:
        url: where Redis is: ``redis://…`` or ``rediss://…``, as redis-py reads it.
        app_key: the App Key whose budget it is.
        limit: requests/s that the service allows to all processes together; the same in each of them.
        share: the part of the limit for this process while Redis is away; 1 / the greatest number of processes.

    Attributes:
        key: where Redis keeps the budget.

    Raises:
        ConfigError: an argument cannot be used; the message names it.
    """

    def __init__(self, url: str, *, app_key: str, limit: float = 100.0, share: float = DEFAULT_SHARE) -> None:
        self._limit = self._rate = positive("rate", limit)
        self._share = positive("share", share)
        if self._share > 1:
            raise ConfigError(f"share is {share!r}; give a number above 0 and not above 1")
        self._redis = _client(url)
        self._where = urlsplit(url).netloc.rpartition("@")[2]  # without a password
        self.key = f"rongcloud-groups:{{{app_key}}}:budget"
        self._reserve_script = self._redis.register_script(RESERVE)
        self._refused_script = self._redis.register_script(REFUSED)
        self._clock = RedisClock()
        self._local = LocalLimiter(self._limit * self._share * CAUTION)
        self._door = Lock()
        self._refusals = Lock()
        self._slots: deque[float] = deque()  # on Redis's clock
        self._paused_until = 0.0  # likewise
        self._slots_wanted = 1
        self._granted_at = float("-inf")
        self._away = False
        self._silent_until = self._probe_at = float("-inf")

    @property
    def rate(self) -> float:
        """Requests/s that all processes together may send now; while Redis is away, what this one may send."""
        return self._local.rate if self._away else self._rate

    async def acquire(self) -> None:
        """Wait until one request may leave."""
        async with self._door:
            busy = monotonic() - self._granted_at <= BUSY
            while True:
                await sleep(max(0.0, self._silent_until - monotonic()))
                if await (self._from_share() if self._away else self._from_redis(busy=busy)):
                    self._granted_at = monotonic()
                    return

    async def throttle(self, retry_after: float | None, age: float) -> float:
        """Pause all processes, cut the rate once for all of them, and climb back on a cubic curve."""
        refused_at = monotonic() - age
        async with self._refusals:
            if not self._away:
                try:
                    return await self._tell_redis(retry_after, monotonic() - refused_at)
                except (RedisError, OSError) as error:
                    self._lost_redis(error)
            return await self._local.throttle(retry_after, monotonic() - refused_at)

    async def aclose(self) -> None:
        """Close the connections to Redis."""
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

    async def _from_redis(self, *, busy: bool) -> bool:
        """Wait for a slot; True where it came in time."""
        try:
            if not self._slots:
                await self._reserve(busy=busy)
            # A slot whose wait was cancelled is still here, for whoever comes next.
            await sleep(max(0.0, self._clock.seconds_until(self._slots[0])))
            return bool(self._slots) and await self._let_go(self._slots.popleft())
        except (RedisError, OSError) as error:
            self._lost_redis(error)
            return False

    async def _reserve(self, *, busy: bool) -> None:
        enough = max(LEAST_SLOTS, ceil(self._clock.round_trip * self._rate * self._share) + 1)
        wanted = self._slots_wanted + (1 if busy else -1)
        self._slots_wanted = max(1, min(wanted, enough, MOST_SLOTS))
        await self._ask_redis(self._slots_wanted)

    async def _let_go(self, slot: float) -> bool:
        """Whether a request may leave now that has this slot; if it is late, the free slots move, see `slot_gap`."""
        over, moved = self._over(slot), 0.0
        if over:
            moved = over + 2 * self._clock.round_trip  # it is later by the time that they have moved
            if moved >= slot_gap(self._rate):
                return False
            await self._ask_redis(0, over=moved)
        return slot >= self._paused_until and self._over(slot) <= moved

    def _over(self, slot: float) -> float:
        return max(0.0, -self._clock.seconds_until(slot) - LATE)

    async def _ask_redis(self, wanted: int, *, over: float = 0.0) -> None:
        asked_at = monotonic()
        reply = await self._reserve_script(keys=[self.key], args=[self._limit, wanted, self._clock.round_trip, over])
        now, first, gap, slots, self._paused_until, self._rate = map(float, reply)
        self._clock.note(asked_at, monotonic(), now)
        self._slots.extend(first + gap * number for number in range(int(slots)))

    async def _tell_redis(self, retry_after: float | None, age: float) -> float:
        reply = await self._refused_script(
            keys=[self.key],
            args=[
                self._limit,
                age,
                random() * PAUSE_JITTER,
                -1 if retry_after is None else min(retry_after, LONGEST_PAUSE),
            ],
        )
        self._paused_until, pause, self._rate = map(float, reply)
        return pause

    def _lost_redis(self, error: Exception) -> None:
        self._slots.clear()
        self._silent_until = monotonic() + SILENCE
        if not self._away:
            self._away = True
            logger.warning(
                "Redis at %s cannot hand out the budget (%s): going on at %.1f requests/s until it can",
                self._where,
                error,
                self._local.rate,
            )

    async def _from_share(self) -> bool:
        """Look whether Redis is back, now and then; else wait for this process's share. True where that came."""
        if monotonic() >= self._probe_at:
            self._probe_at = monotonic() + PROBE_EVERY
            if await self._found_redis():
                return False
        with anyio.move_on_after(PROBE_EVERY):
            await self._local.acquire()
            return True
        return False

    async def _found_redis(self) -> bool:
        try:
            await self._reserve(busy=False)
        except (RedisError, OSError):
            return False
        self._slots.clear()
        self._away = False
        self._silent_until = monotonic() + SILENCE
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
        if self._calls and abs(ahead - self._ahead) > round_trip + 2 * LATE:
            self._calls.clear()  # one of the clocks was set
        self._calls.append((round_trip, ahead, answered_at))
        while self._calls[0][2] < answered_at - self.OLDEST:
            self._calls.popleft()
        self._ahead = min(self._calls)[1]

    def seconds_until(self, redis_time: float) -> float:
        """Seconds from now until Redis's clock shows that time; negative if it is past."""
        return redis_time - self._ahead - monotonic()


def _client(url: str) -> Redis:
    if urlsplit(url).scheme not in {"redis", "rediss"}:
        raise ConfigError("a Redis URL starts with redis:// or rediss://")
    try:
        return Redis.from_url(
            url, protocol=2, socket_timeout=TIMEOUT, socket_connect_timeout=CONNECT_TIMEOUT, retry=Retry(NoBackoff(), 0)
        )
    except ValueError as error:
        raise ConfigError(f"the Redis URL cannot be read: {error}") from None
