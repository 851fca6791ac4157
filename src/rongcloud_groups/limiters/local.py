"""The budget: at most so many requests in any second, as the server counts them."""

from asyncio import get_running_loop, sleep
from typing import TYPE_CHECKING

from rongcloud_groups._validation import positive
from rongcloud_groups.limiters.throttle import Throttle

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter


PATH_JITTER = 0.007
"""Seconds by which two requests may come closer together on their way than they left."""


WAKE_UP_SLACK = 0.002
"""Seconds by which a timer of the event loop may wake late without costing throughput."""


class LocalLimiter:
    """A token bucket for one process, so small that no second at the server holds more than the limit.

    A bucket of size C, refilled at r requests/s, puts at most C + r(1 + J) requests into one second at the
    server, where J is the jitter of the path: so C + r(1 + J) ≤ limit + 1. C - 1 is what a late wake-up may use.

    Args:
        limit: requests/s that the service allows.

    Raises:
        ConfigError: the limit is not a positive number.
    """

    def __init__(self, limit: float = 100.0) -> None:
        self._limit = positive("rate", limit)
        self._rate = self._limit
        self._bucket = _bucket(self._limit)
        self._throttle = Throttle(self._limit)

    @property
    def rate(self) -> float:
        """Requests/s that it lets through now."""
        return self._rate

    async def acquire(self) -> None:
        """Wait until one request may leave."""
        clock = get_running_loop().time
        while True:
            if (pause := self._throttle.paused_until - clock()) > 0:
                await sleep(pause)
                continue
            if self._rate < self._limit:
                await self._climb(clock())
            await self._bucket.acquire()
            if clock() >= self._throttle.paused_until:
                return

    async def throttle(self, retry_after: float | None, age: float) -> float:
        """Pause, cut the rate once for all requests that had left by then, and climb back on a cubic curve."""
        now = get_running_loop().time()
        if self._throttle.refused(now, self._rate, retry_after, age):
            await self._set_rate(self._throttle.rate(now))
        return max(0.0, self._throttle.paused_until - now)

    async def _climb(self, now: float) -> None:
        rate = self._throttle.rate(now)
        if rate >= self._rate * 1.01 or rate == self._limit:
            await self._set_rate(rate)

    async def _set_rate(self, rate: float) -> None:
        self._rate = rate
        self._bucket = _bucket(rate)
        await self._bucket.acquire(self._bucket.max_rate)  # starts empty: what the old one gave is still in the window

    def __repr__(self) -> str:
        return f"LocalLimiter({self._limit:g}, rate={self._rate:.1f})"


def _bucket(limit: float) -> "AsyncLimiter":
    from aiolimiter import AsyncLimiter  # it reads its own version with importlib.metadata, which takes a while

    refill = limit / (1 + PATH_JITTER + WAKE_UP_SLACK)
    size = 1 + WAKE_UP_SLACK * refill
    return AsyncLimiter(size, size / refill)
