"""One connection's state without its socket: requests become frames, and frames become responses; RFC 9113."""

from itertools import starmap
from struct import error as LayoutError  # noqa: N812  the name of an exception
from typing import Final

from rongcloud_groups._http import Request
from rongcloud_groups._transport.http2 import frames
from rongcloud_groups._transport.http2.frames import LAST_STREAM_ID, ErrorCode, FrameReader, ProtocolError
from rongcloud_groups._transport.http2.headers import HeaderDecoder, HeaderEncoder
from rongcloud_groups._transport.response import MAX_BODY_SIZE, MAX_HEADER_LIST_SIZE, OnCancelled, PendingResponse
from rongcloud_groups.errors import TransportError

PING_DATA: Final = b"received"
STREAM_WINDOW: Final = 256 * 1024
"""Bytes of a response that every stream may receive at once."""
SHARED_WINDOW: Final = 32 * 1024 * 1024
"""Bytes beyond `STREAM_WINDOW` that the larger responses of a connection share; more than the largest one."""
_RECEIVE_WINDOW: Final = 16 * 1024 * 1024
_DEFAULT_WINDOW: Final = 65_535
_UNLIMITED: Final = 2**32
_REQUEST_ALLOWANCE: Final = 10_000
"""The most that the frames of one request and its response may cost beside its DATA; see `FrameReader`."""
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS: Final = {
    frames.ENABLE_PUSH: 0,
    frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
    frames.MAX_HEADER_LIST_SIZE_SETTING: MAX_HEADER_LIST_SIZE,
}


class Stream(PendingResponse):
    """The response to a request, and the flow control of both.

    Attributes:
        unsent: the rest of the request's body.
        send_window: how many bytes of it the server takes.
        receive_window: how many bytes of the response the server may send.
        shared: how many of these are beyond `STREAM_WINDOW`.
    """

    def __init__(self, request: Request, timeout: float, on_cancelled: OnCancelled) -> None:
        super().__init__(timeout, on_cancelled)
        self.stream_id = self.send_window = 0
        self.unsent = memoryview(request.body)
        self.receive_window = STREAM_WINDOW
        self.shared = 0

    @property
    def excess(self) -> int:
        """Bytes that the response may need beyond `STREAM_WINDOW`, as far as it is known."""
        if self.length is None:
            return MAX_BODY_SIZE if self.size > STREAM_WINDOW // 2 else 0
        return max(0, self.length - STREAM_WINDOW)


class Session:
    """Turns requests into bytes to send, and received bytes into their responses.

    Attributes:
        streams: the open ones by their IDs.
        unanswered_from: the streams from this ID on were opened after the last response.
        max_streams: how many the server allows at once; 0 until its SETTINGS have come.
        send_window: how many bytes of bodies the server takes on all streams together.
        goaway: why the server takes no more requests; empty while it does.
        acknowledged: whether a PING with `PING_DATA` was, since the owner took note.
        changed: whether there is something for the owner to report: a stream ended, or a limit changed.
    """

    def __init__(self, host: str) -> None:
        self.reader = FrameReader()
        self.streams: dict[int, Stream] = {}
        self.next_stream_id = self.unanswered_from = 1
        self.max_streams = 0
        self.send_window = self._initial_send_window = _DEFAULT_WINDOW
        self.goaway = ""
        self.acknowledged = self.changed = False
        self._host = host
        self._encoder = HeaderEncoder(host)
        self._decoder = HeaderDecoder()
        self._output: list[bytes | memoryview] = [_PREFACE]
        self._received = 0  # bytes of DATA since the connection's window was last widened
        self._shared_window = SHARED_WINDOW
        self._expected: int | None = frames.SETTINGS  # the only type of frame that may come now
        self._block = (0, 0, b"")  # stream ID, flags and bytes of a header block that is to be continued
        self.write(frames.SETTINGS, payload=b"".join(starmap(frames.SETTING_LAYOUT.pack, _SETTINGS.items())))
        self.write(frames.WINDOW_UPDATE, payload=frames.WORD.pack(_RECEIVE_WINDOW - _DEFAULT_WINDOW))

    # Sending

    def send(self, request: Request, stream: Stream) -> None:
        self.reader.allow(_REQUEST_ALLOWANCE)
        stream.stream_id = stream_id = self.next_stream_id
        stream.send_window = self._initial_send_window
        self.next_stream_id += 2
        self.streams[stream_id] = stream
        kind, flags = frames.HEADERS, 0 if request.body else frames.END_STREAM
        block = self._encoder.encode(request)
        while len(block) > frames.MAX_FRAME_SIZE:
            self.write(kind, flags, stream_id, block[: frames.MAX_FRAME_SIZE])
            kind, flags, block = frames.CONTINUATION, 0, block[frames.MAX_FRAME_SIZE :]
        self.write(kind, flags | frames.END_HEADERS, stream_id, block)
        self._write_body(stream)

    def data_to_send(self) -> bytes:
        """The bytes of all frames since the last call."""
        data = b"".join(self._output)
        self._output.clear()
        return data

    def write(self, kind: int, flags: int = 0, stream_id: int = 0, payload: bytes | memoryview = b"") -> None:
        size = len(payload)
        self._output += frames.HEADER_LAYOUT.pack(size >> 16, size & 0xFFFF, kind, flags, stream_id), payload

    def _write_body(self, stream: Stream) -> None:
        while unsent := stream.unsent:
            size = min(len(unsent), stream.send_window, self.send_window, frames.MAX_FRAME_SIZE)
            if size <= 0:
                return
            stream.unsent = unsent[size:]
            stream.send_window -= size
            self.send_window -= size
            self.write(frames.DATA, 0 if stream.unsent else frames.END_STREAM, stream.stream_id, unsent[:size])

    def _write_bodies(self) -> None:
        for stream in self.streams.values():
            self._write_body(stream)

    # Receiving

    def step(self) -> None:
        """Handles some of the frames that were read; raises a `ProtocolError` where no more can be."""
        for kind, flags, stream_id, payload in self.reader.step():
            if self._expected not in (None, kind):
                raise ProtocolError(f"a frame of type {kind} where only type {self._expected} may come")
            if kind >= len(self._HANDLERS):
                continue  # RFC 9113, section 5.5
            try:
                self._HANDLERS[kind](self, flags, stream_id, payload)
            except TransportError as error:
                self.fail(stream_id, str(error), reset=ErrorCode.PROTOCOL_ERROR)
            except LayoutError:
                text = f"a frame of type {kind} with {len(payload)} bytes"
                raise ProtocolError(text, ErrorCode.FRAME_SIZE_ERROR) from None

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received >= _RECEIVE_WINDOW // 2:
            self.write(frames.WINDOW_UPDATE, payload=frames.WORD.pack(self._received))
            self._received = 0
        if (stream := self._stream(stream_id)) is None:
            return
        stream.receive_window -= len(payload)
        if stream.receive_window < 0:
            raise ProtocolError("more DATA than a stream's window takes", ErrorCode.FLOW_CONTROL_ERROR)
        if flags & frames.PADDED:
            padded, payload = payload, frames.without_padding(payload)
            self._widen(stream, len(padded) - len(payload))
        self.reader.allow(len(payload))
        stream.add_body(payload, final=bool(flags & frames.END_STREAM))
        self._on_progress(stream)

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
            stream.add_headers(fields, final=bool(first_flags & frames.END_STREAM))
            self._on_progress(stream)

    def _on_progress(self, stream: Stream) -> None:
        """Completes the response, or widens the window in time for one that is larger than usual."""
        if stream.ended:
            response = stream.whole()
            self.end(stream, ErrorCode.NO_ERROR)
            self.unanswered_from = self.next_stream_id
            stream.set_result(response)
        elif stream.excess and not stream.shared:
            self._share_window()

    def _on_priority(self, _flags: int, _stream_id: int, payload: bytes) -> None:
        frames.PRIORITY_LAYOUT.unpack(payload)

    def _on_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        (code,) = frames.WORD.unpack(payload)
        self._stream(stream_id)
        text = f"stream reset: {frames.error_name(code)}"
        self.fail(stream_id, text, never_processed=code == ErrorCode.REFUSED_STREAM)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        first = self._expected is not None
        if stream_id or (flags & frames.ACK and (payload or first)):
            raise ProtocolError("SETTINGS out of place")
        if flags & frames.ACK:
            return
        if first:
            self.max_streams, self._expected = _UNLIMITED, None
        for identifier, value in frames.SETTING_LAYOUT.iter_unpack(payload):
            self._set(identifier, value)
        self.write(frames.SETTINGS, frames.ACK)
        self._write_bodies()
        self.changed = True

    def _set(self, identifier: int, value: int) -> None:
        if identifier == frames.MAX_STREAMS:
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
            self.write(frames.PING, frames.ACK, payload=payload)
        elif payload == PING_DATA:
            self.acknowledged = True

    def _on_goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        last_stream_id, code = frames.TWO_WORDS.unpack_from(payload)
        if stream_id:
            raise ProtocolError("GOAWAY on a stream")
        self.goaway = "GOAWAY by the server" + (f": {frames.error_name(code)}" if code else "")
        for later in [open_id for open_id in self.streams if open_id > last_stream_id & LAST_STREAM_ID]:
            self.fail(later, "GOAWAY by the server", never_processed=True)

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
                self.fail(stream_id, f"a window of {stream.send_window} bytes", reset=code)
            else:
                self._write_body(stream)

    _HANDLERS: Final = (
        *(_on_data, _on_headers, _on_priority, _on_rst_stream, _on_settings),
        *(_on_push_promise, _on_ping, _on_goaway, _on_window_update, _on_continuation),
    )
    """By the types of frames."""

    # Streams

    def fail(self, stream_id: int, text: str, *, reset: ErrorCode | None = None, never_processed: bool = False) -> None:
        if (stream := self.streams.get(stream_id)) is not None:
            self.end(stream, reset)
            stream.set_exception(TransportError(f"{self._host}: {text}", never_processed=never_processed))

    def end(self, stream: Stream, code: ErrorCode | None) -> None:
        """Forgets an open stream, and resets it unless both sides had ended it, or the code is None."""
        del self.streams[stream.stream_id]
        self.changed = True
        if code is not None and (stream.unsent or not stream.ended):
            self.reader.allow(_REQUEST_ALLOWANCE)  # the server may have sent much already
            self.write(frames.RST_STREAM, 0, stream.stream_id, frames.WORD.pack(code))
        if stream.excess:
            self._shared_window += stream.shared
            self._share_window()

    def _stream(self, stream_id: int) -> Stream | None:
        """The stream, or None where it has ended: frames that were under way then are ignored."""
        stream = self.streams.get(stream_id)
        if stream is None and (stream_id % 2 == 0 or stream_id >= self.next_stream_id):
            raise ProtocolError(f"a frame on stream {stream_id}, which was never opened")
        return stream

    def _share_window(self) -> None:
        """Widens the windows of large responses in turn, each by all that it may need: so it can always end."""
        for stream in self.streams.values():
            if stream.excess and not stream.shared:
                if stream.excess > self._shared_window:
                    return
                stream.shared = stream.excess
                self._shared_window -= stream.shared
                self._widen(stream, stream.shared)

    def _widen(self, stream: Stream, size: int) -> None:
        stream.receive_window += size
        self.write(frames.WINDOW_UPDATE, 0, stream.stream_id, frames.WORD.pack(size))
