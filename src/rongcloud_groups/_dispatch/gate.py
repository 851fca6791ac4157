"""When the next request may leave."""

from asyncio import Future, Timeout, get_running_loop, timeout
from collections.abc import Callable
from typing import Final

from rongcloud_groups.errors import TransportError
from rongcloud_groups.limiters.credit_guard import CreditGuard
from rongcloud_groups.limiters.interface import Limiter, SendObserver, SharedLimiter
from rongcloud_groups.limiters.local import LocalLimiter
from rongcloud_groups.limiters.schedule import MAX_PAUSE

MAX_SHARING: Final = 100
"""Clients that may share a limiter and each get a request before a wait for it counts as failed."""


class SendGate:
    """Grants the right to send one request. No other code spends a token of the rate limiter.

    After `wait` the request leaves in the same step, `sent` is called in it, and `answered` or `lost` when the request
    has ended; or `unused` is called.

    Args:
        limiter: the budget of requests.
        guard: bounds requests by their responses as well.
        attempt_timeout: seconds that the limiter may take beyond its rate and its pauses.
    """

    def __init__(self, limiter: Limiter, guard: CreditGuard | None = None, *, attempt_timeout: float) -> None:
        self._limiter = limiter
        self._observer = limiter if isinstance(limiter, SendObserver) else None
        self._bounded = type(limiter) is not LocalLimiter  # which cannot hang, and a time-out has its price
        self._guard = guard
        self._attempt_timeout = attempt_timeout
        self._limits: set[Timeout] = set()
        self._paused_until = 0.0
        self._others_pause = MAX_PAUSE if isinstance(limiter, SharedLimiter) else 0.0

    @property
    def rate(self) -> float:
        return self._limiter.rate

    async def wait(self) -> float:
        """Wait until one request may leave; return the seconds that it took.

        Raises:
            TransportError: the limiter let none through for longer than its rate and its pauses explain.
        """
        clock = get_running_loop().time
        began = clock()
        if self._guard is not None:
            await self._guard.acquire()
        try:
            await (self._acquire() if self._bounded else self._limiter.acquire())
        except BaseException:
            self.unused()
            raise
        return clock() - began

    async def _acquire(self) -> None:
        limit = timeout(self._patience())
        try:
            async with limit:
                self._limits.add(limit)
                await self._limiter.acquire()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise TransportError("the limiter let no request through for longer than its rate explains") from error
        finally:
            self._limits.discard(limit)

    def _patience(self) -> float:
        """Seconds that the limiter may take from now on."""
        pause = max(self._others_pause, self._paused_until - get_running_loop().time())
        rate = self._limiter.rate
        return self._attempt_timeout + pause + (MAX_SHARING / rate if rate > 0 else MAX_PAUSE)

    def unused(self) -> None:
        """The request did not leave: its token is wasted."""
        if self._guard is not None:
            self._guard.restore()

    def sent(self) -> None:
        if self._observer is not None:
            self._observer.sent()

    def answered(self) -> None:
        if self._guard is not None:
            self._guard.arrived()

    def lost(self, delivered: Callable[[], Future[bool]]) -> None:
        """The request ended without a response; ``delivered`` is `Connection.delivered`."""
        if self._guard is not None:
            self._guard.lost(delivered())

    async def throttle(self, retry_after: float | None, age: float) -> float:
        """Hold requests back after a refusal; see `Limiter.throttle`."""
        pause = await self._limiter.throttle(retry_after, age)
        now = get_running_loop().time()
        self._paused_until = now + pause
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(now + self._patience())
        return pause
