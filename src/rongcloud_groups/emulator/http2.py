"""HTTP/2 on the server's side, down to the frames that go wrong."""

from contextlib import suppress
from typing import TYPE_CHECKING

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from rongcloud_groups.emulator.requests import Exchange
from rongcloud_groups.emulator.responses import Response

if TYPE_CHECKING:
    from rongcloud_groups.emulator.connection import ServerConnection

_WINDOW = 2**20
_CONFIGURATION = H2Configuration(
    client_side=False, header_encoding="latin-1", validate_outbound_headers=False, normalize_outbound_headers=False
)


class Http2Protocol:
    """Speaks HTTP/2 on a connection; an exchange's ID is that of its stream."""

    version = "HTTP/2"

    def __init__(self, connection: "ServerConnection") -> None:
        self.connection = connection
        self._host = connection.host
        self._highest_answered = 0
        settings = {SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW}
        if self._host.faults.streams is not None:
            settings[SettingCodes.MAX_CONCURRENT_STREAMS] = self._host.faults.streams
        self._h2 = H2Connection(_CONFIGURATION)
        self._h2.local_settings = Settings(client=False, initial_values=settings)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(16 * _WINDOW)
        self.data_to_send = self._h2.data_to_send

    def receive(self, data: bytes) -> None:
        try:
            for event in self._h2.receive_data(data):
                self._take(event)
            self.connection.flush()
        except ProtocolError:
            self.connection.violated()

    def _take(self, event: events.Event) -> None:
        match event:
            case events.RequestReceived():
                headers = {str(name): str(value) for name, value in event.headers}
                self.connection.begin(event.stream_id, headers.get(":method", ""), headers.get(":path", ""), headers)
                drop = self._host.faults.streams_drop
                if drop is not None and drop.at == self.connection.nth:
                    self._h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: drop.to})
                    self._host.faults.played["streams-drop"] += 1
            case events.DataReceived():
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self.connection.take_body(event.stream_id, event.data)
            case events.StreamEnded():
                self.connection.take_body(event.stream_id, ended=True)
            case events.StreamReset():
                self.connection.exchanges.pop(event.stream_id, None)
            case events.WindowUpdated():
                for exchange in list(self.connection.exchanges.values()):
                    self.pump(exchange)
            case events.ConnectionTerminated():
                self.connection.close()

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
                del self.connection.exchanges[exchange.id]
                return

    def reset(self, exchange: Exchange, fault: str) -> None:
        code = ErrorCodes.INTERNAL_ERROR if fault == "rst" else ErrorCodes.REFUSED_STREAM
        self._h2.reset_stream(exchange.id, code)
        del self.connection.exchanges[exchange.id]

    def go_away(self, kind: str) -> None:
        exchanges = self.connection.exchanges
        last = max(exchanges)
        if kind == "goaway-lower":  # forget the newer half of the streams that may still count as never processed
            open_ids = sorted(stream_id for stream_id in exchanges if stream_id > self._highest_answered)
            kept = len(open_ids) // 2
            last = open_ids[kept - 1] if kept else self._highest_answered
            for stream_id in open_ids[kept:]:
                del exchanges[stream_id]
                self._host.counts.never_processed += 1
        self.connection.flush()
        # h2 would end its own connection with the frame; here the streams below it continue.
        frame = GoAwayFrame(last_stream_id=last, error_code=ErrorCodes.NO_ERROR)
        self.connection.transport.write(frame.serialize())

    def shut_down(self) -> None:
        self._h2.close_connection()
        self.connection.close()
