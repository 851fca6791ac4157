"""One HTTP/2 connection: an `asyncio.Protocol` around a `Session`.

Everything that arrives is read by this one protocol and settles the future of its stream at once, so a slow response
holds up no other. Sending is a single synchronous step. The session reads and writes frames and keeps the streams; here
are the socket, the timers, the count of slots, and the care for a server that fails or means harm.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from rongcloud_groups._http import Request, Response
from rongcloud_groups._transport.http2.frames import ErrorCode, ProtocolError
from rongcloud_groups._transport.http2.session import LAST_STREAM_ID, PING_DATA, Session
from rongcloud_groups._transport.interface import SocketConnection
from rongcloud_groups.errors import TransportError

PING_AFTER: Final = 1.0
"""Seconds of silence, with requests open, until a PING asks whether the server is there."""
PING_TIMEOUT: Final = 1.0
"""Seconds from that PING until the connection counts as dead."""
SLOT_TIMEOUT: Final = 5.0
"""Seconds for which the server may let no request in before the connection retires."""
_CLOSED_BY_SERVER: Final = "closed by the server"
_MAX_UNWRITTEN: Final = 16 * 1024
_MIN_SEND_WINDOW: Final = 16 * 1024
"""Bytes of the connection's window that a request should find."""


class HTTP2Connection(SocketConnection):
    """A `Connection` that carries many requests at once.

    Args:
        host: the host, with the port where it isn't 443.
        on_change: see `Connector.connect`.
        max_in_flight: the most requests open at once, even if the server allows more.
        slot_timeout: see `SLOT_TIMEOUT`.
    """

    http_version = "HTTP/2"
    ping_after, ping_timeout = PING_AFTER, PING_TIMEOUT

    def __init__(
        self, host: str, on_change: Callable[[], None], *, max_in_flight: int, slot_timeout: float = SLOT_TIMEOUT
    ) -> None:
        super().__init__(host, on_change)
        self._max_in_flight = max_in_flight
        self.slot_timeout = slot_timeout
        self._settled = asyncio.Event()
        self._session = Session(host)
        self._heard_at = 0.0
        self._pinged = False
        self._silence_timer: asyncio.TimerHandle | None = None
        self._delivering: list[asyncio.Future[bool]] = []  # they wait for the ACK of a PING
        self._undelivered: list[asyncio.Future[bool]] = []  # and these for the next one
        self._writing_paused = False
        self._changed = self._closed_by_server = False
        self._next_step: asyncio.Handle | None = None
        self._slot_timer: asyncio.TimerHandle | None = None

    # For the dispatcher

    @property
    def open_slots(self) -> int:
        """See `Connection.open_slots`."""
        if self.closed_reason or self._blocked:
            return 0
        return max(0, min(self._session.max_streams, self._max_in_flight) - self.in_flight)

    @property
    def _blocked(self) -> bool:
        """Whether the server lets no request in, however few are open."""
        return self._writing_paused or not self._session.max_streams or self._session.send_window < _MIN_SEND_WINDOW

    async def wait_ready(self) -> None:
        """Waits for SETTINGS of the server that let a request in.

        Raises:
            TransportError: when the connection closes before they have come.
        """
        await self._settled.wait()
        if self.closed:
            raise TransportError(f"{self.host}: {self.closed_reason}", never_processed=True)

    def send(self, request: Request, timeout: float) -> asyncio.Future[Response]:
        """See `Connection.send`; cancelling the future resets the stream."""
        if not self.open_slots:
            return self._refused("no free stream")
        future: asyncio.Future[Response] = self._loop.create_future()
        if not self.in_flight:
            self._watch_silence()
        stream_id = self._session.send(request, future)
        self.sent += 1
        timer = self._loop.call_later(timeout, self._on_timeout, stream_id, timeout, self._session.responses)
        future.add_done_callback(partial(self._on_done, stream_id, timer))
        if stream_id >= LAST_STREAM_ID:
            self._retire("stream IDs used up")
        self._end_step()
        return future

    def delivered(self) -> asyncio.Future[bool]:
        """See `Connection.delivered`; one PING at a time is unanswered, however many ask."""
        future: asyncio.Future[bool] = self._loop.create_future()
        if self.closed:
            future.set_result(self._closed_by_server)
        else:
            self._undelivered.append(future)
            self._ask_delivery()
        return future

    def retire(self, reason: str) -> None:
        """See `Connection.retire`; it closes with a GOAWAY."""
        self._retire(reason)
        self._end_step()

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # A request that waits here has left by the limiter's count, but not by the server's.
        self._transport.set_write_buffer_limits(high=_MAX_UNWRITTEN)
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        self._session.reader.feed(data)
        if self._next_step is None:
            self._step()

    def eof_received(self) -> None:
        self._finish_reading()
        self._end(_CLOSED_BY_SERVER, ErrorCode.NO_ERROR)
        self._end_step()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish_reading()
        self._end(f"connection lost: {exc}" if exc else _CLOSED_BY_SERVER, None)
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
        self._on_heard()
        self._read_frames()
        if self._session.reader.unread and not self.closed:
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
        while self._session.reader.unread and not self.closed:
            self._read_frames()

    def _read_frames(self) -> None:
        try:
            self._session.step()
        except ProtocolError as error:
            self._end(f"HTTP/2 broken by the server: {error}", error.code)
        if self._session.goaway:
            self._retire(self._session.goaway)
        if self._session.max_streams:
            self._settled.set()
        if self._session.acknowledged:
            self._session.acknowledged = False
            _settle(self._delivering, outcome=True)
            self._ask_delivery()

    # Requests

    def _on_done(self, stream_id: int, timer: asyncio.TimerHandle, future: asyncio.Future[Response]) -> None:
        timer.cancel()
        if future.cancelled() and self._session.cancel(stream_id):
            self._end_step()

    def _on_timeout(self, stream_id: int, timeout: float, responses_before: int) -> None:
        error = TransportError(f"no response within {timeout:g} s from {self.host}")
        error.__cause__ = TimeoutError()
        if self._session.fail(stream_id, error, reset=ErrorCode.CANCEL):
            if responses_before == self._session.responses:  # to no request at all: another connection may do better
                self._retire(str(error))
            self._end_step()

    # PINGs

    def _on_heard(self) -> None:
        self._heard_at = self._loop.time()
        self._pinged = False

    def _watch_silence(self) -> None:
        """A request is open: from now on, silence counts. A timer that runs since an earlier one is kept."""
        self._on_heard()
        if self._silence_timer is None:
            self._silence_timer = self._loop.call_later(self.ping_after, self._on_silence)

    def _on_silence(self) -> None:
        """Sends a PING after some silence, and gives the connection up when that brings nothing either."""
        self._silence_timer = None
        if not self.in_flight:
            return
        due = self._heard_at + self.ping_after
        if self._loop.time() < due:
            self._silence_timer = self._loop.call_at(due, self._on_silence)
        elif not self._pinged:
            self._pinged = True
            self._silence_timer = self._loop.call_later(self.ping_timeout, self._on_silence)
            self._ping(bytes(8))
        else:
            self._end("nothing received, not even the ACK of a PING", None)
            self._transport.abort()
            self._end_step()

    def _ask_delivery(self) -> None:
        if self._undelivered and not self._delivering:
            self._delivering, self._undelivered = self._undelivered, []
            self._ping(PING_DATA)

    def _ping(self, data: bytes) -> None:
        self._session.ping(data)
        self._flush()

    # The end

    def _retire(self, reason: str) -> None:
        if not self.closed_reason:
            self.closed_reason = reason
            self._changed = True

    def _close(self, reason: str) -> None:
        self._end(reason, ErrorCode.NO_ERROR)
        self._end_step()

    def _end(self, reason: str, code: ErrorCode | None) -> None:
        """Ends everything at once; a GOAWAY with `code` is sent first, if it isn't None."""
        if self.closed:
            return
        self._retire(reason)
        self.closed = self._changed = True
        for stream_id in list(self._session.streams):
            self._session.fail(stream_id, TransportError(f"{self.host}: {reason}"))
        if self._silence_timer is not None:
            self._silence_timer.cancel()
        self._closed_by_server = reason == _CLOSED_BY_SERVER
        _settle(self._delivering + self._undelivered, outcome=self._closed_by_server)
        self._settled.set()
        self._resume_reading()
        if not self._transport.is_closing():
            if code is not None:
                self._session.close(code)
            self._flush()
            self._close_transport()

    def _watch_slots(self) -> None:
        """Runs a timer while the server lets no request in."""
        waiting = self._blocked and not self.closed_reason
        if waiting and self._slot_timer is None:
            self._slot_timer = self._loop.call_later(self.slot_timeout, self._on_no_slots)
        elif not waiting and self._slot_timer is not None:
            self._slot_timer.cancel()
            self._slot_timer = None

    def _on_no_slots(self) -> None:
        self._retire(f"the server let no request in for {self.slot_timeout:g} s")
        self._end_step()

    def _end_step(self) -> None:
        """Writes the step's frames, closes if it was the last one, and reports the change."""
        self.in_flight = len(self._session.streams)
        if self.closed_reason and not self.in_flight:
            self._end(self.closed_reason, ErrorCode.NO_ERROR)
        if not self.closed:
            self._flush()
        self._watch_slots()
        if self._changed or self._session.changed:
            self._changed = self._session.changed = False
            self._on_change()


def _settle(futures: list[asyncio.Future[bool]], *, outcome: bool) -> None:
    for future in futures:
        if not future.done():
            future.set_result(outcome)
    futures.clear()
