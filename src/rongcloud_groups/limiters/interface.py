"""The interface of a limiter, and the base classes of the limiters here."""

import os
from asyncio import AbstractEventLoop, Lock, get_running_loop
from typing import Protocol, Self, runtime_checkable

from rongcloud_groups.errors import ClientClosed


class Limiter(Protocol):
    """Hands out the right to send one request.

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


@runtime_checkable
class SendObserver(Protocol):
    """A limiter that counts a request from the moment at which it left, where that is later than its right to leave."""

    def sent(self) -> None:
        """The request for which `acquire` returned last has left, in the same step."""
        ...


class LoopBound:
    """An object of one event loop at a time: the next loop may have it when the one before is closed."""

    def __init__(self) -> None:
        self._loop: AbstractEventLoop | None = None
        self._process = 0
        self._turn = Lock()

    def _bind(self) -> Lock:
        """Belong to the running loop; return the lock of the task whose turn it is.

        Raises:
            ClientClosed: it belongs to another loop.
        """
        loop, process = get_running_loop(), os.getpid()
        if loop is not self._loop or process != self._process:
            if self._loop is not None and not self._loop.is_closed() and process == self._process:
                raise ClientClosed(
                    f"the {type(self).__name__} is in use in another event loop: make one limiter in each"
                )
            self._loop, self._process, self._turn = loop, process, Lock()
            self._start_over()
        return self._turn

    def _start_over(self) -> None:
        """Drop the state of an earlier event loop."""


class Shared(LoopBound):
    """The base of limiters that share a budget."""

    async def open(self) -> None:
        """See `SharedLimiter.open`; nothing stays open between two requests."""

    async def aclose(self) -> None:
        """See `SharedLimiter.aclose`; nothing is open."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
