"""One HTTP/2 connection: an `asyncio.Protocol` around the state machine of `h2`.

Whatever arrives is read by this one protocol and settles the future of its stream at once, so a slow answer
holds up no other. Sending is a single synchronous step. `h2` parses, compresses and keeps the state; here are
the futures, the timers, the count of streams, and the care for a server that fails.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RemoteSettingsChanged, ResponseReceived, StreamEnded, StreamReset, WindowUpdated
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from rongcloud_groups._http import Request, Response
from rongcloud_groups._transport.http2.frames import FinalData, FrameSplitter
from rongcloud_groups._transport.http2.headers import (
    MAX_HEADER_LIST_SIZE,
    CachingEncoder,
    HeaderBuilder,
    MalformedResponse,
    ResponseBuilder,
)
from rongcloud_groups._transport.http2.keepalive import KeepAlive
from rongcloud_groups.errors import TransportError

PING_AFTER: Final = 1.0
"""Seconds of silence, with requests open, until a PING asks whether the server is there."""
PING_TIMEOUT: Final = 1.0
"""Seconds from that PING until the connection counts as dead."""
CLOSE_TIMEOUT: Final = 1.0
"""Seconds that closing may take before the socket is cut off."""
_RECEIVE_WINDOW: Final = 16 * 1024 * 1024
_DEFAULT_WINDOW: Final = 65_535
_LEAST_SEND_WINDOW: Final = 16 * 1024
_MAX_UNWRITTEN: Final = 16 * 1024
_MAX_UNREAD: Final = 1024 * 1024
_LAST_STREAM_ID: Final = 2**31 - 1


class _Stream:
    __slots__ = ("assembly", "future", "timer", "unsent")

    def __init__(self, future: asyncio.Future[Response], timer: asyncio.TimerHandle, body: bytes) -> None:
        self.future = future
        self.timer = timer
        self.unsent = memoryview(body)
        self.assembly = ResponseBuilder()


class HTTP2Connection(asyncio.Protocol):
    """A `Connection` that carries many requests at once.

    Args:
        authority: the host, with the port where it isn't 443.
        max_in_flight: how many requests may be open at once, whatever the server allows.
        on_change: called, in the same step, when `open_slots` may have grown and when the connection is
            retired or closed. It may send.
        ping_after: see `PING_AFTER`.
        ping_timeout: see `PING_TIMEOUT`.
        close_timeout: see `CLOSE_TIMEOUT`.

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
    ) -> None:
        self.sent = 0
        self.in_flight = 0
        self.closed = False
        self.closed_reason = ""
        self._authority = authority
        self._max_in_flight = max_in_flight
        self._on_change = on_change
        self._ping_timeout = ping_timeout
        self._close_timeout = close_timeout

        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._settled = asyncio.Event()
        self._lost = asyncio.Event()
        # The outbound fields are our own, so nothing about them has to be checked or mended.
        self._h2 = H2Connection(
            H2Configuration(header_encoding=None, normalize_outbound_headers=False, validate_outbound_headers=False)
        )
        self._h2.encoder = CachingEncoder()
        self._cutter = FrameSplitter()
        self._streams: dict[int, _Stream] = {}
        self._allowed = 0
        self._retired = False
        self._writing_paused = False
        self._changed = False
        self._fields = HeaderBuilder(authority)
        self._silence = KeepAlive(ping_after, ping_timeout, self._ping, self._on_silence)
        self._cut_off: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = self.closed_reason or "open"
        return f"<HTTP2Connection {self._authority} {state}, {self.sent} sent, {self.in_flight} in flight>"

    # What the dispatcher sees

    @property
    def open_slots(self) -> int:
        """How many requests may be sent right now; 0 once it is retired or closed."""
        if self._retired or self.closed or self._writing_paused:
            return 0
        if self._h2.outbound_flow_control_window < _LEAST_SEND_WINDOW:
            return 0
        return max(0, self._allowed - self.in_flight)

    async def wait_ready(self) -> None:
        """Waits for the server's SETTINGS.

        Raises:
            TransportError: when the connection closes before they have come.
        """
        await self._settled.wait()
        if self.closed:
            raise TransportError(f"{self._authority}: {self.closed_reason}", never_processed=True)

    def send(self, request: Request, timeout: float) -> asyncio.Future[Response]:
        """Sends at once, in this very step; the future ends in the reply or in a `TransportError`.

        Call it only while `open_slots` is positive. Cancelling the future resets the stream.

        Args:
            request: what to send.
            timeout: seconds until the attempt ends in a `TransportError`.
        """
        future: asyncio.Future[Response] = self._loop.create_future()
        if not self.open_slots:
            reason = self.closed_reason or "no free stream"
            future.set_exception(TransportError(f"{self._authority}: {reason}", never_processed=True))
            return future
        stream_id = self._h2.get_next_available_stream_id()
        timer = self._loop.call_later(timeout, self._on_timeout, stream_id, timeout)
        self._open(stream_id, _Stream(future, timer, request.body))
        future.add_done_callback(partial(self._on_done, stream_id))
        try:
            self._h2.send_headers(stream_id, self._fields.of(request), end_stream=not request.body)
            self._send_body(stream_id)
        except (ProtocolError, ValueError) as error:
            self._close(f"request refused by h2: {error}", ErrorCodes.INTERNAL_ERROR)
        if stream_id >= _LAST_STREAM_ID:
            self._retire("stream IDs used up")
        self._end_step()
        return future

    def retire(self) -> None:
        """Takes no more requests; closes with a GOAWAY when the last open one has ended."""
        self._retire(f"retired after {self.sent} requests")
        self._end_step()

    async def aclose(self) -> None:
        """Closes now; open requests end in a `TransportError`. Returns when the socket is closed."""
        self._close("closed here", ErrorCodes.NO_ERROR)
        self._end_step()
        await self._lost.wait()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  narrows the type; streams have no other
        self._transport = transport
        # A request that waits here has left by the limiter's count, but not by the server's.
        transport.set_write_buffer_limits(high=_MAX_UNWRITTEN)
        self._h2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: _RECEIVE_WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_SIZE,
            },
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_RECEIVE_WINDOW - _DEFAULT_WINDOW)
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        self._silence.heard()
        try:
            for piece in self._cutter.cut(data):
                if isinstance(piece, bytes):
                    self._receive(piece)
                elif isinstance(piece, FinalData):
                    self._assemble(piece)
                else:
                    self._on_goaway(piece)
        except Exception as error:  # noqa: BLE001  whatever hostile bytes provoke ends the connection, not the loop
            # h2 has put a GOAWAY of its own into its buffer where it noticed the breach itself.
            code = None if isinstance(error, ProtocolError) else ErrorCodes.PROTOCOL_ERROR
            self._close(f"HTTP/2 broken by the server: {str(error) or type(error).__name__}", code)
        self._end_step()

    def eof_received(self) -> None:
        self._close("closed by the server", ErrorCodes.NO_ERROR)
        self._end_step()

    def connection_lost(self, exc: Exception | None) -> None:
        self._close(f"connection lost: {exc}" if exc else "closed by the server", None)
        if self._cut_off is not None:
            self._cut_off.cancel()
        del self._transport  # and with it buffers of 256 KiB, for which the garbage collector may be long in coming
        self._lost.set()
        self._end_step()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._changed = True
        self._end_step()

    # Sending

    def _send_body(self, stream_id: int) -> None:
        """Hands over as much of the body as the server's windows take."""
        stream = self._streams[stream_id]
        while stream.unsent:
            window = self._h2.local_flow_control_window(stream_id)
            size = min(len(stream.unsent), window, self._h2.max_outbound_frame_size)
            if size <= 0:
                return
            part, stream.unsent = stream.unsent[:size], stream.unsent[size:]
            self._h2.send_data(stream_id, part, end_stream=not stream.unsent)

    def _send_bodies(self) -> None:
        for stream_id in [stream_id for stream_id, stream in self._streams.items() if stream.unsent]:
            self._send_body(stream_id)

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._transport.write(data)

    # Receiving

    def _receive(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            match event:
                case DataReceived():
                    # What comes for an abandoned stream counts against the connection's window all the same.
                    self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    self._assemble(event)
                case ResponseReceived() | StreamEnded():
                    self._assemble(event)
                case StreamReset():
                    self._on_stream_reset(event)
                case RemoteSettingsChanged():
                    self._on_settings()
                case WindowUpdated():
                    self._changed = True
                    self._send_bodies()
                case _:
                    pass

    def _on_settings(self) -> None:
        self._allowed = min(self._h2.remote_settings.max_concurrent_streams, self._max_in_flight)
        self._settled.set()
        self._changed = True
        self._send_bodies()

    def _assemble(self, event: ResponseReceived | DataReceived | FinalData | StreamEnded) -> None:
        if (stream := self._streams.get(event.stream_id)) is None:
            return
        try:
            match event:
                case ResponseReceived():
                    stream.assembly.take_headers(event.headers)
                case DataReceived():
                    stream.assembly.take_body(event.data)
                case FinalData():
                    # h2 would end the whole connection over a wrong length; this ends the stream before it looks.
                    stream.assembly.check_length(to_come=event.length)
                case StreamEnded():
                    stream.assembly.check_length()
                    self._answer(event.stream_id, stream)
        except MalformedResponse as error:
            self._fail(event.stream_id, str(error))
            self._reset(event.stream_id, ErrorCodes.PROTOCOL_ERROR)

    def _answer(self, stream_id: int, stream: _Stream) -> None:
        self._pop(stream_id)
        if stream.unsent:
            # The server answered without waiting for the whole request: the rest isn't wanted.
            self._reset(stream_id, ErrorCodes.NO_ERROR)
        if not stream.future.done():
            stream.future.set_result(stream.assembly.reply())

    def _on_stream_reset(self, event: StreamReset) -> None:
        refused = event.error_code == ErrorCodes.REFUSED_STREAM
        self._fail(event.stream_id, f"stream reset: {_name(event.error_code)}", never_processed=refused)

    def _on_goaway(self, frame: GoAwayFrame) -> None:
        name = _name(frame.error_code)
        self._retire("GOAWAY by the server" if frame.error_code == 0 else f"GOAWAY by the server: {name}")
        for stream_id in [stream_id for stream_id in self._streams if stream_id > frame.last_stream_id]:
            self._fail(stream_id, "GOAWAY by the server", never_processed=True)

    # Streams

    def _open(self, stream_id: int, stream: _Stream) -> None:
        if not self._streams:
            self._silence.start()
        self._streams[stream_id] = stream
        self.in_flight += 1
        self.sent += 1

    def _pop(self, stream_id: int) -> _Stream | None:
        if (stream := self._streams.pop(stream_id, None)) is None:
            return None
        stream.timer.cancel()
        self.in_flight -= 1
        if not self.in_flight:
            self._silence.stop()
        self._changed = True
        return stream

    def _fail(self, stream_id: int, text: str, *, never_processed: bool = False) -> None:
        stream = self._pop(stream_id)
        if stream is not None and not stream.future.done():
            error = TransportError(f"{self._authority}: {text}", never_processed=never_processed)
            stream.future.set_exception(error)

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        # The server may have closed the stream meanwhile.
        with suppress(ProtocolError):
            self._h2.reset_stream(stream_id, code)

    def _on_done(self, stream_id: int, future: asyncio.Future[Response]) -> None:
        if future.cancelled() and self._pop(stream_id) is not None:
            self._reset(stream_id, ErrorCodes.CANCEL)
            self._end_step()

    def _on_timeout(self, stream_id: int, timeout: float) -> None:
        stream = self._pop(stream_id)
        if stream is not None and not stream.future.done():
            error = TransportError(f"no answer within {timeout:g} s from {self._authority}")
            error.__cause__ = TimeoutError()
            stream.future.set_exception(error)
        self._reset(stream_id, ErrorCodes.CANCEL)
        self._end_step()

    def _ping(self) -> None:
        self._h2.ping(b"\0" * 8)
        self._flush()

    def _on_silence(self) -> None:
        self._close("nothing heard, and no answer to a PING", None)
        self._transport.abort()
        self._end_step()

    # The end

    def _retire(self, reason: str) -> None:
        if not self._retired and not self.closed:
            self._retired = self._changed = True
            self.closed_reason = reason

    def _close(self, reason: str, code: ErrorCodes | None) -> None:
        """Ends everything at once; a GOAWAY with `code` is sent first, if it isn't None."""
        if self.closed:
            return
        self.closed = self._changed = True
        self.closed_reason = self.closed_reason or reason
        for stream_id in list(self._streams):
            self._fail(stream_id, reason)
        self._silence.close()
        self._settled.set()
        if not self._transport.is_closing():
            if code is not None:
                self._h2.close_connection(code)
            self._flush()
            self._transport.close()
            self._cut_off = self._loop.call_later(self._close_timeout, self._transport.abort)

    def _end_step(self) -> None:
        """Writes what the step produced, closes if it was the last one, and tells of the change."""
        if self._retired and not self.in_flight:
            self._close(self.closed_reason, ErrorCodes.NO_ERROR)
        if not self.closed:
            self._flush()
            if self._writing_paused and self._transport.get_write_buffer_size() > _MAX_UNREAD:
                self._close("the server does not read", None)
        if self._changed:
            self._changed = False
            self._on_change()


def _name(error_code: ErrorCodes | int) -> str:
    try:
        return ErrorCodes(error_code).name
    except ValueError:
        return f"error {error_code}"
