"""LocalLimiter: the budget of one process."""

from asyncio import get_running_loop, sleep
from math import inf

from rongcloud_groups.limiters.interface import LoopBound
from rongcloud_groups.limiters.schedule import PATH_JITTER, WAKE_UP_SLACK, Pacing, Window


class LocalLimiter(LoopBound):
    """A token bucket for one process: no second at the server holds more requests than the limit.

    The bucket is aiolimiter's. It counts seconds: a request puts in as many as the next one has to come after it, and
    one second leaks out in each. How many that are, and how many more the bucket may hold so that a busy event loop can
    catch up, is the law in `limiters.schedule`.

    One limiter may serve several clients, also of event loops that run one after the other.

    Args:
        limit: requests/s that the service allows; of a fraction only whole requests are used.

    Raises:
        ConfigError: the limit is not a positive number.
    """

    def __init__(self, limit: float = 100.0) -> None:
        super().__init__()
        from aiolimiter import AsyncLimiter  # not in `acquire`, where it would hold up the first request

        self._new_bucket = AsyncLimiter
        self._pacing = Pacing(Window.of(limit, max_requests=inf), jitter=PATH_JITTER)
        self._rate = self._pacing.window.rate
        self._bucket: AsyncLimiter | None = None
        self._empty_at = 0.0
        self._granted_at = 0.0

    @property
    def rate(self) -> float:
        """Requests/s that it lets through now."""
        return self._rate

    async def acquire(self) -> None:
        """Wait until one request may leave.

        Raises:
            ClientClosed: another event loop is using the limiter.
        """
        async with self._bind():
            clock = get_running_loop().time
            await self._take(clock())
            while (pause := self._pacing.paused_until - clock()) > 0:
                await sleep(pause)
                await self._take(clock())

    def sent(self) -> None:
        """See `SendObserver`."""
        if (late := get_running_loop().time() - self._granted_at) > WAKE_UP_SLACK:
            self._empty_at += late
            self._bucket = None

    @property
    def history(self) -> tuple[Pacing, float]:
        """The state from which another limiter of the same budget resumes."""
        return self._pacing, self._empty_at

    def resume(self, history: tuple[Pacing, float]) -> None:
        """Resume a budget where a limiter ended that is not used any more, on the same clock."""
        pacing, self._empty_at = history
        if pacing.window == self._pacing.window:
            self._pacing = pacing

    async def throttle(self, retry_after: float | None, age: float) -> float:
        """Pause, cut the rate once for all requests that had left by then, and climb back on a cubic curve."""
        now = get_running_loop().time()
        self._pacing.refused(now, retry_after, age)
        self._rate = min(self._rate, self._pacing.rate(now))
        return max(0.0, self._pacing.paused_until - now)

    async def _take(self, now: float) -> None:
        pacing = self._pacing
        catch_up = pacing.catch_up(now)
        if self._bucket is None:
            self._bucket = self._new_bucket(60, 60)  # one second leaks out in each
            await self._bucket.acquire(max(0.0, min(self._empty_at - now, catch_up + pacing.gap(now))))
        self._bucket.max_rate = catch_up
        due = max(now, self._empty_at - catch_up)
        await self._bucket.acquire(0)
        now = get_running_loop().time()
        pacing.note_lateness(now - due, now)
        gap = pacing.gap(now)
        self._bucket.max_rate = catch_up + gap
        await self._bucket.acquire(gap)
        self._empty_at = max(self._empty_at, now) + gap
        self._granted_at = get_running_loop().time()
        self._rate = pacing.rate(now)

    def _start_over(self) -> None:
        self._bucket = None

    def __repr__(self) -> str:
        return f"LocalLimiter({self._pacing.window.rate:g}, rate={self._rate:.1f})"
