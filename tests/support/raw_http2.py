"""An HTTP/2 client that shows every frame, and keeps working after a GOAWAY."""

import asyncio
import contextlib
import json
from collections import defaultdict
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes
from hpack import Decoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from support.service_requests import V1_BATCH, form, signed

from rongcloud_groups.emulator import Emulator

FrameT = TypeVar("FrameT", bound=Frame)


class RawResponse:
    """What came on one stream."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = b""
        self.pieces = 0
        self.ended = False
        self.reset: int | None = None

    @property
    def profiles(self) -> list[dict[str, Any]]:
        found = json.loads(self.body)["profiles"]
        assert isinstance(found, list)
        return found


class RawHttp2:
    """One connection to an emulator; `window` is the room that it gives each stream, in bytes."""

    def __init__(self, emulator: Emulator, window: int = 2**24) -> None:
        self._emulator = emulator
        self._window = window
        self._h2 = H2Connection(H2Configuration(header_encoding="utf-8"))
        self._decoder = Decoder()
        self.responses: defaultdict[int, RawResponse] = defaultdict(RawResponse)
        self.settings: list[dict[int, int]] = []
        self.goaway: GoAwayFrame | None = None

    async def __aenter__(self) -> Self:
        context = self._emulator.ssl_context
        context.set_alpn_protocols(["h2"])
        host, port = self._emulator.url.removeprefix("https://").split(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port), ssl=context)
        self._h2.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = self._window
        self._h2.local_settings.acknowledge()
        self._h2.initiate_connection()
        self.flush()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def stop_reading(self) -> None:
        cast("asyncio.Transport", self._writer.transport).pause_reading()

    def ask(self, *group_ids: str, end: bool = True) -> int:
        """Prepare a request; return its stream ID."""
        stream_id = self._h2.get_next_available_stream_id()
        headers = [(":method", "POST"), (":scheme", "https"), (":authority", "x"), (":path", V1_BATCH)]
        self._h2.send_headers(stream_id, [*headers, *signed().items()])
        if end:
            self._h2.send_data(stream_id, form(group_ids), end_stream=True)
        return stream_id

    def cancel(self, stream_id: int) -> None:
        self._h2.reset_stream(stream_id)

    def flush(self) -> None:
        self._writer.write(self._h2.data_to_send())

    def write(self, frame: Frame | bytes) -> None:
        self._writer.write(frame if isinstance(frame, bytes) else frame.serialize())

    def widen(self, stream_id: int, by: int) -> None:
        self.write(WindowUpdateFrame(stream_id, window_increment=by))

    async def read(self) -> Frame:
        """Read one frame and note what it says; IncompleteReadError at the end of the connection."""
        head = memoryview(await self._reader.readexactly(9))
        frame, length = Frame.parse_frame_header(head)
        frame.parse_body(memoryview(await self._reader.readexactly(length)))
        self._note(frame)
        return frame

    async def read_until(self, kind: type[FrameT]) -> FrameT:
        while True:
            frame = await self.read()
            if isinstance(frame, kind):
                return frame

    async def response(self, stream_id: int) -> RawResponse:
        """Read until the stream has ended one way or the other."""
        response = self.responses[stream_id]
        while not response.ended and response.reset is None:
            await self.read()
        return response

    async def end(self) -> None:
        """Read until the connection ends."""
        try:
            while True:
                await self.read()
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return

    def _note(self, frame: Frame) -> None:
        response = self.responses[frame.stream_id]
        match frame:
            case HeadersFrame():
                response.headers = {str(name): str(value) for name, value in self._decoder.decode(frame.data)}
            case DataFrame():
                response.body += frame.data
                response.pieces += 1
            case RstStreamFrame():
                response.reset = frame.error_code
            case GoAwayFrame():
                self.goaway = frame
            case SettingsFrame() if "ACK" not in frame.flags:
                self.settings.append(dict(frame.settings))
                self.write(SettingsFrame(flags=["ACK"]))
        response.ended = response.ended or "END_STREAM" in frame.flags
