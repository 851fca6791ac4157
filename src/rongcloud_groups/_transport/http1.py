"""One HTTP/1.1 connection: `httpcore.AsyncHTTP11Connection` over a stream that is connected already."""

import asyncio
from collections.abc import Callable
from typing import Final

import httpcore

from rongcloud_groups._http import Origin, Request, Response
from rongcloud_groups._transport.http2.connection import CLOSE_TIMEOUT
from rongcloud_groups._transport.http2.response import MAX_BODY_SIZE, MAX_HEADER_LIST_SIZE
from rongcloud_groups.errors import TransportError

_FIELD_OVERHEAD: Final = 32  # bytes a field counts beyond its text; RFC 9113, section 6.5.2


class HTTP1Connection:
    """A `Connection` that carries one request at a time.

    Args:
        origin: where it goes.
        on_change: called, in the same step, when `open_slots` may have grown and when the connection is
            retired or closed. It may send.
        close_timeout: seconds that closing may take before the socket is cut off.

    Attributes:
        sent: how many requests it was given.
        in_flight: how many of them are still open, 0 or 1.
        closed: True when nothing can come from it any more.
        closed_reason: why it takes no more requests, for a log; empty while it does.
        http_version: ``HTTP/1.1``.
        protocol: what the transport is to talk to; its `connection_made` makes the connection ready.
    """

    http_version = "HTTP/1.1"

    def __init__(self, origin: Origin, *, on_change: Callable[[], None], close_timeout: float = CLOSE_TIMEOUT) -> None:
        self.sent = 0
        self.in_flight = 0
        self.closed = False
        self.closed_reason = ""
        self._loop = asyncio.get_running_loop()
        self._authority = origin.authority
        self._origin = origin
        self._on_change = on_change
        self._close_timeout = close_timeout
        self._retired = False
        self._transport: asyncio.Transport
        self._http: httpcore.AsyncHTTP11Connection
        self._lost = asyncio.Event()
        self._cut_off: asyncio.TimerHandle | None = None
        self._future: asyncio.Future[Response] | None = None
        self._exchange: asyncio.Task[None] | None = None
        self.protocol: asyncio.Protocol = _WatchedStream(self._connected, self._heard_while_idle, self._connection_lost)

    def __repr__(self) -> str:
        state = self.closed_reason or "open"
        return f"<HTTP1Connection {self._authority} {state}, {self.sent} sent, {self.in_flight} in flight>"

    @property
    def open_slots(self) -> int:
        """How many requests may be sent right now, 0 or 1."""
        return 0 if self._retired or self.closed or self.in_flight else 1

    def send(self, request: Request, timeout: float) -> asyncio.Future[Response]:
        """Starts sending; the future ends in the reply or in a `TransportError`.

        Call it only while `open_slots` is positive. Cancelling the future closes the connection, as does a
        time-out: HTTP/1.1 has no other way to abandon a request.

        Args:
            request: what to send.
            timeout: seconds until the attempt ends in a `TransportError`.
        """
        future: asyncio.Future[Response] = self._loop.create_future()
        if not self.open_slots:
            reason = self.closed_reason or "a request is open"
            future.set_exception(TransportError(f"{self._authority}: {reason}", never_processed=True))
            return future
        self.sent += 1
        self.in_flight = 1
        self._future = future
        future.add_done_callback(self._on_done)
        self._exchange = self._loop.create_task(self._carry_out(request, timeout))
        return future

    def retire(self) -> None:
        """Takes no more requests; closes when the open one has ended."""
        if self._retired or self.closed:
            return
        self._retired = True
        self.closed_reason = f"retired after {self.sent} requests"
        if self.in_flight:
            self._on_change()
        else:
            self._close(self.closed_reason)

    async def aclose(self) -> None:
        """Closes now; an open request ends in a `TransportError`. Returns when the socket is closed."""
        self._close("closed here")
        if self._exchange is not None:
            await asyncio.wait([self._exchange])
        await self._lost.wait()

    # What the stream tells

    def _connected(self, transport: asyncio.Transport, stream: httpcore.AsyncNetworkStream) -> None:
        self._transport = transport
        scheme, host, port = self._origin
        origin = httpcore.Origin(scheme.encode(), host.encode(), port)
        self._http = httpcore.AsyncHTTP11Connection(origin, stream)

    def _heard_while_idle(self, what: str) -> None:
        if self._future is None:
            self._close(what)

    def _connection_lost(self, exc: Exception | None) -> None:
        self._lost.set()
        if self._cut_off is not None:
            self._cut_off.cancel()
        # An open exchange may still find its whole answer among what was received, and ends by itself.
        self._heard_while_idle(f"connection lost: {exc}" if exc else "closed by the server")

    # The exchange

    async def _carry_out(self, request: Request, seconds: float) -> None:
        outcome: Response | TransportError
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                outcome = await self._ask(request)
        except Exception as error:  # noqa: BLE001  httpcore lets errors of h11 and the socket through as they are
            text = str(error) or type(error).__name__
            if limit.expired():
                text = f"no answer within {seconds:g} s from {self._authority}"
            outcome = TransportError(text)
            outcome.__cause__ = error
        if self._future is None:
            return
        self._settle(self._future, outcome)
        if isinstance(outcome, TransportError):
            self._close(str(outcome))
        elif self._retired or self._transport.is_closing():
            self._close("closed by the server after its answer")
        else:
            self._on_change()

    async def _ask(self, request: Request) -> Response:
        headers = [("host", self._authority), *request.headers, ("content-length", str(len(request.body)))]
        scheme, host, port = self._origin
        target = httpcore.URL(
            scheme=scheme.encode(), host=host.encode(), port=port, target=request.path.encode("ascii")
        )
        response = await self._http.handle_async_request(
            httpcore.Request(
                b"POST",
                target,
                headers=[(name.encode(), value.encode()) for name, value in headers],
                content=request.body,
            )
        )
        if sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in response.headers) > MAX_HEADER_LIST_SIZE:
            raise TransportError(f"{self._authority}: a header list of more than {MAX_HEADER_LIST_SIZE >> 10} KiB")
        body = bytearray()
        async for part in response.aiter_stream():
            body += part
            if len(body) > MAX_BODY_SIZE:
                raise TransportError(f"{self._authority}: a body of more than {MAX_BODY_SIZE >> 20} MiB")
        await response.aclose()
        fields = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        return Response(response.status, fields, bytes(body))

    def _on_done(self, future: asyncio.Future[Response]) -> None:
        if future.cancelled() and self._future is future:
            self._close("request cancelled")

    def _settle(self, future: asyncio.Future[Response], outcome: Response | TransportError) -> None:
        self._future = None
        self.in_flight = 0
        if future.done():
            return
        if isinstance(outcome, Response):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)

    def _close(self, reason: str) -> None:
        if self.closed:
            return
        self.closed = True
        self.closed_reason = self.closed_reason or reason
        if self._future is not None and self._exchange is not None:
            self._settle(self._future, TransportError(f"{self._authority}: {reason}"))
            self._exchange.cancel()
        if not self._lost.is_set():
            self._transport.close()
            self._cut_off = self._loop.call_later(self._close_timeout, self._transport.abort)
        self._on_change()


class _SocketStream(httpcore.AsyncNetworkStream):
    """httpcore's view of asyncio's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002  httpcore's signature
        return await self._reader.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002  httpcore's signature
        try:
            self._writer.write(buffer)
            await self._writer.drain()
        except OSError as error:
            # httpcore then looks for an answer that came before the whole request was sent.
            raise httpcore.WriteError(str(error)) from error

    async def aclose(self) -> None:
        self._writer.close()


class _WatchedStream(asyncio.StreamReaderProtocol):
    """A stream that tells what happens while nobody reads from it."""

    def __init__(
        self,
        connected: Callable[[asyncio.Transport, httpcore.AsyncNetworkStream], None],
        heard: Callable[[str], None],
        lost: Callable[[Exception | None], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._watched_reader = asyncio.StreamReader(loop=loop)
        super().__init__(self._watched_reader, loop=loop)
        self._connected = connected
        self._heard = heard
        self._told_lost = lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  narrows the type; streams have no other
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        writer = asyncio.StreamWriter(transport, self, self._watched_reader, loop)
        self._connected(transport, _SocketStream(self._watched_reader, writer))

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._heard("the server spoke unasked")

    def eof_received(self) -> bool | None:
        keep_open = super().eof_received()
        self._heard("closed by the server")
        return keep_open

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._told_lost(exc)
