"""Opens one connection: name resolution, TCP, a proxy's tunnel, TLS, and the protocol that both sides speak."""

import asyncio
import logging
import os
import socket
import ssl
from asyncio import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Final, cast

import h11
from aiohappyeyeballs import AddrInfoType, start_connection

from rongcloud_groups._http import Origin, Proxy
from rongcloud_groups._transport.http1 import HTTP1Connection
from rongcloud_groups._transport.http2.connection import HTTP2Connection
from rongcloud_groups._transport.interface import Connection, OnChange, SocketConnection
from rongcloud_groups._transport.tls import tls_context
from rongcloud_groups.errors import TransportError

_ATTEMPT_DELAY: Final = 0.25
"""Seconds until the next address is tried beside one that has not responded; RFC 8305, section 8."""
_READY_STEP: Final = "HTTP/2 SETTINGS"
"""Where a host was reached, and then allows no request."""
_PROXY_VARIABLES: Final = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
_READ_SIZE: Final = 16 * 1024
_MAX_EVENTS: Final = 64
_UNAUTHORIZED: Final = (401, 407)  # tinyproxy refuses a wrong password with the first
_OWNERS_OF_DESCRIPTORS: Final = {"uvloop", "winloop"}
"""Event loops that close the descriptor of a socket themselves. They leave the object open where the server resets the
connection at once, and it would later close a descriptor that has another use by then."""

_logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False, repr=False)
class Dialler:
    """A `Connector` over TCP and TLS. ALPN chooses the protocol; without TLS it is HTTP/1.1.

    Attributes:
        verify: which certificates to trust; None for those that the system trusts, where ``SSL_CERT_FILE`` and
            ``SSL_CERT_DIR`` are honoured.
        http2: whether HTTP/2 is offered, before HTTP/1.1.
        timeout: seconds for TCP, TLS and the server's SETTINGS together.
        max_in_flight: how many requests may be open on a connection at once.
        proxy: the proxy to connect through.
    """

    verify: ssl.SSLContext | None
    http2: bool
    timeout: float
    max_in_flight: int
    proxy: Proxy | None = None
    _lookups: dict[tuple[str, int], Future[list[AddrInfoType]]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.proxy is None and (ignored := [name for name in _PROXY_VARIABLES if os.environ.get(name)]):
            text = "%s is set and not used: pass proxy=, or set RONGCLOUD_PROXY, to use a proxy"
            _logger.info(text, ignored[0])

    @cached_property
    def tls(self) -> ssl.SSLContext:
        return tls_context(self.verify, ["h2", "http/1.1"] if self.http2 else ["http/1.1"])

    async def connect(self, origin: Origin, on_change: OnChange) -> Connection:
        proxy = self.proxy if self.proxy is not None and self.proxy.serves(origin) else None
        attempt = _Attempt(self, origin, on_change, proxy)
        limit = asyncio.timeout(self.timeout)
        try:
            async with limit:
                return await attempt.open()
        except (OSError, RuntimeError, UnicodeError, h11.RemoteProtocolError, TransportError) as error:
            cause = f"timed out after {self.timeout:g} s" if limit.expired() else f"failed: {_describe(error)}"
            failure = TransportError(f"{origin.host}:{origin.port}: {attempt.step} {cause}", never_processed=True)
            raise failure from (None if attempt.step == _READY_STEP else error)
        finally:
            if attempt.step and attempt.transport is not None:
                attempt.transport.abort()

    async def resolve(self, host: str, port: int) -> list[AddrInfoType]:
        """The addresses of a host. A lookup that hangs holds one thread, however often it is waited for."""
        with suppress(socket.gaierror):
            return _look_up(host, port, socket.AI_NUMERICHOST)  # an IP address, which needs no resolver
        if (lookup := self._lookups.get((host, port))) is None:
            lookup = asyncio.get_running_loop().run_in_executor(None, _look_up, host, port)
            self._lookups[host, port] = lookup
            lookup.add_done_callback(partial(self._on_resolved, (host, port)))
        return await asyncio.shield(lookup)

    def _on_resolved(self, name: tuple[str, int], done: Future[list[AddrInfoType]]) -> None:
        del self._lookups[name]
        if not done.cancelled():
            done.exception()  # every waiter may have left


@dataclass(eq=False, repr=False)
class _Attempt(asyncio.Protocol):
    """One attempt to connect, and the protocol of its transport until ALPN has chosen another.

    Attributes:
        step: the step that is being taken; empty once the connection is open.
    """

    dialler: Dialler
    origin: Origin
    on_change: OnChange
    proxy: Proxy | None
    step: str = ""
    transport: asyncio.Transport | None = None
    connection: SocketConnection = field(init=False)

    async def open(self) -> Connection:
        connected = await self._reach()
        loop = asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        if self.origin.scheme == "https":
            self.step = "TLS handshake"
            context, host, seconds = self.dialler.tls, self.origin.host, SocketConnection.close_timeout
            tls = {"ssl": context, "server_hostname": host, "ssl_shutdown_timeout": seconds}
        try:
            await loop.create_connection(lambda: self, sock=connected, **tls)
        finally:
            if type(loop).__module__.partition(".")[0] in _OWNERS_OF_DESCRIPTORS:
                connected.detach()
        self.step = _READY_STEP
        await self.connection.wait_ready()
        self.step = ""
        return self.connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            host, slots, seconds = self.origin.authority, self.dialler.max_in_flight, self.dialler.timeout
            self.connection = HTTP2Connection(host, self.on_change, max_in_flight=slots, slot_timeout=seconds)
        else:
            self.connection = HTTP1Connection(self.origin, self.on_change, self.proxy if tls is None else None)
        self.transport.set_protocol(self.connection)
        self.connection.connection_made(transport)  # in the same step, so no byte is missed

    async def _reach(self) -> socket.socket:
        """A socket that is connected to the origin, through the proxy if there is one."""
        proxy = self.proxy
        _, host, port = self.origin if proxy is None else proxy.origin
        self.step = "name resolution" if proxy is None else f"name resolution of proxy {host}:{port}"
        addresses = await self.dialler.resolve(host, port)
        self.step = "connecting" if proxy is None else f"connecting to proxy {host}:{port}"
        connected = await start_connection(addresses, happy_eyeballs_delay=_ATTEMPT_DELAY, interleave=1)
        if proxy is not None and self.origin.scheme == "https":
            self.step = f"tunnel through proxy {host}:{port}"
            try:
                await _open_tunnel(connected, self.origin, proxy)
            except BaseException:
                connected.close()
                raise
        return connected


def _look_up(host: str, port: int, flags: int = 0) -> list[AddrInfoType]:
    return [*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)]


async def _open_tunnel(connected: socket.socket, origin: Origin, proxy: Proxy) -> None:
    """Have the proxy, which the socket is connected to, connect to an origin; RFC 9110, section 9.3.6."""
    loop = asyncio.get_running_loop()
    http = h11.Connection(h11.CLIENT)
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    target = f"{host}:{origin.port}"
    await loop.sock_sendall(connected, _tunnel_request(http, target, proxy))
    for _ in range(_MAX_EVENTS):
        event = http.next_event()
        if isinstance(event, h11.Response):
            break
        if event is h11.NEED_DATA:
            if not (data := await loop.sock_recv(connected, _READ_SIZE)):
                raise TransportError("the proxy closed the connection without a response")
            http.receive_data(data)
    else:
        raise TransportError("not an HTTP proxy: it sends no end of informational responses")
    reason = event.reason.decode("latin-1")
    if event.status_code in _UNAUTHORIZED:
        raise TransportError(f"{event.status_code} {reason}: check the user and password of the proxy")
    if event.status_code // 100 != 2:  # noqa: PLR2004  the class of success
        raise TransportError(f"the proxy refused: {event.status_code} {reason}")
    if http.trailing_data[0]:
        raise TransportError("the proxy sent more than its response")


def _tunnel_request(http: h11.Connection, target: str, proxy: Proxy) -> bytes:
    """The request as bytes; apart from the exchange, so that no traceback of that shows the password."""
    request = h11.Request(method="CONNECT", target=target, headers=[("host", target), *proxy.headers])
    return (http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b"")


def _describe(error: Exception) -> str:  # noqa: PLR0911  a table
    match error:
        case ssl.SSLCertVerificationError():
            return f"certificate not trusted: {error.verify_message}"
        case ssl.SSLError():
            return error.reason or str(error)
        case socket.gaierror():
            return f"name not resolved: {error.strerror}"
        case ConnectionRefusedError():
            return "connection refused"
        case UnicodeError():
            return f"not a host name: {error}"
        case h11.RemoteProtocolError():
            return f"not an HTTP proxy: {error}"
        case _:
            return str(error) or type(error).__name__
