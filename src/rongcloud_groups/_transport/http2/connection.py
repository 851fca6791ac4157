"""One HTTP/2 connection: an `asyncio.Protocol` around a `Session`.

Everything that arrives settles the future of its stream at once, so a slow response holds up no other. Sending is a
single synchronous step. Here are the socket, the timer, the count of slots, and the care for a server that fails.
"""

import asyncio
from math import inf
from typing import Final

from rongcloud_groups._http import Request, Response
from rongcloud_groups._transport.http2.frames import GOAWAY, LAST_STREAM_ID, PING, TWO_WORDS, ErrorCode, ProtocolError
from rongcloud_groups._transport.http2.session import PING_DATA, Session, Stream
from rongcloud_groups._transport.interface import CLOSED_BY_SERVER, OnChange, SocketConnection
from rongcloud_groups.errors import TransportError

_MAX_UNWRITTEN: Final = 16 * 1024
_MIN_SEND_WINDOW: Final = 16 * 1024
"""Bytes of the connection's window that a request should find."""


class HTTP2Connection(SocketConnection):
    """A `Connection` that carries many requests at once.

    Args:
        max_in_flight: the most requests open at once, even if the server allows more.
        slot_timeout: seconds for which the server may let no request in before the connection retires.
    """

    http_version = "HTTP/2"
    open_slots = 0
    ping_after = 1.0
    """Seconds of silence, with requests open, until a PING asks whether the server is there."""
    ping_timeout = 1.0
    """Seconds from that PING until the connection counts as dead."""

    def __init__(self, host: str, on_change: OnChange, *, max_in_flight: int, slot_timeout: float = 5.0) -> None:
        super().__init__(host, on_change)
        self._max_in_flight = max_in_flight
        self.slot_timeout = slot_timeout
        self._settled = asyncio.Event()
        self._session = Session(host)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = inf  # uvloop's handle of a timer that is due at once does not know it
        self._silent_from = 0.0  # when the silence is too long
        self._blocked_timer: asyncio.TimerHandle | None = None  # runs while the server lets no request in
        self._delivering: list[asyncio.Future[bool]] = []  # they wait for the ACK of a PING
        self._undelivered: list[asyncio.Future[bool]] = []  # and these for the next one
        self._pinged = self._reading_paused = self._writing_paused = False
        self._closed_by_server = False

    async def wait_ready(self) -> None:
        await self._settled.wait()
        if self.closed:
            raise TransportError(f"{self.host}: {self.closed_reason}", never_processed=True)

    def send(self, request: Request, timeout: float) -> asyncio.Future[Response]:
        if not self.open_slots:
            return self._refused("no free stream")
        if not self.in_flight:
            self._on_heard()  # from now on, silence counts
        stream = Stream(request, timeout, self._on_cancelled)
        self._session.send(request, stream)
        self._wake_at(min(stream.deadline, self._silent_from))
        self.sent += 1
        if stream.stream_id >= LAST_STREAM_ID:
            self._retire("stream IDs used up")
        self._end_step()
        return stream

    def delivered(self) -> asyncio.Future[bool]:
        """Asks by a PING; one at a time is unanswered, however many callers wait."""
        future: asyncio.Future[bool] = self._loop.create_future()
        if self.closed:
            future.set_result(self._closed_by_server)
        else:
            self._undelivered.append(future)
            self._ask_delivery()
        return future

    def retire(self, reason: str) -> None:
        self._retire(reason)
        self._end_step()

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # A request that waits here has left by the limiter's count, but not by the server's.
        self._transport.set_write_buffer_limits(high=_MAX_UNWRITTEN)
        self._flush()

    def data_received(self, data: bytes) -> None:
        if not self.closed:
            self._session.reader.feed(data)
            if not self._reading_paused:
                self._step()

    def eof_received(self) -> None:
        self._finish_reading()
        self._close(CLOSED_BY_SERVER)

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish_reading()
        super().connection_lost(exc)
        self._reading_paused = False

    def pause_writing(self) -> None:
        self._writing_paused = True
        self._end_step()

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._session.changed = True
        self._end_step()

    # Receiving

    def _step(self) -> None:
        """Handles some frames; the rest follows after everything else that the event loop has to do."""
        if not self.closed:
            self._on_heard()
            self._read_frames()
        unread = self._session.reader.unread and not self.closed
        if unread:
            self._loop.call_soon(self._step)
        if unread != self._reading_paused:
            self._reading_paused = unread
            (self._transport.pause_reading if unread else self._transport.resume_reading)()
        self._end_step()

    def _finish_reading(self) -> None:
        """Handles the frames that came before the end: there may be whole responses in them."""
        while self._session.reader.unread and not self.closed:
            self._read_frames()

    def _read_frames(self) -> None:
        try:
            self._session.step()
        except ProtocolError as error:
            self._close(f"HTTP/2 broken by the server: {error}", error.code)
        if self._session.goaway:
            self._retire(self._session.goaway)
        if self._session.max_streams:
            self._settled.set()
        if self._session.acknowledged:
            self._session.acknowledged = False
            _settle(self._delivering, outcome=True)
            self._ask_delivery()

    # Time

    def _wake_at(self, due: float) -> None:
        """Look at the deadlines then, or before: one timer serves them all, and most requests set none."""
        if due < self._timer_due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._timer_due = self._loop.call_at(due, self._on_timer), due

    def _on_timer(self) -> None:
        self._timer, self._timer_due = None, inf
        now = self._loop.time()
        for stream in list(self._session.streams.values()):
            if stream.deadline <= now:
                self._time_out(stream)
            else:
                self._wake_at(stream.deadline)
        if self._session.streams:
            self._watch_silence(now)
        self._end_step()

    def _time_out(self, stream: Stream) -> None:
        error = self._timed_out(stream.timeout)
        self._session.end(stream, ErrorCode.CANCEL)
        stream.set_exception(error)
        if stream.stream_id >= self._session.unanswered_from:  # no request had one: another connection may do better
            self._retire(str(error))

    def _on_heard(self) -> None:
        self._silent_from = self._loop.time() + self.ping_after
        self._pinged = False

    def _watch_silence(self, now: float) -> None:
        """Sends a PING after some silence, and gives the connection up when that brings nothing either."""
        if self._silent_from <= now:
            if self._pinged:
                self._close("nothing received, not even the ACK of a PING")
                self._transport.abort()
                return
            self._pinged = True
            self._silent_from = now + self.ping_timeout
            self._session.write(PING, payload=bytes(8))
        self._wake_at(self._silent_from)

    def _ask_delivery(self) -> None:
        if self._undelivered and not self._delivering:
            self._delivering, self._undelivered = self._undelivered, []
            self._session.write(PING, payload=PING_DATA)
            self._flush()

    # The end

    def _on_cancelled(self, stream: Stream) -> None:
        self._session.end(stream, ErrorCode.CANCEL)
        self._end_step()

    def _retire(self, reason: str) -> None:
        if not self.closed_reason:
            self.closed_reason = reason
            self._session.changed = True

    def _close(self, reason: str, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Ends everything at once, with a GOAWAY."""
        if self.closed:
            return
        self._retire(reason)
        self.closed = self._session.changed = True
        for stream_id in list(self._session.streams):
            self._session.fail(stream_id, reason)
        if self._timer is not None:
            self._timer.cancel()
        self._closed_by_server = reason == CLOSED_BY_SERVER
        _settle(self._delivering + self._undelivered, outcome=self._closed_by_server)
        self._settled.set()
        if not self._transport.is_closing():
            self._session.write(GOAWAY, payload=TWO_WORDS.pack(0, code))
            self._flush()
            self._transport.close()
        self._end_step()

    def _flush(self) -> None:
        if data := self._session.data_to_send():
            self._transport.write(data)

    def _end_step(self) -> None:
        """Writes the step's frames, closes if it was the last one, counts the slots and reports the change."""
        session = self._session
        self.in_flight = len(session.streams)
        if self.closed_reason and not self.in_flight:
            self._close(self.closed_reason)
        if not self.closed:
            self._flush()
        blocked = self._writing_paused or not session.max_streams or session.send_window < _MIN_SEND_WINDOW
        limit = 0 if self.closed_reason or blocked else min(session.max_streams, self._max_in_flight)
        self.open_slots = max(0, limit - self.in_flight)
        if blocked and not self.closed_reason and self._blocked_timer is None:
            text = f"the server let no request in for {self.slot_timeout:g} s"
            self._blocked_timer = self._loop.call_later(self.slot_timeout, self.retire, text)
        elif self._blocked_timer is not None and (self.closed_reason or not blocked):
            self._blocked_timer.cancel()
            self._blocked_timer = None
        if session.changed:
            session.changed = False
            self._on_change()


def _settle(futures: list[asyncio.Future[bool]], *, outcome: bool) -> None:
    for future in futures:
        if not future.done():
            future.set_result(outcome)
    futures.clear()
