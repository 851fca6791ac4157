"""The connection as the pool and the dispatcher see it, and the state that its implementations share."""

import asyncio
from asyncio import Future
from collections.abc import Callable
from typing import ClassVar, Final, Protocol

from rongcloud_groups._http import Origin, Request, Response

CLOSE_TIMEOUT: Final = 1.0
"""Seconds that closing may take before the socket is aborted."""


class Connection(Protocol):
    """An open connection. It never reconnects; `ConnectionPool` opens another one."""

    @property
    def http_version(self) -> str:
        """``HTTP/2`` or ``HTTP/1.1``."""
        ...

    @property
    def sent(self) -> int:
        """How many requests it was given."""
        ...

    @property
    def in_flight(self) -> int:
        """How many of them are still open."""
        ...

    @property
    def closed_reason(self) -> str:
        """Why it takes no more requests; empty while it does."""
        ...

    @property
    def open_slots(self) -> int:
        """How many requests may be sent right now; 0 once it is retired or closed."""
        ...

    @property
    def closed(self) -> bool:
        """True when nothing can come from it any more."""
        ...

    def send(self, request: Request, timeout: float) -> Future[Response]:
        """Send at once, in this very step; the future ends in the response or in a `TransportError`.

        Call it only while `open_slots` is positive. Cancelling the future abandons the request.

        Args:
            request: the request.
            timeout: seconds until the attempt ends in a `TransportError`.
        """
        ...

    def delivered(self) -> Future[bool]:
        """Wait until no request that was sent can arrive at the server any more.

        Returns:
            A future: True where the server has read all of them, or closed the connection; False, at once or when the
            connection ends, where that is not known.
        """
        ...

    def retire(self) -> None:
        """Take no more requests; close when the last open one has ended."""
        ...

    async def aclose(self) -> None:
        """Close now; open requests end in a `TransportError`. Returns when the socket is closed."""
        ...


class Connector(Protocol):
    """Opens connections: `Dialler`, or `HttpxTransports` where the caller supplied a transport."""

    async def connect(self, origin: Origin, on_change: Callable[[], None]) -> Connection:
        """Open one connection.

        Args:
            origin: where to.
            on_change: called, in the same step, when `Connection.open_slots` may have grown and when the
                connection is retired or closed. It may send.

        Raises:
            TransportError: it cannot be opened; the message says where and why. It is `never_processed`.
        """
        ...


class ConnectionState:
    """The state and the end of a connection, whichever protocol it speaks.

    Args:
        authority: the host, with the port where it isn't the scheme's own.
        on_change: see `Connector.connect`.
        close_timeout: see `CLOSE_TIMEOUT`.
    """

    http_version: ClassVar[str]
    # Here for the repr of one whose construction failed.
    sent = 0
    in_flight = 0
    closed = False
    closed_reason = ""
    _authority = ""

    def __init__(self, authority: str, on_change: Callable[[], None], *, close_timeout: float = CLOSE_TIMEOUT) -> None:
        self._authority = authority
        self._on_change = on_change
        self._close_timeout = close_timeout
        self._loop = asyncio.get_running_loop()
        self._retired = False
        self._transport: asyncio.Transport
        self._lost = asyncio.Event()
        self._abort_timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = self.closed_reason or "open"
        return f"<{type(self).__name__} {self._authority} {state}, {self.sent} sent, {self.in_flight} in flight>"

    async def wait_ready(self) -> None:
        """Wait until requests may be sent.

        Raises:
            TransportError: the connection closed before that.
        """

    def delivered(self) -> Future[bool]:
        """See `Connection.delivered`; nothing is known here."""
        future: Future[bool] = self._loop.create_future()
        future.set_result(False)
        return future

    def _mark_retired(self, reason: str) -> bool:
        """Note that it takes no more requests; False where that was known."""
        if self._retired or self.closed:
            return False
        self._retired = True
        self.closed_reason = reason
        return True

    def _mark_closed(self, reason: str) -> bool:
        """Note that nothing comes from it any more; False where that was known."""
        if self.closed:
            return False
        self.closed = True
        self.closed_reason = self.closed_reason or reason
        return True

    def _close_transport(self) -> None:
        """Write the buffer and close; abort when that takes too long."""
        self._transport.close()
        self._abort_timer = self._loop.call_later(self._close_timeout, self._transport.abort)

    def _on_transport_lost(self) -> None:
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        del self._transport  # it sits in a reference cycle and holds 256 KiB of buffers: drop it now
        self._lost.set()
