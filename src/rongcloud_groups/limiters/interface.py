"""What the client needs of a limiter, and what all limiters have in common."""

import os
from asyncio import AbstractEventLoop, get_running_loop
from typing import Protocol, runtime_checkable

from rongcloud_groups.errors import ClientClosed


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
        """The service refused a request as over the limit: hold back all that share this budget.

        Args:
            retry_after: seconds that the service asks to wait, where it says.
            age: seconds since the refused request left. One that left before the last cut is old news.

        Returns:
            Seconds until requests leave again.
        """
        ...


@runtime_checkable
class SharedLimiter(Limiter, Protocol):
    """A limiter that shares its budget with other processes through something that it opens."""

    async def open(self) -> None:
        """Open it, and check that it can keep the budget. The client calls this when it opens; once is enough.

        Raises:
            ConfigError: it cannot, and time does not help.
        """
        ...

    async def aclose(self) -> None:
        """Close it."""
        ...


class LoopBound:
    """What belongs to one event loop at a time: the next loop may have it when the one before is closed."""

    def __init__(self) -> None:
        self._loop: AbstractEventLoop | None = None
        self._process = 0

    def _bind(self) -> bool:
        """Belong to the running loop.

        Returns:
            Whether it belongs to this loop only from now on: nothing of an earlier one may be used any more.

        Raises:
            ClientClosed: it belongs to another loop.
        """
        loop, process = get_running_loop(), os.getpid()
        if loop is self._loop and process == self._process:
            return False
        if self._loop is not None and not self._loop.is_closed() and process == self._process:
            raise ClientClosed(f"the {type(self).__name__} is in use in another event loop: make one limiter in each")
        self._loop, self._process = loop, process
        return True
