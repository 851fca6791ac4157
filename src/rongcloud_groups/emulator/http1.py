"""HTTP/1.1 on the server's side."""

import asyncio

import h11

from rongcloud_groups.emulator.connection import LINGER, Exchange, ServerConnection
from rongcloud_groups.emulator.responses import Response


class Http1ServerConnection(ServerConnection):
    """One HTTP/1.1 connection, kept alive; its exchanges come one after the other, all with the ID 0."""

    http_version = "HTTP/1.1"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._h11 = h11.Connection(h11.SERVER)
        self._unwritten = b""
        super().connection_made(transport)

    def receive(self, data: bytes) -> None:
        self._h11.receive_data(data)
        self._advance()

    def _advance(self) -> None:
        try:
            while True:
                match self._h11.next_event():
                    case h11.Request(method=method, target=target, headers=fields):
                        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in fields}
                        self.begin(0, method.decode(), target.decode(), headers)
                    case h11.Data(data=data):
                        self.take_body(0, data)
                    case h11.EndOfMessage():
                        self.take_body(0, ended=True)
                    case _:
                        return
        except h11.RemoteProtocolError:
            self.violated()

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
            self.after(LINGER, self.close)  # closed at once, the response could be lost on its way
        elif self._h11.our_state is not h11.DONE:
            self.close()
        elif self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            self._advance()

    def go_away(self, kind: str) -> None:
        self.leaving = True
        if kind != "goaway":
            self.exchanges.clear()
            self.close()

    def reset(self, exchange: Exchange, fault: str) -> None:  # noqa: ARG002  a stream is all of the connection
        self.close()

    def _write(self, event: h11.Event) -> None:
        self._unwritten += self._h11.send(event) or b""

    def flush(self) -> None:
        data, self._unwritten = self._unwritten, b""
        self.write(data)
