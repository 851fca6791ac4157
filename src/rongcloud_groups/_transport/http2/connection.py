"""One HTTP/2 connection: an `asyncio.Protocol` around the state machine of `h2`.

Everything that arrives is read by this one protocol and settles the future of its stream at once, so a slow response
holds up no other. Sending is a single synchronous step. `h2` parses and keeps the state; here are the futures, the
timers, the count of streams, and the care for a server that fails or means harm.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, cast

from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    PingAckReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from hyperframe.frame import GoAwayFrame
from msgspec import Struct, field

from rongcloud_groups._http import Request, Response
from rongcloud_groups._transport.http2.delivery import PING_DATA, DeliveryChecks
from rongcloud_groups._transport.http2.frames import FloodError
from rongcloud_groups._transport.http2.keepalive import KeepAlive
from rongcloud_groups._transport.http2.response import MalformedResponse, ResponseBuilder
from rongcloud_groups._transport.http2.session import LAST_STREAM_ID, Session
from rongcloud_groups._transport.interface import CLOSE_TIMEOUT, ConnectionState
from rongcloud_groups.errors import TransportError

PING_AFTER: Final = 1.0
"""Seconds of silence, with requests open, until a PING asks whether the server is there."""
PING_TIMEOUT: Final = 1.0
"""Seconds from that PING until the connection counts as dead."""
SLOT_TIMEOUT: Final = 5.0
"""Seconds for which the server may let no request in before the connection retires."""
_CLOSED_BY_SERVER: Final = "closed by the server"
_MAX_UNWRITTEN: Final = 16 * 1024


class _Stream(Struct, eq=False):
    future: asyncio.Future[Response]
    timer: asyncio.TimerHandle
    responses_before: int
    response: ResponseBuilder = field(default_factory=ResponseBuilder)


class HTTP2Connection(ConnectionState, asyncio.Protocol):
    """A `Connection` that carries many requests at once.

    Args:
        authority: the host, with the port where it isn't 443.
        max_in_flight: how many requests may be open at once, whatever the server allows.
        on_change: called, in the same step, when `open_slots` may have grown and when the connection is
            retired or closed. It may send.
        ping_after, ping_timeout, close_timeout, slot_timeout: see the constants of these names.

    Attributes:
        sent: how many requests it was given.
        in_flight: how many of them are still open.
        closed: True when nothing can come from it any more.
        closed_reason: why it takes no more requests, for a log; empty while it does.
        http_version: ``HTTP/2``.
    """

    http_version = "HTTP/2"

    def __init__(
        self,
        authority: str,
        *,
        max_in_flight: int,
        on_change: Callable[[], None],
        ping_after: float = PING_AFTER,
        ping_timeout: float = PING_TIMEOUT,
        close_timeout: float = CLOSE_TIMEOUT,
        slot_timeout: float = SLOT_TIMEOUT,
    ) -> None:
        super().__init__(authority, on_change, close_timeout=close_timeout)
        self._max_in_flight = max_in_flight
        self._slot_timeout = slot_timeout
        self._settled = asyncio.Event()
        self._session = Session(authority)
        self._keepalive = KeepAlive(ping_after, ping_timeout, self._ping, self._on_silence)
        self._deliveries = DeliveryChecks(partial(self._ping, PING_DATA))
        self._streams: dict[int, _Stream] = {}
        self._allowed = 0
        self._responses = 0
        self._writing_paused = False
        self._changed = False
        self._next_step: asyncio.Handle | None = None
        self._slot_timer: asyncio.TimerHandle | None = None

    # For the dispatcher

    @property
    def open_slots(self) -> int:
        """How many requests may be sent right now; 0 once it is retired or closed."""
        return 0 if self._retired or self.closed or self._blocked else max(0, self._allowed - self.in_flight)

    @property
    def _blocked(self) -> bool:
        """Whether the server lets no request in, however few are open."""
        return self._writing_paused or self._allowed <= 0 or not self._session.sendable

    async def wait_ready(self) -> None:
        """Waits for SETTINGS of the server that let a request in.

        Raises:
            TransportError: when the connection closes before they have come.
        """
        await self._settled.wait()
        if self.closed:
            raise TransportError(f"{self._authority}: {self.closed_reason}", never_processed=True)

    def send(self, request: Request, timeout: float) -> asyncio.Future[Response]:
        """Sends at once, in this very step; the future ends in the response or in a `TransportError`.

        Call it only while `open_slots` is positive. Cancelling the future resets the stream.

        Args:
            request: the request.
            timeout: seconds until the attempt ends in a `TransportError`.
        """
        future: asyncio.Future[Response] = self._loop.create_future()
        if not self.open_slots:
            reason = self.closed_reason or "no free stream"
            future.set_exception(TransportError(f"{self._authority}: {reason}", never_processed=True))
            return future
        stream_id = self._session.next_stream_id()
        timer = self._loop.call_later(timeout, self._on_timeout, stream_id, timeout)
        self._open(stream_id, _Stream(future, timer, self._responses))
        future.add_done_callback(partial(self._on_done, stream_id))
        try:
            self._session.send(stream_id, request)
        except (ProtocolError, ValueError) as error:
            self._close(f"request refused by h2: {error}", ErrorCodes.INTERNAL_ERROR)
        if stream_id >= LAST_STREAM_ID:
            self._retire("stream IDs used up")
        self._end_step()
        return future

    def delivered(self) -> asyncio.Future[bool]:
        """See `Connection.delivered`."""
        return self._deliveries.start()

    def retire(self) -> None:
        """Takes no more requests; closes with a GOAWAY when the last open one has ended."""
        self._retire(f"retired after {self.sent} requests")
        self._end_step()

    async def aclose(self) -> None:
        """Closes now; open requests end in a `TransportError`. Returns when the socket is closed."""
        self._close("closed here", ErrorCodes.NO_ERROR)
        self._end_step()
        await self._lost.wait()

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # a stream has no other; uvloop's is no subclass
        # A request that waits here has left by the limiter's count, but not by the server's.
        self._transport.set_write_buffer_limits(high=_MAX_UNWRITTEN)
        self._session.start()
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        self._keepalive.heard()
        self._session.feed(data)
        if self._next_step is None:
            self._step()

    def eof_received(self) -> None:
        self._finish_reading()
        self._close(_CLOSED_BY_SERVER, ErrorCodes.NO_ERROR)
        self._end_step()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish_reading()
        self._close(f"connection lost: {exc}" if exc else _CLOSED_BY_SERVER, None)
        self._on_transport_lost()
        self._end_step()

    def pause_writing(self) -> None:
        self._writing_paused = True
        self._watch_slots()

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._changed = True
        self._end_step()

    def _flush(self) -> None:
        if data := self._session.data_to_send():
            self._transport.write(data)

    # Receiving

    def _step(self) -> None:
        """Handles some frames; the rest follows after everything else that the event loop has to do."""
        self._read_frames()
        if self._session.unread and not self.closed:
            if self._next_step is None:
                self._transport.pause_reading()
            self._next_step = self._loop.call_soon(self._step)
        else:
            self._resume_reading()
        self._end_step()

    def _resume_reading(self) -> None:
        if self._next_step is not None:
            self._next_step.cancel()
            self._next_step = None
            self._transport.resume_reading()

    def _finish_reading(self) -> None:
        """Handles the frames that came before the end: there may be whole responses in them."""
        while self._session.unread and not self.closed:
            self._read_frames()

    def _read_frames(self) -> None:
        try:
            for event in self._session.step():
                self._handle(event)
        except FloodError as error:
            self._close(f"HTTP/2 broken by the server: {error}", ErrorCodes.ENHANCE_YOUR_CALM)
        except Exception as error:  # noqa: BLE001  whatever hostile bytes provoke ends the connection, not the loop
            # h2 has put a GOAWAY of its own into its buffer where it noticed the breach itself.
            code = None if isinstance(error, ProtocolError) else ErrorCodes.PROTOCOL_ERROR
            self._close(f"HTTP/2 broken by the server: {str(error) or type(error).__name__}", code)

    def _handle(self, event: Event | GoAwayFrame) -> None:
        match event:
            case ResponseReceived() | DataReceived() | StreamEnded():
                self._build(event)
            case StreamReset():
                refused = event.error_code == ErrorCodes.REFUSED_STREAM
                self._fail(event.stream_id, f"stream reset: {_name(event.error_code)}", never_processed=refused)
            case GoAwayFrame():
                self._on_goaway(event)
            case RemoteSettingsChanged():
                self._changed = True
                self._allowed = min(self._session.max_streams, self._max_in_flight)
                if self._allowed > 0:
                    self._settled.set()
            case WindowUpdated():
                self._changed = True
            case PingAckReceived() if event.ping_data == PING_DATA:
                self._deliveries.acknowledged()
            case _:
                pass

    def _build(self, event: ResponseReceived | DataReceived | StreamEnded) -> None:
        stream_id = event.stream_id
        if stream_id is None or (stream := self._streams.get(stream_id)) is None:
            return
        response = stream.response
        try:
            if isinstance(event, StreamEnded):
                response.check_complete()
                self._pop(stream_id)
                self._responses += 1
                if not stream.future.done():
                    stream.future.set_result(response.build())
                return
            if isinstance(event, ResponseReceived):
                response.add_headers(event.headers)
            else:
                response.add_body(event.data)
            self._session.expect(stream_id, response.content_length, response.size)
        except MalformedResponse as error:
            self._fail(stream_id, str(error), reset=ErrorCodes.PROTOCOL_ERROR)

    def _on_goaway(self, frame: GoAwayFrame) -> None:
        name = _name(frame.error_code)
        self._retire("GOAWAY by the server" if frame.error_code == 0 else f"GOAWAY by the server: {name}")
        for stream_id in [stream_id for stream_id in self._streams if stream_id > frame.last_stream_id]:
            self._fail(stream_id, "GOAWAY by the server", never_processed=True)

    # Streams

    def _open(self, stream_id: int, stream: _Stream) -> None:
        if not self._streams:
            self._keepalive.start()
        self._streams[stream_id] = stream
        self.in_flight += 1
        self.sent += 1

    def _pop(self, stream_id: int, reset: ErrorCodes | None = None) -> _Stream | None:
        if (stream := self._streams.pop(stream_id, None)) is None:
            return None
        stream.timer.cancel()
        self._session.end(stream_id, reset)
        self.in_flight -= 1
        if not self.in_flight:
            self._keepalive.stop()
        self._changed = True
        return stream

    def _fail(
        self, stream_id: int, text: str, *, never_processed: bool = False, reset: ErrorCodes | None = None
    ) -> None:
        stream = self._pop(stream_id, reset)
        if stream is not None and not stream.future.done():
            error = TransportError(f"{self._authority}: {text}", never_processed=never_processed)
            stream.future.set_exception(error)

    def _on_done(self, stream_id: int, future: asyncio.Future[Response]) -> None:
        if future.cancelled() and self._pop(stream_id, ErrorCodes.CANCEL) is not None:
            self._end_step()

    def _on_timeout(self, stream_id: int, timeout: float) -> None:
        stream = self._pop(stream_id, ErrorCodes.CANCEL)
        if stream is None:
            return
        error = TransportError(f"no response within {timeout:g} s from {self._authority}")
        error.__cause__ = TimeoutError()
        if not stream.future.done():
            stream.future.set_exception(error)
        if stream.responses_before == self._responses:  # to no request at all: another connection may do better
            self._retire(str(error))
        self._end_step()

    def _ping(self, data: bytes = bytes(8)) -> None:
        self._session.ping(data)
        self._flush()

    def _on_silence(self) -> None:
        self._close("nothing received, not even the ACK of a PING", None)
        self._transport.abort()
        self._end_step()

    # The end

    def _retire(self, reason: str) -> None:
        if self._mark_retired(reason):
            self._changed = True

    def _close(self, reason: str, code: ErrorCodes | None) -> None:
        """Ends everything at once; a GOAWAY with `code` is sent first, if it isn't None."""
        if not self._mark_closed(reason):
            return
        self._changed = True
        for stream_id in list(self._streams):
            self._fail(stream_id, reason)
        self._keepalive.close()
        self._deliveries.end(by_server=reason == _CLOSED_BY_SERVER)
        self._settled.set()
        self._resume_reading()
        if not self._transport.is_closing():
            if code is not None:
                self._session.close(code)
            self._flush()
            self._close_transport()

    def _watch_slots(self) -> None:
        """Runs a timer while the server lets no request in."""
        waiting = self._blocked and not self._retired and not self.closed
        if waiting and self._slot_timer is None:
            self._slot_timer = self._loop.call_later(self._slot_timeout, self._on_no_slots)
        elif not waiting and self._slot_timer is not None:
            self._slot_timer.cancel()
            self._slot_timer = None

    def _on_no_slots(self) -> None:
        self._retire(f"the server let no request in for {self._slot_timeout:g} s")
        self._end_step()

    def _end_step(self) -> None:
        """Writes the step's frames, closes if it was the last one, and reports the change."""
        if self._retired and not self.in_flight:
            self._close(self.closed_reason, ErrorCodes.NO_ERROR)
        if not self.closed:
            self._flush()
        self._watch_slots()
        if self._changed:
            self._changed = False
            self._on_change()


def _name(error_code: ErrorCodes | int) -> str:
    try:
        return ErrorCodes(error_code).name
    except ValueError:
        return f"error {error_code}"
