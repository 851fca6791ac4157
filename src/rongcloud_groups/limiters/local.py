"""The budget: at most so many requests in any second, as the server counts them."""

from asyncio import get_running_loop, sleep
from math import cbrt, ceil, exp, floor
from random import random
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from rongcloud_groups.config import positive

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

PATH_JITTER = 0.007
"""Seconds by which two requests may come closer together on their way than they left."""
WAKE_UP_SLACK = 0.002
"""Seconds by which a timer of the event loop may wake late without costing throughput."""
PAUSE = 0.2
"""Seconds without a request after a refusal that does not say how long to wait."""
PAUSE_JITTER = 0.05
"""Seconds at the most that are added to a pause, so that processes do not come back together."""
LONGEST_PAUSE = 60.0
"""Seconds; a longer ``Retry-After`` is not believed."""
CUT = 0.85
"""What a refusal leaves of the rate."""
LEAST_SHARE = 0.05
"""What refusals leave of the limit, however many there are."""
RECOVERY = 4.0
"""Seconds that the climb back from a cut at the full limit takes."""
SHARED_JITTER = 0.007
"""Seconds, as `PATH_JITTER`, between machines that share a clock; late processes are a sign that more is needed."""
HOST_JITTER = 0.01
"""Seconds, as `SHARED_JITTER`, between processes that compete for the same processors."""
LATENESS_FADES = 3.0
"""Seconds in which what is remembered of a process's lateness falls by the factor e."""
REMEMBERED = 500
"""Requests whose send times a shared budget remembers."""
MOST_LATE = 0.02
"""Seconds after which a reserved slot is not used any more."""
CATCH_UP = 0.8
"""Part of the regular gap that two slots are apart at the least where what was not used lately is made good."""
MOST_BEHIND = 0.1
"""Seconds by which slots come later than the limit would let them, at the most, while that is made good."""
SILENCE = 1.6
"""Seconds without a request when nobody knows what other processes sent in the last second."""


class Limiter(Protocol):
    """What hands out the right to send one request.

    The client awaits `acquire` for one request at a time and sends that request in the step in which it returns.
    """

    @property
    def rate(self) -> float:
        """Requests/s that it lets through now."""
        ...

    async def acquire(self) -> None:
        """Wait until one request may leave."""
        ...

    async def throttle(self, retry_after: float | None, age: float) -> float:
        """The service refused a request as over the limit: hold back everybody who shares this budget.

        Args:
            retry_after: seconds that the service asks to wait, where it says.
            age: seconds since the refused request left. One that left before the last cut is old news.

        Returns:
            Seconds until requests leave again.
        """
        ...


class Throttle:
    """What refusals leave of a limit: a pause, one cut for all requests that had left by then, a cubic climb back.

    Times are seconds on one clock, whichever it is.

    Args:
        limit: requests/s that the service allows.
        paused_until: when the last pause ends.
        cut_at: when the rate was cut last.
        cut_from: the rate that the climb aims at first, in requests/s; 0 where there was no cut.
    """

    def __init__(
        self, limit: float, *, paused_until: float = 0.0, cut_at: float = -LONGEST_PAUSE, cut_from: float = 0.0
    ) -> None:
        self.limit = limit
        self.paused_until = paused_until
        self.cut_at = cut_at
        self.cut_from = cut_from

    def rate(self, now: float) -> float:
        """Requests/s: quick to rise after a cut, slow near where it was refused, then quicker and quicker."""
        if not self.cut_from:
            return self.limit
        steepness = self.limit * (1 - CUT) / RECOVERY**3
        back = cbrt(self.cut_from * (1 - CUT) / steepness)
        rate = self.cut_from + steepness * (now - self.cut_at - back) ** 3
        return min(self.limit, max(rate, self.limit * LEAST_SHARE))

    def refused(self, now: float, rate: float, retry_after: float | None, age: float) -> bool:
        """Take in a refusal at so many requests/s, see `Limiter.throttle`; True where it cuts the rate."""
        news = now - age >= self.cut_at
        if news:
            # Refused on the way back: the true share has shrunk, so aim lower (RFC 9438, section 4.7).
            self.cut_from = rate * (1 + CUT) / 2 if rate < self.cut_from else rate
            self.cut_at = now
            self._pause_until(now + PAUSE)
        if retry_after is not None:
            self._pause_until(now + min(retry_after, LONGEST_PAUSE))
        return news

    def _pause_until(self, end: float) -> None:
        self.paused_until = max(self.paused_until, end + random() * PAUSE_JITTER)


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


class Window(NamedTuple):
    """How a shared budget counts: ``requests`` in so many seconds, wherever those begin."""

    requests: int
    seconds: float

    @classmethod
    def of(cls, limit: float) -> Self:
        """The window that keeps a limit in requests/s: a second, or a part of one that has few enough requests."""
        parts = ceil(limit / REMEMBERED)
        return cls(max(1, floor(limit / parts)), max(1 / parts, 1 / limit))


def remembered(late: float, seconds: float) -> float:
    """What is left of a lateness after so many seconds: that much is allowed for, besides the jitter."""
    return late * exp(-seconds / LATENESS_FADES)


def slot_gap(rate: float, limit: float, behind: float) -> float:
    """Seconds from a slot to the next one at the least.

    Args:
        rate: requests/s that are let through now.
        limit: requests/s that the service allows.
        behind: seconds by which the slot comes later than the limit would let it.
    """
    return CATCH_UP / limit if rate == limit and behind <= MOST_BEHIND else 1 / rate
