"""Redis's clock as seen from this process."""

from collections import deque
from time import monotonic

CLOCK_ERROR = 0.001  # seconds by which a clock may be read wrongly, besides half the time of a call


class RedisClock:
    """Redis's clock, judged by the quickest of the latest calls: Redis read it halfway, give or take half the call."""

    MAX_CALLS = 16
    MAX_AGE = 60.0  # seconds, after which two clocks may have drifted apart

    def __init__(self) -> None:
        self._calls: deque[tuple[float, float, float]] = deque(maxlen=self.MAX_CALLS)
        self._ahead = 0.0

    def note(self, sent_at: float, received_at: float, redis_time: float) -> float:
        """Take in one call.

        Args:
            sent_at: when it left, on `time.monotonic`.
            received_at: when it came back.
            redis_time: the time on Redis's clock in between.

        Returns:
            Seconds by which Redis's clock was set since the last call; 0 where it was not.
        """
        round_trip = received_at - sent_at
        ahead = redis_time - (sent_at + received_at) / 2
        step = ahead - self._ahead if self._calls else 0.0
        if self._calls and abs(step) > (round_trip + min(self._calls)[0]) / 2 + CLOCK_ERROR:
            self._calls.clear()
        else:
            step = 0.0
        self._calls.append((round_trip, ahead, received_at))
        while self._calls[0][2] < received_at - self.MAX_AGE:
            self._calls.popleft()
        self._ahead = min(self._calls)[1]
        return step

    def now(self) -> float:
        """The time on it, in seconds."""
        return self.at(monotonic())

    def at(self, time: float) -> float:
        """The time on it when `time.monotonic` showed this one."""
        return time + self._ahead
