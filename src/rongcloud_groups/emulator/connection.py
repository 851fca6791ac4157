"""A connection on the server's side, whichever HTTP version it speaks: it receives requests, and plays their faults."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from rongcloud_groups.emulator.http1 import Http1Protocol
from rongcloud_groups.emulator.http2 import Http2Protocol
from rongcloud_groups.emulator.requests import MAX_BODY_SIZE, Exchange
from rongcloud_groups.emulator.responses import Response

if TYPE_CHECKING:
    from rongcloud_groups.emulator.server import Emulator

CONTROL_PREFIX = "/_emulator/"
_LINGER = 0.25  # seconds in which a client can still send before a connection that ends on its account is closed


class ServerConnection(asyncio.Protocol):
    """Keeps the exchanges of a connection; `protocol` speaks the version that ALPN chose."""

    protocol: Http1Protocol | Http2Protocol

    def __init__(self, host: "Emulator") -> None:
        self.host = host
        self.exchanges: dict[int, Exchange] = {}
        self.leaving = False  # whether no new request is taken
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.nth = 0  # the number of the last request
        self._arrived = 0.0  # when the last bytes arrived

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self.host.connections.add(self)
        tls = transport.get_extra_info("ssl_object")
        speaks_http2 = tls is not None and tls.selected_alpn_protocol() == "h2"
        self.protocol = Http2Protocol(self) if speaks_http2 else Http1Protocol(self)
        self.flush()
        self._start_idle_timer()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self.host.connections.discard(self)
        self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        if not self.host.faults.black_hole:
            self._arrived = time.monotonic()
            self.protocol.receive(data)
            self._start_idle_timer()

    def begin(self, exchange_id: int, method: str, target: str, headers: Mapping[str, str]) -> None:
        path = target.partition("?")[0]
        if not path.startswith(CONTROL_PREFIX):
            self.nth += 1
            self.host.arrived(path, self.protocol.version, self._arrived, self.nth)
        if self.leaving:
            self.host.counts.never_processed += 1
            return
        self.exchanges[exchange_id] = Exchange(exchange_id, method, path, headers, self._arrived)
        goaway = self.host.faults.goaway
        if goaway is not None and goaway.at == self.nth:
            self.host.faults.played[goaway.kind] += 1
            self._go_away(goaway.kind)

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
                self._go_away(response.fault)
            if response.delay > 0:
                self.after(response.delay, lambda: self._respond(exchange, response))
            else:
                self._respond(exchange, response)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call later, unless the connection is lost before."""
        asyncio.get_running_loop().call_later(seconds, lambda: None if self.lost.done() else call())

    def flush(self) -> None:
        data = self.protocol.data_to_send()
        if data and not self.host.faults.black_hole:
            self.transport.write(data)
        if self.leaving and not self.exchanges:
            self.close_later()

    def close(self) -> None:
        if not self.transport.is_closing():  # closed twice, asyncio's TLS could not be aborted
            self.flush()
            self.exchanges.clear()
            self.transport.close()

    def close_later(self) -> None:
        self.after(_LINGER, self.close)

    def violated(self) -> None:
        """Close because the client broke the protocol."""
        self.host.counts.protocol_errors += 1
        self.close()

    def _go_away(self, kind: str) -> None:
        """Take no more requests; `kind` is a fault that begins with ``goaway``."""
        if not self.leaving:
            self.leaving = True
            self.protocol.go_away(kind)
            if kind == "goaway-close":
                self.close()

    def _respond(self, exchange: Exchange, response: Response) -> None:
        fault, body = response.fault, response.body
        if exchange.id not in self.exchanges or fault == "hang":
            return
        if fault in ("rst", "refuse"):
            self.protocol.reset(exchange, fault)
            self.flush()
            return
        self.protocol.send_head(exchange, response)
        data = body[: len(body) // 2] if fault in ("drop", "cut") else body
        self._send(exchange, data, whole=fault != "drop", pieces=10 if fault == "slow-body" else 1)
        if fault == "drop":
            self.close()

    def _send(self, exchange: Exchange, data: bytes, *, whole: bool, pieces: int) -> None:
        if exchange.id in self.exchanges:
            size = -(-len(data) // pieces)
            exchange.unsent += data[:size]
            exchange.whole = whole and pieces == 1
            self.protocol.pump(exchange)
            self.flush()
            if pieces > 1:
                rest, pause = data[size:], self.host.faults.piece_pause
                self.after(pause, lambda: self._send(exchange, rest, whole=whole, pieces=pieces - 1))

    def _start_idle_timer(self) -> None:
        if self.host.faults.idle is not None:
            arrived = self._arrived
            self.after(self.host.faults.idle, lambda: self._close_if_idle(since=arrived))

    def _close_if_idle(self, since: float) -> None:
        if self.exchanges and since == self._arrived:
            self._start_idle_timer()
        elif since == self._arrived:
            self.host.faults.played["idle"] += 1
            self.close()
