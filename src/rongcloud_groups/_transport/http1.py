"""One HTTP/1.1 connection: an `asyncio.Protocol` around the state machine of `h11`."""

import asyncio
import select
from typing import Final

import h11

from rongcloud_groups._http import Origin, Proxy, Request, Response
from rongcloud_groups._transport.interface import CLOSED_BY_SERVER, OnChange, SocketConnection
from rongcloud_groups._transport.response import MAX_HEADER_LIST_SIZE, PendingResponse
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
        proxy: the proxy that the transport is connected to, for an origin without TLS; RFC 9112, section 3.2.2.
    """

    http_version = "HTTP/1.1"

    def __init__(self, origin: Origin, on_change: OnChange, proxy: Proxy | None = None) -> None:
        super().__init__(origin.authority, on_change)
        self._target_prefix = "" if proxy is None else str(origin)
        self._fields = [("host", origin.authority), *([] if proxy is None else proxy.headers)]
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=2 * MAX_HEADER_LIST_SIZE)
        self._response: PendingResponse | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._informational = self._chunks = 0

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
        self._informational = self._chunks = 0
        self._response = response = PendingResponse(timeout, lambda _: self._close("request cancelled"))
        self._timer = self._loop.call_at(response.deadline, self._on_timeout, response)
        try:
            self._transport.write(self._encode(request))
        except h11.LocalProtocolError:  # its text may have a field with a signature
            self._close("request refused by h11")
        return response

    def retire(self, reason: str) -> None:
        if not self.closed_reason:
            self.closed_reason = reason
            if self.in_flight:
                self._on_change()
            else:
                self._close(reason)

    def data_received(self, data: bytes) -> None:
        if self._response is None:
            self._close("the server spoke unasked")
        else:
            self._receive(self._response, data)

    def eof_received(self) -> None:
        if self._response is not None:
            self._receive(self._response, b"")
        self._close(CLOSED_BY_SERVER)

    def _encode(self, request: Request) -> bytes:
        fields = [*self._fields, *request.headers, ("content-length", str(len(request.body)))]
        events = (
            h11.Request(method="POST", target=self._target_prefix + request.path, headers=fields),
            h11.Data(request.body),
            h11.EndOfMessage(),
        )
        return b"".join(self._h11.send(event) or b"" for event in events)

    def _receive(self, response: PendingResponse, data: bytes) -> None:
        body = bytearray()  # of this read: a part of the response for each chunk would take more memory than its body
        try:
            self._h11.receive_data(data)
            while not response.ended and (event := self._h11.next_event()) is not h11.NEED_DATA:
                self._take(response, event, body)
            if body:
                response.add_body(bytes(body), final=response.ended)
            whole = response.whole() if response.ended else None
        except h11.RemoteProtocolError as error:
            silent = not data and not response.status
            self._close("server disconnected without sending a response" if silent else str(error))
        except TransportError as error:
            self._close(str(error))
        else:
            if whole is not None:
                self._end_request()
                response.set_result(whole)
                self._reuse()

    def _take(self, response: PendingResponse, event: h11.Event | type, body: bytearray) -> None:
        match event:
            case h11.Data():
                body += event.data
                self._chunks += event.chunk_start
                if self._chunks > max(_MAX_TINY_CHUNKS, (response.size + len(body)) // _TINY):
                    raise TransportError("a body in chunks of a few bytes")
            case h11.InformationalResponse() | h11.Response():
                self._take_head(response, event)
            case h11.EndOfMessage():
                response.ended = True
            case _:
                raise TransportError("server disconnected without sending a response")

    def _take_head(self, response: PendingResponse, head: h11.InformationalResponse | h11.Response) -> None:
        if sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in head.headers) > MAX_HEADER_LIST_SIZE:
            raise TransportError(f"a header list of more than {MAX_HEADER_LIST_SIZE >> 10} KiB")
        if {b"transfer-encoding", b"content-length"} <= {name for name, _ in head.headers}:
            raise TransportError("a response with both Transfer-Encoding and Content-Length")
        self._informational += isinstance(head, h11.InformationalResponse)
        if self._informational > _MAX_INFORMATIONAL:
            raise TransportError(f"more than {_MAX_INFORMATIONAL} informational responses")
        response.add_headers([(b":status", b"%d" % head.status_code), *head.headers])

    def _reuse(self) -> None:
        """Make ready for the next request; close where that could get a response that it did not ask for."""
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

    def _on_timeout(self, response: PendingResponse) -> None:
        error = self._timed_out(response.timeout)
        response.set_exception(error)
        self._close(str(error))

    def _close(self, reason: str) -> None:
        if self.closed:
            return
        self.closed = True
        self.closed_reason = self.closed_reason or reason
        response = self._end_request()
        if response is not None and not response.done():
            response.set_exception(TransportError(f"{self.host}: {reason}"))
        if not self._transport.is_closing():
            self._transport.close()
        self._on_change()

    def _end_request(self) -> PendingResponse | None:
        response, self._response = self._response, None
        self.in_flight = 0
        if self._timer is not None:
            self._timer.cancel()
        return response
