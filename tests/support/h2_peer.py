"""An HTTP/2 server for tests, written on frames alone so that a test can have it do what no server should."""

import asyncio
import functools
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, cast

import trustme
from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from rongcloud_groups._http import Origin, Request, Response
from rongcloud_groups._transport.connect import Dialler
from rongcloud_groups._transport.http2.connection import HTTP2Connection
from rongcloud_groups._transport.interface import Connection

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HIGHEST_STREAM_ID = 2**31 - 1
QUERY = Request("/q", [("app-key", "key"), ("nonce", "n1")], b"groupIds=g1")


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(*alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("localhost", "127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(list(alpn))
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority().configure_trust(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


class Received(NamedTuple):
    """One whole request."""

    stream_id: int
    headers: dict[str, str]
    body: bytes


class Peer(asyncio.Protocol):
    """The server's end of one connection. A script responds; the requests are kept for the test."""

    def __init__(self, server: "Server") -> None:
        self.server = server
        self.requests: list[Received] = []
        self.resets: list[tuple[int, int]] = []
        self.goaways: list[int] = []
        self.pings = 0
        self.lost = asyncio.Event()
        self.happened = asyncio.Event()
        self.encoder = Encoder()
        self.window = 65_535
        self.header_sizes: dict[int, int] = {}
        self.decoder = Decoder()
        self._buffer = b""
        self._headers: dict[int, dict[str, str]] = {}
        self._bodies: dict[int, bytes] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.drained = asyncio.Event()
        self.drained.set()
        self.stream_window = 65_535
        self.bytes_sent = 0
        self._stream_windows: dict[int, int] = {}
        self._unsent: dict[int, deque[DataFrame]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self.transport = transport
        self.server.peers.append(self)
        self.server.connected.set()
        if self.server.settings is not None:
            self.write(SettingsFrame(settings=self.server.settings))
        if self.server.greet is not None:
            self.server.greet(self)

    def pause_writing(self) -> None:
        self.drained.clear()

    def resume_writing(self) -> None:
        self.drained.set()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.lost.set()
        self.drained.set()
        self.happened.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self.requests and self._buffer.startswith(PREFACE):
            self._buffer = self._buffer[len(PREFACE) :]
        while len(self._buffer) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(self._buffer[:9]))
            if len(self._buffer) < 9 + length:
                return
            frame.parse_body(memoryview(self._buffer[9 : 9 + length]))
            self._buffer = self._buffer[9 + length :]
            self._take(frame)
            self.happened.set()

    def _take(self, frame: Frame) -> None:
        match frame:
            case HeadersFrame() | DataFrame():
                self._take_request(frame)
            case SettingsFrame() if "ACK" not in frame.flags:
                self.stream_window = frame.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, self.stream_window)
                self.write(SettingsFrame(flags=["ACK"]))
            case WindowUpdateFrame(stream_id=0):
                self.window += frame.window_increment
                self._pump()
            case WindowUpdateFrame():
                self._stream_windows[frame.stream_id] = self.window_of(frame.stream_id) + frame.window_increment
                self._pump()
            case RstStreamFrame():
                self._unsent.pop(frame.stream_id, None)
                self.resets.append((frame.stream_id, frame.error_code))
            case PingFrame() if "ACK" not in frame.flags:
                self.pings += 1
                if self.server.acknowledges_pings:
                    self.write(PingFrame(flags=["ACK"], opaque_data=frame.opaque_data))
            case GoAwayFrame():
                self.goaways.append(frame.error_code)

    def _take_request(self, frame: HeadersFrame | DataFrame) -> None:
        stream_id = frame.stream_id
        if isinstance(frame, DataFrame):
            self._bodies[stream_id] += frame.data
            if self.server.replenish and frame.data:
                self.write(WindowUpdateFrame(0, window_increment=len(frame.data)))
                self.write(WindowUpdateFrame(stream_id, window_increment=len(frame.data)))
        else:
            self.header_sizes[stream_id] = len(frame.data)
            self._headers[stream_id] = {str(n): str(v) for n, v in self.decoder.decode(frame.data)}
            self._bodies[stream_id] = b""
        if "END_STREAM" in frame.flags:
            received = Received(stream_id, self._headers.pop(stream_id), self._bodies.pop(stream_id))
            self.requests.append(received)
            self.server.script(self, received)

    def stop_reading(self) -> None:
        """From here on little fits into the kernel's buffers between the two sides."""
        self.transport.pause_reading()
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self.happened.clear()
            await self.happened.wait()

    async def until_requests(self, number: int) -> None:
        await self.until(lambda: len(self.requests) >= number)

    def write(self, *frames: Frame) -> None:
        self.transport.write(b"".join(frame.serialize() for frame in frames))

    def headers(
        self, stream_id: int, fields: Iterable[tuple[str, str]] = ((":status", "200"),), *, end: bool = False
    ) -> HeadersFrame:
        flags = ["END_HEADERS", "END_STREAM"] if end else ["END_HEADERS"]
        return HeadersFrame(stream_id, self.encoder.encode(list(fields)), flags=flags)

    def respond(self, stream_id: int, body: bytes = b"{}", *, status: str = "200", length: int | None = -1) -> None:
        """Respond as far as the window of the connection allows; `length` -1 is the true one, None leaves it out."""
        fields = [(":status", status)]
        if length is not None:
            fields.append(("content-length", str(len(body) if length < 0 else length)))
        self.write(self.headers(stream_id, fields, end=not body))
        parts = [body[start : start + 16_384] for start in range(0, len(body), 16_384)]
        if parts:
            self._unsent[stream_id] = deque(DataFrame(stream_id, part) for part in parts)
            self._unsent[stream_id][-1].flags.add("END_STREAM")
        self._pump()

    def window_of(self, stream_id: int) -> int:
        return self._stream_windows.get(stream_id, self.stream_window)

    def _pump(self) -> None:
        """Sends what the windows take, a frame of each response in turn."""
        sent = True
        while sent:
            sent = False
            for stream_id, frames in list(self._unsent.items()):
                size = len(frames[0].data)
                if size <= min(self.window, self.window_of(stream_id)):
                    self.window -= size
                    self.bytes_sent += size
                    self._stream_windows[stream_id] = self.window_of(stream_id) - size
                    self.write(frames.popleft())
                    sent = True
                    if not frames:
                        del self._unsent[stream_id]


Script = Callable[[Peer, Received], None]


def echo(peer: Peer, request: Received) -> None:
    peer.respond(request.stream_id, request.headers[":path"].encode() + b" " + request.body)


def by_path(peer: Peer, request: Received) -> None:
    """Responds to nothing below ``/hang``; else echoes."""
    if not request.headers[":path"].startswith("/hang"):
        echo(peer, request)


class Client:
    """One connection and a caller that waits for its slots."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.changes = 0
        self.connection: HTTP2Connection

    def on_change(self) -> None:
        self.changes += 1
        self.changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self.changed.clear()
            await self.changed.wait()

    async def ask(self, path: str = "/q", body: bytes = b"groupIds=g1", timeout: float = 10) -> Response:
        await self.until(lambda: self.connection.open_slots > 0 or self.connection.closed)
        return await self.connection.send(Request(path, QUERY.headers, body), timeout)


class Server:
    def __init__(
        self,
        script: Script,
        settings: dict[int, int] | None,
        greet: Callable[[Peer], None] | None,
        *,
        acknowledges_pings: bool,
    ) -> None:
        self.script = script
        self.settings = settings
        self.acknowledges_pings = acknowledges_pings
        self.greet = greet
        self.replenish = True
        self.peers: list[Peer] = []
        self.connected = asyncio.Event()
        self.port = 0

    @property
    def peer(self) -> Peer:
        return self.peers[-1]

    @property
    def url(self) -> Origin:
        return Origin.parse(f"https://localhost:{self.port}")

    @asynccontextmanager
    async def client(self, max_in_flight: int = 100, **short: float) -> AsyncIterator[Client]:
        """A client connected to this server; `short` are other limits in seconds for the connection."""
        client = Client()
        loop = asyncio.get_running_loop()
        connection = HTTP2Connection(f"localhost:{self.port}", client.on_change, max_in_flight=max_in_flight)
        for name, seconds in short.items():
            setattr(connection, name, seconds)
        await loop.create_connection(
            lambda: connection, "127.0.0.1", self.port, ssl=client_context(), server_hostname="localhost"
        )
        client.connection = connection
        try:
            await connection.wait_ready()
            yield client
        finally:
            await connection.aclose()


@asynccontextmanager
async def serving(
    script: Script = echo,
    settings: dict[int, int] | None = None,
    greet: Callable[[Peer], None] | None = None,
    *,
    acknowledges_pings: bool = True,
) -> AsyncIterator[Server]:
    """A server on the loopback.

    `settings` are those of its first SETTINGS frame, 100 streams by default; `greet` is called with each new peer.
    """
    if settings is None:
        settings = {SettingsFrame.MAX_CONCURRENT_STREAMS: 100}
    server = Server(script, settings, greet, acknowledges_pings=acknowledges_pings)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Peer(server), "127.0.0.1", 0, ssl=server_context("h2"))
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for peer in server.peers:
            peer.transport.abort()
        for peer in server.peers:
            await peer.lost.wait()
            for task in peer.tasks:
                await task
        await listener.wait_closed()


async def opened(url: Origin, on_change: Callable[[], None] = lambda: None, **options: Any) -> Connection:
    """A connection by a `Dialler` with the arguments that a test doesn't care about."""
    settings: dict[str, Any] = {"verify": client_context(), "http2": True, "timeout": 10, "max_in_flight": 64}
    return await Dialler(**settings | options).connect(url, on_change)
