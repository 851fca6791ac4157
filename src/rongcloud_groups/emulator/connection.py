"""A connection on the server's side, whichever HTTP version it speaks: it receives requests, and plays their faults."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
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
    path: str  # without a query
    headers: Mapping[str, str]
    arrived: float
    body: bytearray = field(default_factory=bytearray)
    refused: bool = False  # whether the body is too long, and the rest of it ignored
    unsent: bytes = b""
    whole: bool = False  # whether `unsent` is all that is left of the response


class ServerConnection(asyncio.Protocol, ABC):
    """Keeps the exchanges of a connection; a subclass speaks the protocol."""

    http_version: ClassVar[str]

    def __init__(self, host: "Emulator") -> None:
        self.host = host
        self.exchanges: dict[int, Exchange] = {}
        self.leaving = False  # whether no new request is taken
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.nth = 0  # the number of the last request
        self._arrived = 0.0  # when the last bytes arrived
        self._idle_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self.host.connections.add(self)
        self._start_idle_timer()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self.host.connections.discard(self)
        self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        if not self.host.faults.black_hole:
            self._arrived = time.monotonic()
            self.receive(data)
            self._start_idle_timer()

    @abstractmethod
    def receive(self, data: bytes) -> None: ...

    @abstractmethod
    def send_head(self, exchange: Exchange, response: Response) -> None: ...

    @abstractmethod
    def pump(self, exchange: Exchange) -> None:
        """Send as much of `unsent` as the client takes."""

    @abstractmethod
    def reset(self, exchange: Exchange, fault: str) -> None:
        """End an exchange without a response."""

    @abstractmethod
    def go_away(self, kind: str) -> None:
        """Take no more requests; `kind` is a fault that begins with ``goaway``."""

    @abstractmethod
    def flush(self) -> None: ...

    def begin(self, exchange_id: int, method: str, target: str, headers: Mapping[str, str]) -> None:
        """Note that a request's headers came."""
        path = target.partition("?")[0]
        if not path.startswith(CONTROL_PREFIX):
            self.nth += 1
            self.host.arrived(path, self.http_version, self._arrived, self.nth)
        if self.leaving:
            self.host.counts.never_processed += 1
            return
        self.exchanges[exchange_id] = Exchange(exchange_id, method, path, headers, self._arrived)
        goaway = self.host.faults.goaway
        if goaway is not None and goaway.at == self.nth:
            self.host.faults.played[goaway.kind] += 1
            self.go_away(goaway.kind)

    def take_body(self, exchange_id: int, data: bytes = b"", *, ended: bool = False) -> None:
        """Note a part of a request's body, and respond at its end or as soon as it is too long."""
        exchange = self.exchanges.get(exchange_id)
        if exchange is None or exchange.refused:
            return
        exchange.body += data
        exchange.refused = len(exchange.body) > MAX_BODY_SIZE
        if ended or exchange.refused:
            response = self.host.respond(exchange)
            if response.fault is not None and response.fault.startswith("goaway"):
                self.go_away(response.fault)
            self.after(response.delay, lambda: self._respond(exchange, response))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call later, unless the connection is lost before; at once for 0 seconds."""
        if seconds <= 0:
            call()
        else:
            asyncio.get_running_loop().call_later(seconds, lambda: None if self.lost.done() else call())

    def write(self, data: bytes) -> None:
        if data and not self.host.faults.black_hole:
            self.transport.write(data)

    def close(self) -> None:
        if not self.transport.is_closing():  # closed twice, asyncio's TLS could not be aborted
            self.transport.close()

    def shut_down(self) -> None:
        self.close()

    def violated(self) -> None:
        """Close because the client broke the protocol."""
        self.host.counts.protocol_errors += 1
        self.flush()
        self.close()

    def _respond(self, exchange: Exchange, response: Response) -> None:
        fault, body = response.fault or "", response.body
        if exchange.id not in self.exchanges or fault == "hang":
            return
        if fault in ("rst", "refuse"):
            self.reset(exchange, fault)
            self.flush()
            return
        self.send_head(exchange, response)
        if fault == "slow-body":
            self._send_slowly(exchange, body, max(1, -(-len(body) // _SLOW_PIECES)))
        elif fault in ("drop", "cut"):
            self._send(exchange, body[: len(body) // 2], whole=fault == "cut")
        else:
            self._send(exchange, body, whole=True)
        if fault == "drop":
            self.close()

    def _send_slowly(self, exchange: Exchange, body: bytes, size: int) -> None:
        if exchange.id in self.exchanges:
            self._send(exchange, body[:size], whole=len(body) <= size)
            if not exchange.whole:
                self.after(self.host.faults.piece_pause, lambda: self._send_slowly(exchange, body[size:], size))

    def _send(self, exchange: Exchange, data: bytes, *, whole: bool) -> None:
        exchange.unsent += data
        exchange.whole = whole
        self.pump(exchange)
        self.flush()

    def _start_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self.host.faults.idle is not None:
            self._idle_timer = asyncio.get_running_loop().call_later(self.host.faults.idle, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self.exchanges:
            self._start_idle_timer()
        else:
            self.host.faults.played["idle"] += 1
            self.close()
