"""When the next request may leave."""

from asyncio import Future, get_running_loop
from collections.abc import Callable

from rongcloud_groups.limiters.credit_guard import CreditGuard
from rongcloud_groups.limiters.interface import Limiter, SendObserver


class SendGate:
    """Grants the right to send one request. No other code spends a token of the rate limiter.

    After `wait` the request leaves in the same step, `sent` is called in it, and `answered` or `lost` when the request
    has ended; or `unused` is called.

    Args:
        limiter: the budget of requests.
        guard: bounds requests by their responses as well.
    """

    def __init__(self, limiter: Limiter, guard: CreditGuard | None = None) -> None:
        self._limiter = limiter
        self._observer = limiter if isinstance(limiter, SendObserver) else None
        self._guard = guard

    @property
    def rate(self) -> float:
        """Requests/s that it lets through now."""
        return self._limiter.rate

    async def wait(self) -> float:
        """Wait until one request may leave; return the seconds that it took."""
        clock = get_running_loop().time
        began = clock()
        if self._guard is not None:
            await self._guard.acquire()
        try:
            await self._limiter.acquire()
        except BaseException:
            self.unused()
            raise
        return clock() - began

    def unused(self) -> None:
        """The request did not leave: its token is wasted."""
        if self._guard is not None:
            self._guard.restore()

    def sent(self) -> None:
        """The request has left."""
        if self._observer is not None:
            self._observer.sent()

    def answered(self) -> None:
        """The request has its response."""
        if self._guard is not None:
            self._guard.arrived()

    def lost(self, delivered: Callable[[], Future[bool]]) -> None:
        """The request ended without a response.

        Args:
            delivered: `Connection.delivered` of its connection.
        """
        if self._guard is not None:
            self._guard.lost(delivered())

    async def throttle(self, retry_after: float | None, age: float) -> float:
        """Hold requests back after a refusal; see `Limiter.throttle`."""
        return await self._limiter.throttle(retry_after, age)
