"""The service's rate limit: which requests are let in, and how many came in the worst second."""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

Window = Literal["sliding", "fixed", "bucket"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherConsumer:
    """Another consumer of the same App Key's budget, whose requests are evenly spaced."""

    rate: float  #: requests per second
    begins: float = 0.0  #: seconds after the first request that the check sees
    lasts: float = math.inf  #: seconds from then on


@dataclass(slots=True)
class RateCheck:
    """Lets in `limit` requests a second, counted the way `window` says.

    The service documents the limit and not how it counts, so each likely way can be chosen:
    ``sliding`` (any second), ``fixed`` (whole seconds of the clock), ``bucket`` (a token bucket that
    holds one second's worth).
    """

    limit: int | None = 100  #: requests per second; None lifts the limit
    window: Window = "sliding"  #: how requests are counted
    _: KW_ONLY
    count_refused: bool = False  #: whether a refused request counts as well
    other: OtherConsumer | None = None  #: another consumer of the same budget
    _latest: float = field(default=-math.inf, init=False)
    _began: float = field(default=math.inf, init=False)
    _other_sent: int = field(default=0, init=False)
    _counted: deque[float] = field(default_factory=deque, init=False)  # sliding, fixed
    _tokens: float = field(default=math.inf, init=False)  # bucket

    def admit(self, now: float) -> bool:
        """Tell whether a request that arrives at `now`, in seconds on a monotonic clock, is let in, and count it."""
        if self.limit is None:
            return True
        now = max(now, self._latest)
        self._began = min(self._began, now)
        if self.other is not None:
            self._admit_other(self.other, now)
        return self._admit(self.limit, now)

    def _admit_other(self, other: OtherConsumer, now: float) -> None:
        start = self._began + other.begins
        due = math.floor((min(now, start + other.lasts) - start) * other.rate) + 1 if now >= start else 0
        # Requests over two seconds old can no longer change a decision.
        first = max(self._other_sent, math.floor((now - 2 - start) * other.rate))
        for number in range(first, due):
            self._admit(self.limit or 0, max(start + number / other.rate, self._latest))
        self._other_sent = max(self._other_sent, due)

    def _admit(self, limit: int, now: float) -> bool:
        elapsed, self._latest = now - self._latest, now
        if self.window == "bucket":
            self._tokens = min(limit, self._tokens + elapsed * limit)
            admitted = self._tokens >= 1
            if admitted or self.count_refused:
                self._tokens = max(-limit, self._tokens - 1)
            return admitted
        since = math.floor(now) if self.window == "fixed" else math.nextafter(now - 1, now)  # a second ago is over
        while self._counted and self._counted[0] < since:
            self._counted.popleft()
        admitted = len(self._counted) < limit
        if admitted or self.count_refused:
            self._counted.append(now)
        return admitted


def worst_second(times: Iterable[float]) -> int:
    """The largest number of `times` in any half-open window [t, t + 1) of one second.

    Args:
        times: seconds on one clock, in any order.
    """
    ordered = sorted(times)
    return max((count - bisect_right(ordered, time - 1) for count, time in enumerate(ordered, start=1)), default=0)
