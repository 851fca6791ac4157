"""The connection as the pool and the dispatcher see it, and the state that its implementations share."""

import asyncio
from abc import ABC, abstractmethod
from asyncio import Future
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, cast

import anyio

from rongcloud_groups._http import Origin, Request, Response
from rongcloud_groups.errors import TransportError

if TYPE_CHECKING:
    from rongcloud_groups._transport.pool import ConnectionPool

OnChange = Callable[[], None]
"""Called, in the same step, when a connection may have more open slots, or is retired or closed. It may send."""
CLOSED_BY_SERVER: Final = "closed by the server"


class Connection(ABC):
    """An open connection. It never reconnects; `ConnectionPool` opens another one.

    Attributes:
        http_version: ``HTTP/2`` or ``HTTP/1.1``.
        host: the host, with the port where it isn't the scheme's own.
        sent: how many requests it was given.
        in_flight: how many of them are still open.
        closed_reason: why it takes no more requests; empty while it does.
        closed: whether nothing can come from it any more.
        pool: the pool whose requests it carries; None when it has none, or was detached from it.
    """

    http_version: str
    # Here for the repr of one whose construction failed.
    host = ""
    sent = in_flight = 0
    closed_reason = ""
    closed = False
    pool: "ConnectionPool | None" = None

    def __init__(self, host: str, on_change: OnChange) -> None:
        self.host = host
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        state = self.closed_reason or "open"
        return f"<{type(self).__name__} {self.host} {state}, {self.sent} sent, {self.in_flight} in flight>"

    @property
    @abstractmethod
    def open_slots(self) -> int:
        """How many requests may be sent right now; 0 once it is retired or closed."""

    @abstractmethod
    def send(self, request: Request, timeout: float) -> Future[Response]:
        """Send at once, in this very step, on a connection with an open slot.

        The future ends in the response, or in a `TransportError`: after `timeout` seconds at most. Cancelling it
        abandons the request.
        """

    def delivered(self) -> Future[bool]:
        """Ends when no request that was sent can arrive at the server any more.

        It is True where the server has read all of them, or closed the connection; and False where that is not known.
        """
        future: Future[bool] = self._loop.create_future()
        future.set_result(False)
        return future

    @abstractmethod
    def retire(self, reason: str) -> None:
        """Take no more requests; close when the last open one has ended."""

    def detach(self, reason: str) -> None:
        """Retire it; the requests that are open on it no longer concern its pool."""
        self.pool = None
        if not self.closed_reason:
            self.retire(reason)

    @abstractmethod
    async def aclose(self) -> None:
        """Close now; open requests end in a `TransportError`. Returns when the socket is closed."""

    def _timed_out(self, timeout: float) -> TransportError:
        error = TransportError(f"no response within {timeout:g} s from {self.host}")
        error.__cause__ = TimeoutError()
        return error


class Connector(Protocol):
    """Opens connections: `Dialler`, or `HttpxTransports` where the caller supplied a transport."""

    async def connect(self, origin: Origin, on_change: OnChange) -> Connection:
        """Open one connection.

        Raises:
            TransportError: it cannot be opened; the message says where and why. It is `never_processed`.
        """


class SocketConnection(Connection, asyncio.Protocol):
    """A connection that is the protocol of its own transport."""

    close_timeout = 1.0
    """Seconds that closing may take before the socket is aborted."""

    def __init__(self, host: str, on_change: OnChange) -> None:
        super().__init__(host, on_change)
        self._transport: asyncio.Transport
        self._lost = asyncio.Event()

    async def wait_ready(self) -> None:
        """Wait until requests may be sent; raises a `TransportError` where it closed before that."""

    async def aclose(self) -> None:
        self._close("closed here")
        with anyio.move_on_after(self.close_timeout):
            await self._lost.wait()
        if not self._lost.is_set():
            self._transport.abort()
            await self._lost.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it

    def connection_lost(self, exc: Exception | None) -> None:
        self._close(f"connection lost: {exc}" if exc else CLOSED_BY_SERVER)
        del self._transport  # it sits in a reference cycle and holds 256 KiB of buffers: drop it now
        self._lost.set()

    @abstractmethod
    def _close(self, reason: str) -> None:
        """End the open requests, write the buffer, and close."""

    def _refused(self, reason: str) -> Future[Response]:
        """The outcome of a request that there is no slot for."""
        future: Future[Response] = self._loop.create_future()
        text = f"{self.host}: {self.closed_reason or reason}"
        future.set_exception(TransportError(text, never_processed=True))
        return future
