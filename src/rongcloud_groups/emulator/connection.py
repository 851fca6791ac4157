"""A connection on the server's side, whichever HTTP version it speaks."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from rongcloud_groups.emulator.server import Emulator

CONTROL_PREFIX = "/_emulator/"
SLOW_PIECES = 10
LINGER = 0.25  # seconds in which a client can still send before a connection that ends on its account is closed


class ServerConnection(asyncio.Protocol, ABC):
    """One connection: it registers itself with its host, and ends its timers when it is lost.

    Args:
        host: the emulator.
    """

    http_version: str

    def __init__(self, host: "Emulator") -> None:
        self.host = host
        self._loop = asyncio.get_running_loop()
        self._timers: set[asyncio.TimerHandle] = set()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._nth = 0
        self.lost: asyncio.Future[None] = self._loop.create_future()

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether a request is open."""
        ...

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self.transport = transport
        self.host.connections.add(self)
        self.rest()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        for timer in self._timers:
            timer.cancel()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self.host.connections.discard(self)
        self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        if not self.host.faults.black_hole:
            self.receive(data, time.monotonic())

    @abstractmethod
    def receive(self, data: bytes, arrived: float) -> None:
        """Take bytes that arrived at this time."""
        ...

    def count(self, target: str, arrived: float) -> int:
        """Note that a request's headers came, and return its number on this connection."""
        if not target.startswith(CONTROL_PREFIX):
            self._nth += 1
            self.host.record.arrived(target.partition("?")[0], self.http_version, arrived, self._nth)
        return self._nth

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call later, unless the connection is lost before; at once for 0 seconds."""
        if seconds <= 0:
            call()
            return

        def run() -> None:
            self._timers.discard(timer)
            call()

        timer = self._loop.call_later(seconds, run)
        self._timers.add(timer)

    def rest(self) -> None:
        """Begin the time after which an idle connection is closed."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self.host.faults.idle is not None:
            self._idle_timer = self._loop.call_later(self.host.faults.idle, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self.busy:
            self.rest()
        else:
            self.host.faults.played["idle"] += 1
            self.transport.close()

    def shut_down(self) -> None:
        """Close the way the protocol intends."""
        self.transport.close()


def pieces(body: bytes) -> list[bytes]:
    """A body in pieces, for sending slowly."""
    size = max(1, -(-len(body) // SLOW_PIECES))
    return [body[start : start + size] for start in range(0, len(body), size)]
