"""HTTP/2 on the server's side, down to the frames that go wrong."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from rongcloud_groups.emulator.connection import LINGER, ServerConnection, pieces
from rongcloud_groups.emulator.requests import MAX_BODY_SIZE
from rongcloud_groups.emulator.responses import Response

if TYPE_CHECKING:
    from rongcloud_groups.emulator.server import Emulator

_WINDOW = 2**20


@dataclass(slots=True, eq=False)
class _Stream:
    id: int
    method: str
    target: str
    headers: dict[str, str]
    arrived: float
    body: bytearray = field(default_factory=bytearray)
    read: bool = False  # whether no more of the body is wanted
    refused: bool = False  # whether that is because it is too long
    unsent: bytes = b""
    whole: bool = False  # whether `unsent` is all that is left of the response


class Http2ServerConnection(ServerConnection):
    """One HTTP/2 connection."""

    http_version = "HTTP/2"

    def __init__(self, host: "Emulator") -> None:
        super().__init__(host)
        self._h2 = H2Connection(
            H2Configuration(
                client_side=False,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._streams: dict[int, _Stream] = {}
        self._highest_answered = 0
        self._last_stream_id: int | None = None

    @property
    def busy(self) -> bool:
        return bool(self._streams)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        settings = {SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW}
        if self.host.faults.streams is not None:
            settings[SettingCodes.MAX_CONCURRENT_STREAMS] = self.host.faults.streams
        self._h2.local_settings = Settings(client=False, initial_values=settings)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(16 * _WINDOW)
        self._flush()

    def receive(self, data: bytes, arrived: float) -> None:
        try:
            for event in self._h2.receive_data(data):
                self._take(event, arrived)
        except ProtocolError:
            self.host.record.counts.protocol_errors += 1
            self._flush()
            self.transport.close()
            return
        self._flush()
        self.rest()

    def shut_down(self) -> None:
        self._h2.close_connection()
        self._flush()
        self.transport.close()

    def _take(self, event: Event, arrived: float) -> None:
        match event:
            case RequestReceived():
                headers = {_text(name): _text(value) for name, value in event.headers}
                target = headers.get(":path", "")
                self._begin(_Stream(event.stream_id, headers.get(":method", ""), target, headers, arrived))
            case DataReceived():
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if (stream := self._streams.get(event.stream_id)) and not stream.read:
                    stream.body += event.data
                    if len(stream.body) > MAX_BODY_SIZE:
                        stream.read = stream.refused = True
                        self._serve(stream)
            case StreamEnded():
                if (stream := self._streams.get(event.stream_id)) and not stream.read:
                    stream.read = True
                    self._serve(stream)
            case StreamReset():
                self._streams.pop(event.stream_id, None)
                self._close_if_done()
            case WindowUpdated():
                self._pump_all(event.stream_id)
            case ConnectionTerminated():
                self._streams.clear()
                self.transport.close()

    def _begin(self, stream: _Stream) -> None:
        nth = self.count(stream.target, stream.arrived)
        if self._last_stream_id is not None:
            self.host.record.counts.never_processed += 1
            return
        self._streams[stream.id] = stream
        faults = self.host.faults
        if faults.streams_drop is not None and faults.streams_drop.at == nth:
            self._h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: faults.streams_drop.to})
            faults.played["streams-drop"] += 1
        if faults.goaway is not None and faults.goaway.at == nth:
            faults.played[faults.goaway.kind] += 1
            self._go_away(faults.goaway.kind)

    def _serve(self, stream: _Stream) -> None:
        response = self.host.respond(stream.method, stream.target, stream.headers, bytes(stream.body), stream.arrived)
        if response.fault in ("goaway", "goaway-lower", "goaway-close"):
            self._go_away(response.fault)
        self.after(response.delay, lambda: self._respond(stream, response))

    def _respond(self, stream: _Stream, response: Response) -> None:
        if stream.id not in self._streams:
            return
        match response.fault:
            case "hang":
                return
            case "rst":
                self._reset(stream, ErrorCodes.INTERNAL_ERROR)
            case "refuse":
                self._reset(stream, ErrorCodes.REFUSED_STREAM)
            case "drop":
                self._send(stream, response, response.body[: len(response.body) // 2], whole=False)
                self._flush()
                self.transport.close()
            case "cut":
                self._send(stream, response, response.body[: len(response.body) // 2], whole=True)
            case "slow-body":
                self._send(stream, response, b"", whole=False)
                self._send_slowly(stream, pieces(response.body))
            case _:
                self._send(stream, response, response.body, whole=True)
        self._flush()

    def _send(self, stream: _Stream, response: Response, body: bytes, *, whole: bool) -> None:
        headers = [(":status", str(response.status)), ("content-length", str(len(response.body))), *response.headers]
        self._h2.send_headers(stream.id, headers)
        self._highest_answered = max(self._highest_answered, stream.id)
        stream.unsent = body
        stream.whole = whole
        self._pump(stream)

    def _send_slowly(self, stream: _Stream, left: list[bytes]) -> None:
        if stream.id not in self._streams:
            return
        stream.unsent += left[0]
        stream.whole = len(left) == 1
        self._pump(stream)
        self._flush()
        if not stream.whole:
            self.after(self.host.faults.piece_pause, lambda: self._send_slowly(stream, left[1:]))

    def _pump(self, stream: _Stream) -> None:
        while stream.unsent or stream.whole:
            room = min(self._h2.local_flow_control_window(stream.id), self._h2.max_outbound_frame_size)
            if stream.unsent and room <= 0:
                return
            piece, stream.unsent = stream.unsent[:room], stream.unsent[room:]
            ended = stream.whole and not stream.unsent
            self._h2.send_data(stream.id, piece, end_stream=ended)
            if ended:
                if stream.refused:
                    with suppress(ProtocolError):  # the client may have ended it
                        self._h2.reset_stream(stream.id, ErrorCodes.NO_ERROR)
                self._forget(stream)
                return

    def _pump_all(self, stream_id: int) -> None:
        for stream in list(self._streams.values()):
            if stream_id in (0, stream.id):
                self._pump(stream)

    def _reset(self, stream: _Stream, code: ErrorCodes) -> None:
        self._h2.reset_stream(stream.id, code)
        self._forget(stream)

    def _forget(self, stream: _Stream) -> None:
        del self._streams[stream.id]
        self._close_if_done()

    def _go_away(self, kind: str) -> None:
        if self._last_stream_id is not None:
            return
        last = max(self._streams)
        if kind == "goaway-lower":
            last = self._leave_out_newest()
        self._last_stream_id = last
        self._flush()
        # h2 would end its own connection with the frame; here the streams below it continue.
        self.transport.write(GoAwayFrame(last_stream_id=last, error_code=ErrorCodes.NO_ERROR).serialize())
        if kind == "goaway-close":
            self._streams.clear()
            self.transport.close()
        self._close_if_done()

    def _leave_out_newest(self) -> int:
        """Forget the newer half of the streams that may still count as never processed; return the last ID kept."""
        open_ids = sorted(stream_id for stream_id in self._streams if stream_id > self._highest_answered)
        kept = len(open_ids) // 2
        for stream_id in open_ids[kept:]:
            del self._streams[stream_id]
            self.host.record.counts.never_processed += 1
        return open_ids[kept - 1] if kept else self._highest_answered

    def _close_if_done(self) -> None:
        if self._last_stream_id is not None and not self._streams:
            self.after(LINGER, self.transport.close)

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and not self.host.faults.black_hole:
            self.transport.write(data)


def _text(given: bytes | str) -> str:
    """A header field's name or value, which may hold any bytes."""
    return given if isinstance(given, str) else given.decode("latin-1")
