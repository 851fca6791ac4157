"""A connection on the server's side, whichever HTTP version it speaks: it receives requests, and plays their faults."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, cast

from rongcloud_groups.emulator.requests import MAX_BODY_SIZE
from rongcloud_groups.emulator.responses import Response

if TYPE_CHECKING:
    from rongcloud_groups.emulator.server import Emulator

CONTROL_PREFIX = "/_emulator/"
LINGER = 0.25  # seconds in which a client can still send before a connection that ends on its account is closed
_SLOW_PIECES = 10


@dataclass(slots=True, eq=False)
class Exchange:
    """A request as far as it was received, and the rest of its response."""

    id: int
    method: str
    target: str
    headers: dict[str, str]
    arrived: float
    body: bytearray = field(default_factory=bytearray)
    read: bool = False  # whether no more of the body is wanted
    refused: bool = False  # whether that is because it is too long
    unsent: bytes = b""
    whole: bool = False  # whether `unsent` is all that is left of the response


class ServerConnection(asyncio.Protocol, ABC):
    http_version: ClassVar[str]
    reset_by: ClassVar[Collection[str]]
    """Faults that end an exchange without a response."""

    def __init__(self, host: "Emulator") -> None:
        self.host = host
        self.exchanges: dict[int, Exchange] = {}
        self.leaving = False  # whether no new request is taken
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._nth = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self.host.connections.add(self)
        self._rest()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self.host.connections.discard(self)
        self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        if not self.host.faults.black_hole:
            self.receive(data, time.monotonic())
            self._rest()

    @abstractmethod
    def receive(self, data: bytes, arrived: float) -> None: ...

    @abstractmethod
    def send_head(self, exchange: Exchange, response: Response) -> None: ...

    @abstractmethod
    def pump(self, exchange: Exchange) -> None:
        """Send as much of `unsent` as the client takes."""

    @abstractmethod
    def flush(self) -> None: ...

    @abstractmethod
    def reset(self, exchange: Exchange, fault: str) -> None:
        """End an exchange without a response."""

    def begin(self, exchange: Exchange) -> int:
        """Note that a request's headers came, and return its number on this connection."""
        if not exchange.target.startswith(CONTROL_PREFIX):
            self._nth += 1
            path = exchange.target.partition("?")[0]
            self.host.arrived(path, self.http_version, exchange.arrived, self._nth)
        if self.leaving:
            self.host.counts.never_processed += 1
            return self._nth
        self.exchanges[exchange.id] = exchange
        goaway = self.host.faults.goaway
        if goaway is not None and goaway.at == self._nth:
            self.host.faults.played[goaway.kind] += 1
            self.go_away(goaway.kind)
        return self._nth

    def take_body(self, exchange_id: int, data: bytes) -> None:
        exchange = self.exchanges.get(exchange_id)
        if exchange is not None and not exchange.read:
            exchange.body += data
            if len(exchange.body) > MAX_BODY_SIZE:
                exchange.refused = True  # before its end
                self.end_body(exchange_id)

    def end_body(self, exchange_id: int) -> None:
        exchange = self.exchanges.get(exchange_id)
        if exchange is None or exchange.read:
            return
        exchange.read = True
        body = bytes(exchange.body)
        response = self.host.respond(exchange.method, exchange.target, exchange.headers, body, exchange.arrived)
        if response.fault is not None and response.fault.startswith("goaway"):
            self.go_away(response.fault)
        self.after(response.delay, lambda: self._respond(exchange, response))

    def go_away(self, kind: str) -> None:  # noqa: ARG002  HTTP/2 has three kinds
        self.leaving = True

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call later, unless the connection is lost before; at once for 0 seconds."""
        if seconds <= 0:
            call()
        else:
            asyncio.get_running_loop().call_later(seconds, lambda: None if self.lost.done() else call())

    def shut_down(self) -> None:
        self.transport.close()

    def violated(self) -> None:
        """Close because the client broke the protocol."""
        self.host.counts.protocol_errors += 1
        self.flush()
        self.transport.close()

    def _respond(self, exchange: Exchange, response: Response) -> None:
        fault = response.fault or ""
        if exchange.id not in self.exchanges or fault == "hang":
            return
        if fault in self.reset_by:
            self.reset(exchange, fault)
            self.flush()
            return
        self.send_head(exchange, response)
        body = response.body
        if fault == "slow-body":
            self._send_slowly(exchange, body, max(1, -(-len(body) // _SLOW_PIECES)))
        elif fault in ("drop", "cut"):
            self._send(exchange, body[: len(body) // 2], whole=fault == "cut")
        else:
            self._send(exchange, body, whole=True)
        if fault == "drop":
            self.transport.close()

    def _send(self, exchange: Exchange, body: bytes, *, whole: bool) -> None:
        exchange.unsent += body
        exchange.whole = whole
        self.pump(exchange)
        self.flush()

    def _send_slowly(self, exchange: Exchange, left: bytes, size: int) -> None:
        if exchange.id in self.exchanges:
            self._send(exchange, left[:size], whole=len(left) <= size)
            if not exchange.whole:
                self.after(self.host.faults.piece_pause, lambda: self._send_slowly(exchange, left[size:], size))

    def _rest(self) -> None:
        """Begin the time after which an idle connection is closed."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self.host.faults.idle is not None:
            self._idle_timer = asyncio.get_running_loop().call_later(self.host.faults.idle, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self.exchanges:
            self._rest()
        else:
            self.host.faults.played["idle"] += 1
            self.transport.close()
