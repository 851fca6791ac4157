"""The emulator: the service on a loopback port."""

import asyncio
import copy
import socket
import ssl
from collections import Counter
from typing import Any, Self

import msgspec

from rongcloud_groups.emulator.connection import CONTROL_PREFIX, ServerConnection
from rongcloud_groups.emulator.faults import Faults
from rongcloud_groups.emulator.rate_limit import worst_second
from rongcloud_groups.emulator.requests import Exchange
from rongcloud_groups.emulator.responses import Response
from rongcloud_groups.emulator.service import ROUTES, Service

try:
    import trustme
except ModuleNotFoundError as missing:
    text = "the emulator needs the extra emulator: pip install 'rongcloud-groups[emulator]'"
    raise ModuleNotFoundError(text, name=missing.name) from None

_CLOSING_TIME = 0.5  # seconds that a client gets to close its side before the connection is cut


class Report(msgspec.Struct, kw_only=True):
    """The counters since the emulator started, or since they were cleared."""

    requests: dict[str, int] = {}  #: requests received by path, also the refused
    batch_requests: int = 0  #: batch queries received, also the refused
    refused: int = 0  #: requests refused for their rate (code 1008)
    codes: dict[int, int] = {}  #: responses by the service's code; 0 stands for one without a code
    worst_second: int = 0  #: the most batch queries received in any second [t, t + 1), also the refused
    connections: int = 0  #: connections accepted
    max_requests_on_connection: int = 0  #: the most requests that one connection carried
    ids_asked: int = 0  #: group IDs in all batch queries that were let in
    ids_asked_again: int = 0  #: distinct IDs among them that were asked for more than once
    faults: dict[str, int] = {}  #: faults played, by name
    http_versions: dict[str, int] = {}  #: requests by HTTP version
    never_processed: int = 0  #: requests that a GOAWAY left out, and which were dropped unanswered
    protocol_errors: int = 0  #: connections that the client broke the protocol on
    tls_failures: int = 0  #: connections whose handshake failed or was given up


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

    Attributes:
        service: the service.
        app_key: the App Key to send.
        app_secret: the App Secret to sign with.
        ca_pem: the certificate of the authority to trust, as PEM; empty without TLS.
        arrivals: when each batch query's headers arrived, in seconds on `time.monotonic`.
        batches: the IDs of each batch query that was let in; empty unless `record_ids`.

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
        self.app_key, self.app_secret = self.service.app_key, self.service.app_secret
        self.connections: set[ServerConnection] = set()
        self.ca_pem = b""
        self._address = (host, port)
        self._server_context: ssl.SSLContext | None = None
        if tls:
            authority = trustme.CA()
            self.ca_pem = authority.cert_pem.bytes()
            self._server_context = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(host, "127.0.0.1", "localhost").configure_cert(context)
            context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
        self._handshakes: set[asyncio.Task[None]] = set()
        self._record_ids = record_ids
        self._arrival = asyncio.Event()
        self.reset()

    async def __aenter__(self) -> Self:
        self._listener = socket.create_server(self._address, backlog=1024)
        self._listener.setblocking(False)  # noqa: FBT003  the socket's own signature
        self._address = self._listener.getsockname()[:2]
        asyncio.get_running_loop().add_reader(self._listener, self._accept)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for handshake in self._handshakes:
            handshake.cancel()
        await asyncio.gather(*self._handshakes, return_exceptions=True)
        await self.close_connections()

    @property
    def faults(self) -> Faults:
        """The faults to play; they may be changed at any time."""
        return self.service.faults

    @property
    def url(self) -> str:
        """The base URL, without a path."""
        scheme = "https" if self.ca_pem else "http"
        return f"{scheme}://{self._address[0]}:{self._address[1]}"

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """A new context for a client, that trusts only this emulator."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca_pem:
            context.load_verify_locations(cadata=self.ca_pem.decode())
        return context

    def report(self) -> Report:
        """The counters so far."""
        return msgspec.structs.replace(
            copy.deepcopy(self.counts),
            batch_requests=len(self.arrivals),
            refused=self.counts.codes[1008],
            worst_second=worst_second(self.arrivals),
            ids_asked_again=sum(times > 1 for times in self._asked.values()),
            faults={**self.faults.played},
        )

    def reset(self) -> None:
        """Clear the counters."""
        self.arrivals: list[float] = []
        self.batches: list[list[str]] = []
        self.counts = Report(requests=Counter(), codes=Counter(), http_versions=Counter())
        self.faults.played.clear()
        self._asked: Counter[int] = Counter()  # by the hashes of the IDs, which take less memory

    async def wait_for(self, requests: int) -> None:
        """Return once that many requests, counted since the last `reset`, have been received."""
        while sum(self.counts.requests.values()) < requests:
            await self._arrival.wait()

    async def close_connections(self) -> None:
        """Close every connection, as a server does that restarts; keep listening."""
        connections = set(self.connections)
        for connection in connections:
            connection.protocol.shut_down()
            connection.after(_CLOSING_TIME, connection.transport.abort)
        if connections:
            await asyncio.wait([connection.lost for connection in connections], timeout=2 * _CLOSING_TIME)

    def arrived(self, path: str, http_version: str, at: float, nth: int) -> None:
        """Note the `nth` request of its connection, whose headers came `at` these seconds of the monotonic clock."""
        self.counts.requests[path] += 1
        self.counts.http_versions[http_version] += 1
        self.counts.max_requests_on_connection = max(self.counts.max_requests_on_connection, nth)
        if path in ROUTES and ROUTES[path][1] == "batch":
            self.arrivals.append(at)
        self._arrival.set()
        self._arrival = asyncio.Event()

    def respond(self, request: Exchange) -> Response:
        """Respond to a whole request; connections call this."""
        method, path = request.method, request.path
        if path.startswith(CONTROL_PREFIX):
            return self._control(method, path.removeprefix(CONTROL_PREFIX))
        response = self.service.respond(method, path, request.headers, bytes(request.body), request.arrived)
        self.counts.codes[response.code] += 1
        self.counts.ids_asked += len(response.group_ids)
        self._asked.update(map(hash, response.group_ids))
        if self._record_ids and response.group_ids:
            self.batches.append(response.group_ids)
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
        self.counts.connections += 1
        handshake = asyncio.get_running_loop().create_task(self._shake_hands(accepted), name="emulator: handshake")
        self._handshakes.add(handshake)
        handshake.add_done_callback(self._handshakes.discard)
        handshake.add_done_callback(lambda done: accepted.close() if done.cancelled() else None)

    async def _shake_hands(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self.faults.black_hole:
                self.faults.played["black-hole"] += 1
            elif self.faults.handshake:
                self.faults.played["handshake"] += 1
                await asyncio.sleep(self.faults.handshake)
            tls = None if self.faults.black_hole else self._server_context
            await loop.connect_accepted_socket(lambda: ServerConnection(self), accepted, ssl=tls)
        except OSError:
            self.counts.tls_failures += 1
            accepted.close()
