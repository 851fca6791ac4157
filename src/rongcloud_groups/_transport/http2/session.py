"""One connection's state without its socket: requests become frames, and frames become responses; RFC 9113."""

from asyncio import Future
from collections.abc import Iterable
from struct import error as LayoutError  # noqa: N812  the name of an exception
from typing import Final

from msgspec import Struct, field

from rongcloud_groups._http import Request, Response
from rongcloud_groups._transport.http2 import frames
from rongcloud_groups._transport.http2.frames import ErrorCode, FrameReader, ProtocolError, StreamError
from rongcloud_groups._transport.http2.headers import MAX_HEADER_LIST_SIZE, HeaderDecoder, HeaderEncoder
from rongcloud_groups._transport.http2.response import MAX_BODY_SIZE, ResponseBuilder
from rongcloud_groups._transport.http2.windows import STREAM_WINDOW, StreamWindows
from rongcloud_groups.errors import TransportError

LAST_STREAM_ID: Final = 2**31 - 1  # and the largest window
PING_DATA: Final = b"received"
_RECEIVE_WINDOW: Final = 16 * 1024 * 1024
_DEFAULT_WINDOW: Final = 65_535
_UNLIMITED: Final = 2**32
_REQUEST_ALLOWANCE: Final = 10_000
"""The most that the frames of one request and its response may cost beside its DATA; see `FrameReader`."""
_SETTINGS: Final = (
    (frames.ENABLE_PUSH, 0),
    (frames.INITIAL_WINDOW_SIZE, STREAM_WINDOW),
    (frames.MAX_HEADER_LIST_SIZE_SETTING, MAX_HEADER_LIST_SIZE),
)
_PREFACE: Final = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + frames.serialize(frames.SETTINGS, payload=b"".join(frames.SETTING_LAYOUT.pack(*setting) for setting in _SETTINGS))
    + frames.serialize(frames.WINDOW_UPDATE, payload=frames.WORD.pack(_RECEIVE_WINDOW - _DEFAULT_WINDOW))
)


class _Stream(Struct, eq=False):
    future: Future[Response]
    unsent: memoryview
    send_window: int
    receive_window: int = STREAM_WINDOW
    ended: bool = False  # by the server
    response: ResponseBuilder = field(default_factory=ResponseBuilder)


class Session:
    """Turns requests into bytes to send, and received bytes into their responses.

    Args:
        authority: the host, with the port where it isn't 443.

    Attributes:
        reader: takes the bytes that were read.
        streams: the open streams by their IDs.
        next_stream_id: the ID of the next request's stream.
        max_streams: how many the server allows at once; 0 until its SETTINGS have come.
        send_window: how many bytes of bodies the server takes on all streams together.
        responses: how many requests got their response.
        goaway: why the server takes no more requests; empty while it does.
        acknowledged: True after the ACK of a PING with `PING_DATA`, until the owner takes note.
        changed: True after a stream ended or a limit changed, until the owner takes note.
    """

    def __init__(self, authority: str) -> None:
        self.reader = FrameReader()
        self.streams: dict[int, _Stream] = {}
        self.next_stream_id = 1
        self.max_streams = 0
        self.send_window = _DEFAULT_WINDOW
        self.responses = 0
        self.goaway = ""
        self.acknowledged = self.changed = False
        self._authority = authority
        self._initial_send_window = _DEFAULT_WINDOW
        self._encoder = HeaderEncoder(authority)
        self._decoder = HeaderDecoder()
        self._windows = StreamWindows()
        self._output = bytearray(_PREFACE)
        self._received = 0  # bytes of DATA since the connection's window was last widened
        self._expected: int | None = frames.SETTINGS  # the only type of frame that may come now
        self._block = (0, 0, b"")  # stream ID, flags and bytes of a header block that is to be continued

    # Sending

    def send(self, request: Request, future: Future[Response]) -> int:
        """Sends a request, as much of its body as the server's windows take; returns its stream ID."""
        self.reader.allow(_REQUEST_ALLOWANCE)
        stream_id = self.next_stream_id
        self.next_stream_id += 2
        stream = self.streams[stream_id] = _Stream(future, memoryview(request.body), self._initial_send_window)
        kind, flags = frames.HEADERS, 0 if request.body else frames.END_STREAM
        block = self._encoder.encode(request)
        while len(block) > frames.MAX_FRAME_SIZE:
            self._write(kind, flags, stream_id, block[: frames.MAX_FRAME_SIZE])
            kind, flags, block = frames.CONTINUATION, 0, block[frames.MAX_FRAME_SIZE :]
        self._write(kind, flags | frames.END_HEADERS, stream_id, block)
        self._write_body(stream_id, stream)
        return stream_id

    def ping(self, data: bytes) -> None:
        """Sends a PING of eight bytes."""
        self._write(frames.PING, payload=data)

    def close(self, code: ErrorCode) -> None:
        """Sends a GOAWAY."""
        self._write(frames.GOAWAY, payload=frames.TWO_WORDS.pack(0, code))

    def data_to_send(self) -> bytes:
        """The bytes for the socket since the last call."""
        data = bytes(self._output)
        self._output.clear()
        return data

    def _write(self, kind: int, flags: int = 0, stream_id: int = 0, payload: bytes | memoryview = b"") -> None:
        self._output += frames.serialize(kind, flags, stream_id, payload)

    def _write_body(self, stream_id: int, stream: _Stream) -> None:
        while unsent := stream.unsent:
            size = min(len(unsent), stream.send_window, self.send_window, frames.MAX_FRAME_SIZE)
            if size <= 0:
                return
            stream.unsent = unsent[size:]
            stream.send_window -= size
            self.send_window -= size
            self._write(frames.DATA, 0 if stream.unsent else frames.END_STREAM, stream_id, unsent[:size])

    def _write_bodies(self) -> None:
        for stream_id, stream in self.streams.items():
            self._write_body(stream_id, stream)

    # Receiving

    def step(self) -> None:
        """Handles some frames.

        Raises:
            ProtocolError: the server broke the protocol, or sends frame after frame that brings no response forward.
        """
        for kind, flags, stream_id, payload in self.reader.step():
            if self._expected not in (None, kind):
                raise ProtocolError(f"a frame of type {kind} where only type {self._expected} may come")
            if kind >= len(self._HANDLERS):
                continue  # RFC 9113, section 5.5
            try:
                self._HANDLERS[kind](self, flags, stream_id, payload)
            except StreamError as error:
                self.fail(stream_id, self._error(str(error)), reset=error.code)
            except LayoutError:
                text = f"a frame of type {kind} with {len(payload)} bytes"
                raise ProtocolError(text, ErrorCode.FRAME_SIZE_ERROR) from None

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received >= _RECEIVE_WINDOW // 2:
            self._write(frames.WINDOW_UPDATE, payload=frames.WORD.pack(self._received))
            self._received = 0
        if (stream := self._stream(stream_id)) is None:
            return
        stream.receive_window -= len(payload)
        if stream.receive_window < 0:
            raise ProtocolError("more DATA than a stream's window takes", ErrorCode.FLOW_CONTROL_ERROR)
        if flags & frames.PADDED:
            padded, payload = payload, frames.without_padding(payload)
            self._widen([(stream_id, len(padded) - len(payload))])
        self.reader.allow(len(payload))
        stream.ended = bool(flags & frames.END_STREAM)
        stream.response.add_body(payload)
        self._on_progress(stream_id, stream)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if flags & frames.PADDED:
            payload = frames.without_padding(payload)
        if flags & frames.PRIORITY_FIELDS:
            frames.PRIORITY_LAYOUT.unpack_from(payload)
            payload = payload[frames.PRIORITY_LAYOUT.size :]
        self._block = stream_id, flags, b""
        self._on_continuation(flags, stream_id, payload)

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        first_stream_id, first_flags, block = self._block
        block += payload
        if stream_id != first_stream_id:
            raise ProtocolError("CONTINUATION of no header block")
        if len(block) > MAX_HEADER_LIST_SIZE:
            raise ProtocolError("a header block that is too long", ErrorCode.ENHANCE_YOUR_CALM)
        if not flags & frames.END_HEADERS:
            self._expected, self._block = frames.CONTINUATION, (stream_id, first_flags, block)
            return
        self._expected, self._block = None, (0, 0, b"")
        fields = self._decoder.decode(block)  # also for a stream that has ended: the table has to follow
        if (stream := self._stream(stream_id)) is not None:
            stream.ended = bool(first_flags & frames.END_STREAM)
            stream.response.add_headers(fields, final=stream.ended)
            self._on_progress(stream_id, stream)

    def _on_progress(self, stream_id: int, stream: _Stream) -> None:
        """Completes the response, or widens the stream's window in time for one that is larger than usual."""
        response = stream.response
        if stream.ended:
            whole = response.build()
            self._end(stream_id, ErrorCode.NO_ERROR)
            self.responses += 1
            if not stream.future.done():
                stream.future.set_result(whole)
        elif response.content_length is not None and response.content_length > STREAM_WINDOW:
            self._widen(self._windows.reserve(stream_id, response.content_length - STREAM_WINDOW))
        elif response.content_length is None and response.size > STREAM_WINDOW // 2:
            self._widen(self._windows.reserve(stream_id, MAX_BODY_SIZE))

    def _on_priority(self, _flags: int, _stream_id: int, payload: bytes) -> None:
        frames.PRIORITY_LAYOUT.unpack(payload)

    def _on_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        (code,) = frames.WORD.unpack(payload)
        self._stream(stream_id)
        refused = code == ErrorCode.REFUSED_STREAM
        self.fail(stream_id, self._error(f"stream reset: {frames.error_name(code)}", never_processed=refused))

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        acknowledges, first = flags & frames.ACK, self._expected is not None
        if stream_id or (acknowledges and (payload or first)):
            raise ProtocolError("SETTINGS out of place")
        if acknowledges:
            return
        if first:
            self.max_streams, self._expected = _UNLIMITED, None
        for identifier, value in frames.SETTING_LAYOUT.iter_unpack(payload):
            self._set(identifier, value)
        self._write(frames.SETTINGS, frames.ACK)
        self._write_bodies()
        self.changed = True

    def _set(self, identifier: int, value: int) -> None:
        if identifier == frames.MAX_CONCURRENT_STREAMS:
            self.max_streams = value
        elif identifier == frames.INITIAL_WINDOW_SIZE:
            growth, self._initial_send_window = value - self._initial_send_window, value
            for stream in self.streams.values():
                stream.send_window += growth
            if max([value, *(stream.send_window for stream in self.streams.values())]) > LAST_STREAM_ID:
                raise ProtocolError(f"windows of {value} bytes", ErrorCode.FLOW_CONTROL_ERROR)
        elif identifier == frames.ENABLE_PUSH and value:
            raise ProtocolError("a server that enables push")
        elif identifier == frames.MAX_FRAME_SIZE_SETTING and not frames.MAX_FRAME_SIZE <= value < 1 << 24:
            raise ProtocolError(f"frames of {value} bytes at most")

    def _on_push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        raise ProtocolError("a push, though it is not enabled")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        frames.OPAQUE.unpack(payload)
        if stream_id:
            raise ProtocolError("PING on a stream")
        if not flags & frames.ACK:
            self._write(frames.PING, frames.ACK, payload=payload)
        elif payload == PING_DATA:
            self.acknowledged = True

    def _on_goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        last_stream_id, code = frames.TWO_WORDS.unpack_from(payload)
        if stream_id:
            raise ProtocolError("GOAWAY on a stream")
        self.goaway = "GOAWAY by the server" + (f": {frames.error_name(code)}" if code else "")
        for later in [open_id for open_id in self.streams if open_id > last_stream_id & LAST_STREAM_ID]:
            self.fail(later, self._error("GOAWAY by the server", never_processed=True))

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        size = frames.WORD.unpack(payload)[0] & LAST_STREAM_ID
        code = ErrorCode.FLOW_CONTROL_ERROR if size else ErrorCode.PROTOCOL_ERROR
        self.changed = True
        if not stream_id:
            self.send_window += size
            if not size or self.send_window > LAST_STREAM_ID:
                raise ProtocolError(f"a window of {self.send_window} bytes", code)
            self._write_bodies()
        elif (stream := self._stream(stream_id)) is not None:
            stream.send_window += size
            if not size or stream.send_window > LAST_STREAM_ID:
                raise StreamError(f"a window of {stream.send_window} bytes", code)
            self._write_body(stream_id, stream)

    _HANDLERS: Final = (
        *(_on_data, _on_headers, _on_priority, _on_rst_stream, _on_settings),
        *(_on_push_promise, _on_ping, _on_goaway, _on_window_update, _on_continuation),
    )
    """By the types of frames."""

    # Streams

    def fail(self, stream_id: int, error: TransportError, *, reset: ErrorCode | None = None) -> bool:
        """Ends a request in an error; False where it has ended."""
        if (stream := self._end(stream_id, reset)) is None:
            return False
        if not stream.future.done():
            stream.future.set_exception(error)
        return True

    def cancel(self, stream_id: int) -> bool:
        """Abandons a request; False where it has ended."""
        return self._end(stream_id, ErrorCode.CANCEL) is not None

    def _error(self, text: str, *, never_processed: bool = False) -> TransportError:
        return TransportError(f"{self._authority}: {text}", never_processed=never_processed)

    def _stream(self, stream_id: int) -> _Stream | None:
        """The stream, or None where it has ended: frames that were under way then are ignored.

        Raises:
            ProtocolError: no such stream was ever opened.
        """
        stream = self.streams.get(stream_id)
        if stream is None and (stream_id % 2 == 0 or stream_id >= self.next_stream_id):
            raise ProtocolError(f"a frame on stream {stream_id}, which was never opened")
        return stream

    def _end(self, stream_id: int, code: ErrorCode | None) -> _Stream | None:
        """Forgets a stream, and resets it with `code` unless both sides had ended it, or the code is None."""
        if (stream := self.streams.pop(stream_id, None)) is None:
            return None
        self.changed = True
        if code is not None and (stream.unsent or not stream.ended):
            self.reader.allow(_REQUEST_ALLOWANCE)  # the server may have sent much already
            self._write(frames.RST_STREAM, 0, stream_id, frames.WORD.pack(code))
        self._widen(self._windows.release(stream_id))
        return stream

    def _widen(self, grants: Iterable[tuple[int, int]]) -> None:
        for stream_id, size in grants:
            self.streams[stream_id].receive_window += size
            self._write(frames.WINDOW_UPDATE, 0, stream_id, frames.WORD.pack(size))
