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
    _began: float | None = field(default=None, init=False)
    _other_sent: int = field(default=0, init=False)
    _counted: deque[float] = field(default_factory=deque, init=False)  # sliding, fixed
    _tokens: float = field(default=math.inf, init=False)  # bucket
    _filled_at: float = field(default=0.0, init=False)

    def admit(self, now: float) -> bool:
        """Tell whether a request that arrives at `now`, in seconds on a monotonic clock, is let in, and count it."""
        if self.limit is None:
            return True
        now = max(now, self._latest)
        if self._began is None:
            self._began = now
        if self.other is not None:
            self._admit_other(self.other, self._began, now)
        return self._admit(now)

    def _admit_other(self, other: OtherConsumer, began: float, now: float) -> None:
        start = began + other.begins
        due = math.floor((min(now, start + other.lasts) - start) * other.rate) + 1 if now >= start else 0
        # Requests over two seconds old can no longer change a decision.
        first = max(self._other_sent, math.floor((now - 2 - start) * other.rate))
        for number in range(first, due):
            self._admit(max(start + number / other.rate, self._latest))
        self._other_sent = max(self._other_sent, due)

    def _admit(self, now: float) -> bool:
        self._latest = now
        return self._admit_from_bucket(now) if self.window == "bucket" else self._admit_in_window(now)

    def _admit_in_window(self, now: float) -> bool:
        counted = self._counted
        since = math.floor(now) if self.window == "fixed" else None
        while counted and (now - counted[0] >= 1 if since is None else counted[0] < since):
            counted.popleft()
        admitted = self.limit is None or len(counted) < self.limit
        if admitted or self.count_refused:
            counted.append(now)
        return admitted

    def _admit_from_bucket(self, now: float) -> bool:
        size = float(self.limit or 0)
        tokens = min(size, self._tokens + (now - self._filled_at) * size)
        admitted = tokens >= 1
        if admitted or self.count_refused:
            tokens = max(-size, tokens - 1)
        self._tokens, self._filled_at = tokens, now
        return admitted


def worst_second(times: Iterable[float]) -> int:
    """The largest number of `times` in any half-open window [t, t + 1) of one second.

    Args:
        times: seconds on one clock, in any order.
    """
    ordered = sorted(times)
    return max((count - bisect_right(ordered, time - 1) for count, time in enumerate(ordered, start=1)), default=0)
