"""One HTTP/1.1 connection: an `asyncio.Protocol` around the state machine of `h11`."""

import asyncio
import select
from collections.abc import Callable
from typing import Final

import h11

from rongcloud_groups._http import Origin, Proxy, Request, Response
from rongcloud_groups._transport.http2.headers import MAX_HEADER_LIST_SIZE
from rongcloud_groups._transport.http2.stream import MAX_BODY_SIZE
from rongcloud_groups._transport.interface import SocketConnection
from rongcloud_groups.errors import TransportError

_FIELD_OVERHEAD: Final = 32  # bytes a field counts beyond its text; RFC 9113, section 6.5.2
_MAX_INFORMATIONAL: Final = 16
"""Responses 1xx before the final one; a server sends one or two."""
_MAX_TINY_CHUNKS: Final = 1_000
"""Chunks of a body that has few bytes in each; a server sends none."""
_TINY: Final = 16


class HTTP1Connection(SocketConnection):
    """A `Connection` that carries one request at a time.

    A response that was not asked for ends the connection if it is there before the next request is sent. HTTP/1.1
    cannot tell one that comes later from the response to that request: there, the IDs in it decide.

    Args:
        origin: where it goes.
        on_change: see `Connector.connect`.
        proxy: the proxy that the transport is connected to, for an origin without TLS; RFC 9112, section 3.2.2.
    """

    http_version = "HTTP/1.1"

    def __init__(self, origin: Origin, on_change: Callable[[], None], proxy: Proxy | None = None) -> None:
        super().__init__(origin.authority, on_change)
        self._target_prefix = "" if proxy is None else str(origin)
        self._fields = [("host", origin.authority), *([] if proxy is None else proxy.headers)]
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=2 * MAX_HEADER_LIST_SIZE)
        self._future: asyncio.Future[Response] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._builder = _ResponseBuilder()

    @property
    def open_slots(self) -> int:
        return 0 if self.closed_reason or self.in_flight else 1

    def send(self, request: Request, timeout: float) -> asyncio.Future[Response]:
        """Cancelling the future closes the connection, as a time-out does: HTTP/1.1 cannot abandon a request."""
        if self.sent and self.open_slots and self._has_unread():
            self._close("the server spoke unasked")
        if not self.open_slots:
            return self._refused("a request is open")
        self.sent += 1
        self.in_flight = 1
        self._builder = _ResponseBuilder()
        self._future = future = self._loop.create_future()
        text = f"no response within {timeout:g} s from {self.host}"
        self._timer = self._loop.call_later(timeout, self._close, text, TimeoutError())
        future.add_done_callback(self._on_done)
        try:
            data = self._encode(request)
        except h11.LocalProtocolError:  # its text may have a field with a signature
            self._close("request refused by h11")
        else:
            self._transport.write(data)
        return future

    def retire(self, reason: str) -> None:
        if not self.closed_reason:
            self.closed_reason = reason
            if self.in_flight:
                self._on_change()
            else:
                self._close(reason)

    # Called by asyncio

    def data_received(self, data: bytes) -> None:
        if self._future is None:
            self._close("the server spoke unasked")
        elif not self.closed:
            self._receive(data)

    def eof_received(self) -> None:
        if self._future is not None and not self.closed:
            self._receive(b"")
        self._close("closed by the server")

    def connection_lost(self, exc: Exception | None) -> None:
        self._close(f"connection lost: {exc}" if exc else "closed by the server")
        self._on_transport_lost()

    # The exchange

    def _encode(self, request: Request) -> bytes:
        fields = [*self._fields, *request.headers, ("content-length", str(len(request.body)))]
        events = (
            h11.Request(method="POST", target=self._target_prefix + request.path, headers=fields),
            h11.Data(request.body),
            h11.EndOfMessage(),
        )
        return b"".join(self._h11.send(event) or b"" for event in events)

    def _receive(self, data: bytes) -> None:
        try:
            self._h11.receive_data(data)
            while not self._builder.complete:
                event = self._h11.next_event()
                if event is h11.NEED_DATA:
                    return
                self._builder.take(event)
        except h11.RemoteProtocolError as error:
            unanswered = not data and self._h11.their_state is h11.ERROR and not self._builder.status
            text = "server disconnected without sending a response" if unanswered else str(error)
            self._close(text, error)
        except TransportError as error:
            self._close(str(error))
        else:
            self._finish(self._builder.response())

    def _finish(self, response: Response) -> None:
        if future := self._end_request():
            future.set_result(response)
        if self.closed_reason or self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            self._close("closed by the server after its response")
        elif self._h11.trailing_data[0] or self._transport.get_write_buffer_size() or self._has_unread():
            self._close("the server sent more than its response, or before it had the request")
        else:
            self._h11.start_next_cycle()
            self._on_change()

    def _has_unread(self) -> bool:
        """Whether the server sent more: it would be taken for the response to the next request."""
        handle = self._transport.get_extra_info("socket").fileno()
        if not hasattr(select, "poll"):  # Windows
            return bool(select.select([handle], [], [], 0)[0])
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(0))

    def _end_request(self) -> asyncio.Future[Response] | None:
        """The future of the open request, which has ended, if it waits for its outcome."""
        future, self._future = self._future, None
        self.in_flight = 0
        if self._timer is not None:
            self._timer.cancel()
        return None if future is None or future.done() else future

    def _on_done(self, future: asyncio.Future[Response]) -> None:
        if future.cancelled() and self._future is future:
            self._close("request cancelled")

    def _close(self, reason: str, cause: Exception | None = None) -> None:
        if self.closed:
            return
        self.closed = True
        self.closed_reason = self.closed_reason or reason
        if future := self._end_request():
            error = TransportError(reason if self.host in reason else f"{self.host}: {reason}")
            error.__cause__ = cause
            future.set_exception(error)
        if not self._transport.is_closing():
            self._close_transport()
        self._on_change()


class _ResponseBuilder:
    """Puts a response together, within its limits."""

    def __init__(self) -> None:
        self.status = 0
        self.complete = False
        self._fields: dict[str, str] = {}
        self._body = bytearray()
        self._informational = 0
        self._chunks = 0

    def take(self, event: h11.Event | type) -> None:
        """Take the next event; raises a `TransportError` where the response is not acceptable."""
        match event:
            case h11.InformationalResponse():
                self._informational += 1
                if self._informational > _MAX_INFORMATIONAL:
                    raise TransportError(f"more than {_MAX_INFORMATIONAL} informational responses")
            case h11.Response():
                self._take_head(event)
            case h11.Data():
                self._take_body(event)
            case h11.EndOfMessage():
                self.complete = True
            case _:
                raise TransportError("server disconnected without sending a response")

    def response(self) -> Response:
        """The whole response."""
        return Response(self.status, self._fields, bytes(self._body))

    def _take_head(self, head: h11.Response) -> None:
        if sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in head.headers) > MAX_HEADER_LIST_SIZE:
            raise TransportError(f"a header list of more than {MAX_HEADER_LIST_SIZE >> 10} KiB")
        self.status = head.status_code
        self._fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        if "transfer-encoding" in self._fields and "content-length" in self._fields:
            raise TransportError("a response with both Transfer-Encoding and Content-Length")

    def _take_body(self, data: h11.Data) -> None:
        self._body += data.data
        self._chunks += data.chunk_start
        if len(self._body) > MAX_BODY_SIZE:
            raise TransportError(f"a body of more than {MAX_BODY_SIZE >> 20} MiB")
        if self._chunks > max(_MAX_TINY_CHUNKS, len(self._body) // _TINY):
            raise TransportError("a body in chunks of a few bytes")
