"""The emulator: the service on a loopback port."""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, cast

import msgspec

from rongcloud_groups.emulator.connection import CONTROL_PREFIX, ServerConnection
from rongcloud_groups.emulator.faults import Faults
from rongcloud_groups.emulator.http1 import Http1ServerConnection
from rongcloud_groups.emulator.http2 import Http2ServerConnection
from rongcloud_groups.emulator.recorder import Record, Report
from rongcloud_groups.emulator.responses import Response
from rongcloud_groups.emulator.service import Service

try:
    import trustme
except ModuleNotFoundError as missing:
    text = "the emulator needs the extra emulator: pip install 'rongcloud-groups[emulator]'"
    raise ModuleNotFoundError(text, name=missing.name) from None

_CLOSING_TIME = 0.5  # seconds that a client gets to close its side before the connection is cut


class Emulator:
    """The service on a loopback port, over TLS and HTTP/2 or HTTP/1.1; use it as ``async with``.

    ::

        async with Emulator(limit=100) as emulator:
            async with httpx.AsyncClient(verify=emulator.ssl_context, base_url=emulator.url) as client:
                ...
        assert emulator.report().worst_second <= 100

    Another process reads the counters with ``GET /_emulator/report`` and ``GET /_emulator/arrivals``
    and clears them with ``POST /_emulator/reset``; these need no signature and are not counted.

    Args:
        service: the service; None makes a `Service` of `options`.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        tls: whether it speaks TLS, with a certificate of its own authority; else HTTP/1.1 in the clear.
        http2: whether ALPN offers HTTP/2.
        record_ids: whether `batches` keeps the IDs of each batch query.
        options: the options of `Service`.

    Raises:
        TypeError: both `service` and options of one were given.
    """

    def __init__(
        self,
        service: Service | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: bool = True,
        http2: bool = True,
        record_ids: bool = False,
        **options: Any,
    ) -> None:
        if service is not None and options:
            raise TypeError(f"options of a Service beside a Service: {', '.join(options)}")
        self.service = service or Service(**options)
        self.record = Record(keep_ids=record_ids)
        self.connections: set[ServerConnection] = set()
        self._address = (host, port)
        self._http2 = http2
        self._authority = trustme.CA() if tls else None
        self._server_context = self._server_side() if tls else None
        self._taking: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener = socket.create_server(self._address, backlog=1024)
        self._listener.setblocking(False)  # noqa: FBT003  the socket's own signature
        self._address = self._listener.getsockname()[:2]
        asyncio.get_running_loop().add_reader(self._listener, self._accept)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for task in self._taking:
            task.cancel()
        await asyncio.gather(*self._taking, return_exceptions=True)
        await self.close_connections()

    @property
    def faults(self) -> Faults:
        """The faults to play; they may be changed at any time."""
        return self.service.faults

    @property
    def url(self) -> str:
        """The base URL, without a path."""
        scheme = "http" if self._authority is None else "https"
        return f"{scheme}://{self._address[0]}:{self._address[1]}"

    @property
    def app_key(self) -> str:
        """The App Key to send."""
        return self.service.app_key

    @property
    def app_secret(self) -> str:
        """The App Secret to sign with."""
        return self.service.app_secret

    @property
    def ca_pem(self) -> bytes:
        """The certificate of the authority to trust, as PEM; empty without TLS."""
        return b"" if self._authority is None else self._authority.cert_pem.bytes()

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """A new context for a client, that trusts only this emulator."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self._authority is not None:
            self._authority.configure_trust(context)
        return context

    @property
    def arrivals(self) -> list[float]:
        """When each batch query's headers arrived, in seconds on `time.monotonic`."""
        return list(self.record.arrivals)

    @property
    def batches(self) -> list[list[str]]:
        """The IDs of each batch query that was let in; empty unless `record_ids`."""
        return self.record.batches

    def report(self) -> Report:
        """The counters so far."""
        return self.record.report(self.faults.played)

    def reset(self) -> None:
        """Clear the counters."""
        self.record.clear()
        self.faults.played.clear()

    async def wait_for(self, requests: int) -> None:
        """Return once that many requests, counted since the last `reset`, have been received."""
        await self.record.wait_for(requests)

    async def close_connections(self) -> None:
        """Close every connection, as a server does that restarts; keep listening."""
        connections = set(self.connections)
        for connection in connections:
            connection.shut_down()
        await _lost(connections)
        for connection in connections & self.connections:
            connection.transport.abort()
        await _lost(connections)

    def respond(self, method: str, target: str, headers: Mapping[str, str], body: bytes, arrived: float) -> Response:
        """Respond to a whole request; connections call this."""
        path = target.partition("?")[0]
        if path.startswith(CONTROL_PREFIX):
            return self._control(method, path.removeprefix(CONTROL_PREFIX))
        response = self.service.respond(method, path, headers, body, arrived)
        self.record.responded(response)
        return response

    def _control(self, method: str, name: str) -> Response:
        status, content = 200, b"{}"
        match method, name:
            case "GET", "report":
                content = msgspec.json.encode(self.report())
            case "GET", "arrivals":
                content = msgspec.json.encode(self.arrivals)
            case "POST", "reset":
                self.reset()
            case _:
                status = 404
        return Response(status, [("content-type", "application/json")], content, 0, [])

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError:  # the client has left
            return
        task = asyncio.get_running_loop().create_task(self._take(accepted), name="emulator: handshake")
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)
        task.add_done_callback(lambda done: accepted.close() if done.cancelled() else None)

    async def _take(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self.record.counts.connections += 1
        try:
            accepted.setblocking(False)  # noqa: FBT003  the socket's own signature
            if self.faults.black_hole:
                self.faults.played["black-hole"] += 1
                while await loop.sock_recv(accepted, 65536):
                    pass
                accepted.close()
                return
            if self.faults.handshake:
                self.faults.played["handshake"] += 1
                await asyncio.sleep(self.faults.handshake)
            await loop.connect_accepted_socket(lambda: _Negotiated(self), accepted, ssl=self._server_context)
        except OSError:
            self.record.counts.tls_failures += 1
            accepted.close()

    def _server_side(self) -> ssl.SSLContext:
        assert self._authority is not None  # noqa: S101  called with TLS only
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(self._address[0], "127.0.0.1", "localhost").configure_cert(context)
        context.set_alpn_protocols(["h2", "http/1.1"] if self._http2 else ["http/1.1"])
        return context


async def _lost(connections: set[ServerConnection]) -> None:
    if connections:
        await asyncio.wait([connection.lost for connection in connections], timeout=_CLOSING_TIME)


class _Negotiated(asyncio.Protocol):
    """Hands a new connection to the protocol that ALPN chose."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        tls = transport.get_extra_info("ssl_object")
        speaks_http2 = tls is not None and tls.selected_alpn_protocol() == "h2"
        connection = Http2ServerConnection(self._emulator) if speaks_http2 else Http1ServerConnection(self._emulator)
        transport.set_protocol(connection)
        connection.connection_made(transport)
