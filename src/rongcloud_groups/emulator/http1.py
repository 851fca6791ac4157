"""HTTP/1.1 on the server's side."""

import time
from typing import TYPE_CHECKING

import h11

from rongcloud_groups.emulator.connection import LINGER, Exchange, ServerConnection
from rongcloud_groups.emulator.responses import Response

if TYPE_CHECKING:
    from rongcloud_groups.emulator.server import Emulator


class Http1ServerConnection(ServerConnection):
    """One HTTP/1.1 connection, kept alive."""

    http_version = "HTTP/1.1"
    reset_by = ("rst", "refuse", "goaway-lower", "goaway-close")

    def __init__(self, host: "Emulator") -> None:
        super().__init__(host)
        self._h11 = h11.Connection(h11.SERVER)
        self._unwritten = b""

    def receive(self, data: bytes, arrived: float) -> None:
        self._h11.receive_data(data)
        self._advance(arrived)

    def _advance(self, arrived: float) -> None:
        try:
            while self._take(self._h11.next_event(), arrived):
                pass
        except h11.RemoteProtocolError:
            self.violated()

    def _take(self, event: object, arrived: float) -> bool:
        """Take an event, and tell whether there may be another."""
        match event:
            case h11.Request():
                headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
                self.begin(Exchange(0, event.method.decode(), event.target.decode(), headers, arrived))
            case h11.Data():
                self.take_body(0, event.data)
            case h11.EndOfMessage():
                self.end_body(0)
            case _:
                return False
        return True

    def send_head(self, exchange: Exchange, response: Response) -> None:
        headers = [("content-length", str(len(response.body))), *response.headers]
        if self.leaving or exchange.refused:
            headers.append(("connection", "close"))
        self._write(h11.Response(status_code=response.status, headers=headers))

    def pump(self, exchange: Exchange) -> None:
        self._write(h11.Data(data=exchange.unsent))
        exchange.unsent = b""
        if exchange.whole:
            self._finish(exchange)

    def _finish(self, exchange: Exchange) -> None:
        del self.exchanges[exchange.id]
        try:
            self._write(h11.EndOfMessage())
        except h11.LocalProtocolError:  # the response is short, and the end of the connection shows it
            self._h11.send_failed()
        self.flush()
        if exchange.refused:
            self.after(LINGER, self.transport.close)  # closed at once, the response could be lost on its way
        elif self._h11.our_state is not h11.DONE:
            self.transport.close()
        elif self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            self._advance(time.monotonic())

    def reset(self, exchange: Exchange, fault: str) -> None:  # noqa: ARG002  a stream is all of the connection
        self.transport.close()

    def _write(self, event: h11.Event) -> None:
        self._unwritten += self._h11.send(event) or b""

    def flush(self) -> None:
        if self._unwritten:
            self.transport.write(self._unwritten)
            self._unwritten = b""
