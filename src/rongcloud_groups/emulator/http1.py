"""HTTP/1.1 on the server's side."""

from typing import TYPE_CHECKING

import h11

from rongcloud_groups.emulator.requests import Exchange
from rongcloud_groups.emulator.responses import Response

if TYPE_CHECKING:
    from rongcloud_groups.emulator.connection import ServerConnection


class Http1Protocol:
    """Speaks HTTP/1.1 on a connection; exchanges come one after the other, all with the ID 0."""

    version = "HTTP/1.1"

    def __init__(self, connection: "ServerConnection") -> None:
        self.connection = connection
        self.shut_down = connection.close
        self._h11 = h11.Connection(h11.SERVER)
        self._unwritten = b""

    def receive(self, data: bytes = b"") -> None:
        if data:  # without any, h11 takes it for the end
            self._h11.receive_data(data)
        try:
            while True:
                match self._h11.next_event():
                    case h11.Request(method=method, target=target, headers=fields):
                        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in fields}
                        self.connection.begin(0, method.decode(), target.decode(), headers)
                    case h11.Data(data=data):
                        self.connection.take_body(0, data)
                    case h11.EndOfMessage():
                        self.connection.take_body(0, ended=True)
                    case _:
                        return
        except h11.RemoteProtocolError:
            self.connection.violated()

    def send_head(self, exchange: Exchange, response: Response) -> None:
        headers = [("content-length", str(len(response.body))), *response.headers]
        if self.connection.leaving or exchange.refused:
            headers.append(("connection", "close"))
        self._write(h11.Response(status_code=response.status, headers=headers))

    def pump(self, exchange: Exchange) -> None:
        self._write(h11.Data(data=exchange.unsent))
        exchange.unsent = b""
        if not exchange.whole:
            return
        del self.connection.exchanges[exchange.id]
        try:
            self._write(h11.EndOfMessage())
        except h11.LocalProtocolError:  # the response is short, and the end of the connection shows it
            self._h11.send_failed()
        if exchange.refused:
            self.connection.close_later()  # closed at once, the response could be lost on its way
        elif self._h11.our_state is not h11.DONE:
            self.connection.close()
        elif self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            self.receive()

    def go_away(self, kind: str) -> None:
        if kind == "goaway-lower":
            self.connection.close()

    def reset(self, exchange: Exchange, fault: str) -> None:  # noqa: ARG002  a stream is all of the connection
        self.connection.close()

    def _write(self, event: h11.Event) -> None:
        self._unwritten += self._h11.send(event) or b""

    def data_to_send(self) -> bytes:
        data, self._unwritten = self._unwritten, b""
        return data
