"""HTTP/2 on the server's side, down to the frames that go wrong."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from rongcloud_groups.emulator.connection import LINGER, Exchange, ServerConnection
from rongcloud_groups.emulator.responses import Response

_WINDOW = 2**20
_CONFIGURATION = H2Configuration(
    client_side=False, header_encoding="latin-1", validate_outbound_headers=False, normalize_outbound_headers=False
)


class Http2ServerConnection(ServerConnection):
    """One HTTP/2 connection; an exchange's ID is that of its stream."""

    http_version = "HTTP/2"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._highest_answered = 0
        settings = {SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW}
        if self.host.faults.streams is not None:
            settings[SettingCodes.MAX_CONCURRENT_STREAMS] = self.host.faults.streams
        self._h2 = H2Connection(_CONFIGURATION)
        self._h2.local_settings = Settings(client=False, initial_values=settings)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(16 * _WINDOW)
        self.flush()

    def receive(self, data: bytes) -> None:
        try:
            for event in self._h2.receive_data(data):
                self._take(event)
            self.flush()
        except ProtocolError:
            self.violated()

    def _take(self, event: events.Event) -> None:
        match event:
            case events.RequestReceived():
                headers = {str(name): str(value) for name, value in event.headers}
                self.begin(event.stream_id, headers.get(":method", ""), headers.get(":path", ""), headers)
            case events.DataReceived():
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self.take_body(event.stream_id, event.data)
            case events.StreamEnded():
                self.take_body(event.stream_id, ended=True)
            case events.StreamReset():
                self.exchanges.pop(event.stream_id, None)
            case events.WindowUpdated():
                for exchange in list(self.exchanges.values()):
                    if event.stream_id in (0, exchange.id):
                        self.pump(exchange)
            case events.ConnectionTerminated():
                self.exchanges.clear()
                self.close()

    def begin(self, exchange_id: int, method: str, target: str, headers: Mapping[str, str]) -> None:
        super().begin(exchange_id, method, target, headers)
        drop = self.host.faults.streams_drop
        if drop is not None and drop.at == self.nth:
            self._h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: drop.to})
            self.host.faults.played["streams-drop"] += 1

    def send_head(self, exchange: Exchange, response: Response) -> None:
        headers = [(":status", str(response.status)), ("content-length", str(len(response.body))), *response.headers]
        self._h2.send_headers(exchange.id, headers)
        self._highest_answered = max(self._highest_answered, exchange.id)

    def pump(self, exchange: Exchange) -> None:
        while exchange.unsent or exchange.whole:
            room = min(self._h2.local_flow_control_window(exchange.id), self._h2.max_outbound_frame_size)
            if exchange.unsent and room <= 0:
                return
            piece, exchange.unsent = exchange.unsent[:room], exchange.unsent[room:]
            ended = exchange.whole and not exchange.unsent
            self._h2.send_data(exchange.id, piece, end_stream=ended)
            if ended:
                if exchange.refused:
                    with suppress(ProtocolError):  # the client may have ended it
                        self._h2.reset_stream(exchange.id, ErrorCodes.NO_ERROR)
                del self.exchanges[exchange.id]
                return

    def reset(self, exchange: Exchange, fault: str) -> None:
        code = ErrorCodes.INTERNAL_ERROR if fault == "rst" else ErrorCodes.REFUSED_STREAM
        self._h2.reset_stream(exchange.id, code)
        del self.exchanges[exchange.id]

    def go_away(self, kind: str) -> None:
        if self.leaving:
            return
        self.leaving = True
        last = self._leave_out_newest() if kind == "goaway-lower" else max(self.exchanges)
        self.flush()
        # h2 would end its own connection with the frame; here the streams below it continue.
        self.write(GoAwayFrame(last_stream_id=last, error_code=ErrorCodes.NO_ERROR).serialize())
        if kind == "goaway-close":
            self.exchanges.clear()
            self.close()

    def _leave_out_newest(self) -> int:
        """Forget the newer half of the streams that may still count as never processed; return the last ID kept."""
        open_ids = sorted(stream_id for stream_id in self.exchanges if stream_id > self._highest_answered)
        kept = len(open_ids) // 2
        for stream_id in open_ids[kept:]:
            del self.exchanges[stream_id]
            self.host.counts.never_processed += 1
        return open_ids[kept - 1] if kept else self._highest_answered

    def flush(self) -> None:
        self.write(self._h2.data_to_send())
        if self.leaving and not self.exchanges:
            self.after(LINGER, self.close)

    def shut_down(self) -> None:
        self._h2.close_connection()
        self.flush()
        self.close()
