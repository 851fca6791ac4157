"""One connection's state without its socket: `h2`, and the limits that it lacks against a hostile server.

`h2` parses and keeps the state of streams; around it are the flow control, the steps, and the care for streams that
the server has closed in frames that were not handled yet.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RemoteSettingsChanged, WindowUpdated
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from rongcloud_groups._http import Request
from rongcloud_groups._transport.http2.frames import FrameReader
from rongcloud_groups._transport.http2.headers import HeaderBuilder, HeaderEncoder
from rongcloud_groups._transport.http2.response import MAX_BODY_SIZE, MAX_HEADER_LIST_SIZE, HeaderDecoder
from rongcloud_groups._transport.http2.windows import STREAM_WINDOW, StreamWindows

LAST_STREAM_ID: Final = 2**31 - 1
_RECEIVE_WINDOW: Final = 16 * 1024 * 1024
_DEFAULT_WINDOW: Final = 65_535
_MIN_SEND_WINDOW: Final = 16 * 1024
_REQUEST_ALLOWANCE: Final = 10_000
"""The most that the frames of one request and its response may cost beside its DATA; see `FrameReader`."""


class Session:
    """Turns requests into bytes, and bytes into events.

    Args:
        authority: the host, with the port where it isn't 443.
    """

    def __init__(self, authority: str) -> None:
        # The outbound fields are our own. Inbound ones are checked by `ResponseBuilder`, for their stream alone.
        self._h2 = H2Connection(
            H2Configuration(
                header_encoding=None,
                normalize_outbound_headers=False,
                validate_outbound_headers=False,
                validate_inbound_headers=False,
            )
        )
        self._h2.encoder = HeaderEncoder()  # type: ignore[assignment]  # it has all that h2 uses of one
        self._h2.decoder = HeaderDecoder()
        self._headers = HeaderBuilder(authority)
        self._frames = FrameReader()
        self._windows = StreamWindows(self._widen)
        self._unsent: dict[int, memoryview] = {}
        self._received = 0  # bytes of DATA since the connection's window was last widened

    @property
    def max_streams(self) -> int:
        """How many requests the server allows at once."""
        return self._h2.remote_settings.max_concurrent_streams

    @property
    def sendable(self) -> bool:
        """Whether the connection's window has room for a request."""
        return self._h2.outbound_flow_control_window >= _MIN_SEND_WINDOW

    @property
    def unread(self) -> bool:
        """Whether the last step left whole frames for another one."""
        return self._frames.unread

    def start(self) -> None:
        """Begins with the preface and our SETTINGS."""
        self._h2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_SIZE,
            },
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_RECEIVE_WINDOW - _DEFAULT_WINDOW)

    # Sending

    def next_stream_id(self) -> int:
        """The ID for the next request."""
        return self._h2.get_next_available_stream_id()

    def send(self, stream_id: int, request: Request) -> None:
        """Sends a request, as much of its body as the server's windows take.

        Raises:
            h2.exceptions.ProtocolError: there is no such stream to send on.
        """
        self._frames.allow(_REQUEST_ALLOWANCE)
        self._unsent[stream_id] = memoryview(request.body)
        self._h2.send_headers(stream_id, self._headers.build(request), end_stream=not request.body)
        self._send_body(stream_id)

    def ping(self, data: bytes) -> None:
        """Sends a PING."""
        self._h2.ping(data)

    def close(self, code: ErrorCodes) -> None:
        """Sends a GOAWAY."""
        self._h2.close_connection(code)

    def data_to_send(self) -> bytes:
        """The bytes for the socket since the last call."""
        return self._h2.data_to_send()

    def _send_body(self, stream_id: int) -> None:
        while unsent := self._unsent[stream_id]:
            window = self._h2.local_flow_control_window(stream_id)
            size = min(len(unsent), window, self._h2.max_outbound_frame_size)
            if size <= 0:
                return
            self._unsent[stream_id] = unsent[size:]
            self._h2.send_data(stream_id, unsent[:size], end_stream=size == len(unsent))

    # Receiving

    def feed(self, data: bytes) -> None:
        """Takes bytes that were read."""
        self._frames.feed(data)

    def step(self) -> Iterator[Event | GoAwayFrame]:
        """Handles some frames, and yields their events.

        Raises:
            FloodError: the server sends frame after frame that brings no response forward.
            Exception: `h2` and its parts raise much on hostile bytes.
        """
        for piece in self._frames.step():
            if not isinstance(piece, bytes):
                yield piece
                continue
            for event in self._h2.receive_data(piece):
                if isinstance(event, DataReceived):
                    self._on_data(event)
                elif isinstance(event, WindowUpdated | RemoteSettingsChanged):
                    for stream_id in [stream_id for stream_id, unsent in self._unsent.items() if unsent]:
                        self._send_body(stream_id)
                yield event

    def _on_data(self, event: DataReceived) -> None:
        self._received += event.flow_controlled_length
        if self._received >= _RECEIVE_WINDOW // 2:
            self._h2.increment_flow_control_window(self._received)
            self._received = 0
        if event.stream_id in self._unsent:
            self._frames.allow(len(event.data))
            if padding := event.flow_controlled_length - len(event.data):
                self._widen(event.stream_id, padding)

    # Streams

    def expect(self, stream_id: int, content_length: int | None, size: int) -> None:
        """Widens a stream's window in time for a response that is larger than usual.

        Args:
            stream_id: the stream.
            content_length: bytes of the whole body, or None.
            size: bytes of it that have come.
        """
        if content_length is not None and content_length > STREAM_WINDOW:
            self._windows.reserve(stream_id, content_length - STREAM_WINDOW)
        elif content_length is None and size > STREAM_WINDOW // 2:
            self._windows.reserve(stream_id, MAX_BODY_SIZE)

    def end(self, stream_id: int, code: ErrorCodes | None) -> None:
        """Forgets a stream; with a `code`, the server has to stop sending on it, and may have sent much already."""
        self._windows.release(stream_id)
        if self._unsent.pop(stream_id, b""):
            code = ErrorCodes.NO_ERROR if code is None else code
        if code is not None:
            self._frames.allow(_REQUEST_ALLOWANCE)
            with suppress(ProtocolError):
                self._h2.reset_stream(stream_id, code)

    def _widen(self, stream_id: int, size: int) -> None:
        with suppress(ProtocolError, KeyError):
            self._h2.increment_flow_control_window(size, stream_id)
