"""HTTP/1.1 on the server's side."""

import time
from typing import TYPE_CHECKING

import h11

from rongcloud_groups.emulator.connection import LINGER, ServerConnection, pieces
from rongcloud_groups.emulator.requests import MAX_BODY_SIZE
from rongcloud_groups.emulator.responses import Response

if TYPE_CHECKING:
    from rongcloud_groups.emulator.server import Emulator


class Http1ServerConnection(ServerConnection):
    """One HTTP/1.1 connection, kept alive."""

    http_version = "HTTP/1.1"

    def __init__(self, host: "Emulator") -> None:
        super().__init__(host)
        self._h11 = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._arrived = 0.0
        self._closing = False
        self._refused = False

    @property
    def busy(self) -> bool:
        return self._request is not None

    def receive(self, data: bytes, arrived: float) -> None:
        self._h11.receive_data(data)
        self._advance(arrived)
        self.rest()

    def _advance(self, arrived: float) -> None:
        try:
            while True:
                event = self._h11.next_event()
                match event:
                    case h11.Request():
                        self._begin(event, arrived)
                    case h11.Data() if not self._refused:
                        self._body += event.data
                        if len(self._body) > MAX_BODY_SIZE:
                            self._refused = self._closing = True
                            self._serve()
                    case h11.EndOfMessage() if not self._refused:
                        self._serve()
                    case h11.Data() | h11.EndOfMessage():
                        pass
                    case _:
                        return
        except h11.RemoteProtocolError:
            self.host.record.counts.protocol_errors += 1
            self.transport.close()

    def _begin(self, request: h11.Request, arrived: float) -> None:
        self._request = request
        self._body = bytearray()
        self._arrived = arrived
        nth = self.count(request.target.decode(), arrived)
        goaway = self.host.faults.goaway
        self._closing = goaway is not None and goaway.at == nth
        if goaway is not None and self._closing:
            self.host.faults.played[goaway.kind] += 1

    def _serve(self) -> None:
        request = self._request
        assert request is not None  # noqa: S101  h11 ends a message only after it began
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        response = self.host.respond(
            request.method.decode(), request.target.decode(), headers, bytes(self._body), self._arrived
        )
        self._closing = self._closing or (response.fault or "").startswith("goaway")
        self.after(response.delay, lambda: self._respond(response))

    def _respond(self, response: Response) -> None:
        match response.fault:
            case "hang":
                return
            case "rst" | "refuse" | "goaway-lower" | "goaway-close":
                self.transport.close()
            case "drop" | "cut":
                self.transport.write(self._head(response) + response.body[: len(response.body) // 2])
                self.transport.close()
            case "slow-body":
                self.transport.write(self._head(response))
                self._send_slowly(pieces(response.body))
            case _:
                self._send(self._head(response), response.body)

    def _head(self, response: Response) -> bytes:
        headers = [("content-length", str(len(response.body))), *response.headers]
        if self._closing:
            headers.append(("connection", "close"))
        return self._h11.send(h11.Response(status_code=response.status, headers=headers)) or b""

    def _send_slowly(self, left: list[bytes]) -> None:
        if len(left) == 1:
            self._send(b"", left[0])
            return
        self.transport.write(self._h11.send(h11.Data(data=left[0])) or b"")
        self.after(self.host.faults.piece_pause, lambda: self._send_slowly(left[1:]))

    def _send(self, head: bytes, body: bytes) -> None:
        data = self._h11.send(h11.Data(data=body)) or b""
        self.transport.write(head + data + (self._h11.send(h11.EndOfMessage()) or b""))
        self._request = None
        if self._refused:
            self.after(LINGER, self.transport.close)  # closed at once, the response could be lost on its way
        elif self._h11.our_state is h11.MUST_CLOSE:
            self.transport.close()
        elif self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            self._advance(time.monotonic())
