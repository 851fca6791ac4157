"""Pause, cut and recover after the service refused a request."""

from math import cbrt
from random import random

PAUSE = 0.2  # seconds without a request after a refusal that does not say how long to wait
PAUSE_JITTER = 0.05  # upper bound, in seconds, of the time added to a pause so that processes do not come back together
MAX_PAUSE = 60.0  # upper bound for ``Retry-After``, in seconds
DECREASE_FACTOR = 0.85  # the part of the rate that remains after a refusal
MIN_SHARE = 0.05  # the part of the limit that remains, however many refusals there are
RECOVERY_TIME = 4.0  # seconds that the climb back from a cut at the full limit takes


class Throttle:
    """The limit after refusals: a pause, one cut for all requests that had left by then, a cubic climb back.

    Times are seconds on one clock.

    Args:
        limit: requests/s that the service allows.
        paused_until: when the last pause ends.
        cut_at: when the rate was cut last.
        cut_from: the rate that the climb aims at first, in requests/s; 0 where there was no cut.
    """

    def __init__(
        self, limit: float, *, paused_until: float = 0.0, cut_at: float = -MAX_PAUSE, cut_from: float = 0.0
    ) -> None:
        self.limit = limit
        self.paused_until = paused_until
        self.cut_at = cut_at
        self.cut_from = cut_from

    def rate(self, now: float) -> float:
        """Requests/s: rises fast after a cut, slowly near the rate that was refused, then ever faster."""
        if not self.cut_from:
            return self.limit
        steepness = self.limit * (1 - DECREASE_FACTOR) / RECOVERY_TIME**3
        back = cbrt(self.cut_from * (1 - DECREASE_FACTOR) / steepness)
        rate = self.cut_from + steepness * (now - self.cut_at - back) ** 3
        return min(self.limit, max(rate, self.limit * MIN_SHARE))

    def refused(self, now: float, retry_after: float | None, age: float) -> None:
        """Take in a refusal; the arguments are as for `Limiter.throttle`."""
        if now - age >= self.cut_at:
            # Refused on the way back: the true share has shrunk, so aim lower (RFC 9438, section 4.7).
            rate = self.rate(now)
            self.cut_from = rate * (1 + DECREASE_FACTOR) / 2 if rate < self.cut_from else rate
            self.cut_at = now
            self._pause_until(now + PAUSE)
        if retry_after is not None:
            self._pause_until(now + min(retry_after, MAX_PAUSE))

    def _pause_until(self, end: float) -> None:
        self.paused_until = max(self.paused_until, end + random() * PAUSE_JITTER)
