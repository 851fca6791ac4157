"""Opens one connection: name resolution, TCP, TLS, and the protocol that both sides speak."""

import asyncio
import logging
import os
import socket
import ssl
from asyncio import Future
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial
from typing import Any, Final, cast

from aiohappyeyeballs import AddrInfoType, start_connection

from rongcloud_groups._http import Origin, Proxy
from rongcloud_groups._transport.http1 import HTTP1Connection
from rongcloud_groups._transport.http2.connection import HTTP2Connection
from rongcloud_groups._transport.interface import CLOSE_TIMEOUT, Connection, SocketConnection
from rongcloud_groups._transport.proxy import open_tunnel
from rongcloud_groups._transport.tls import tls_context
from rongcloud_groups.errors import TransportError

_ATTEMPT_DELAY: Final = 0.25
"""Seconds until the next address is tried beside one that has not responded; RFC 8305, section 8."""

_READY_STEP: Final = "HTTP/2 SETTINGS"
"""Where a host was reached, and then allows no request."""

_PROXY_VARIABLES: Final = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")

_OWNERS_OF_DESCRIPTORS: Final = {"uvloop", "winloop"}
"""Event loops that close the descriptor of a socket themselves. They leave the object open where the server resets the
connection at once, and it would later close a descriptor that has another use by then."""

_logger = logging.getLogger(__name__)


class Dialler:
    """A `Connector` over TCP and TLS. ALPN chooses the protocol; without TLS it is HTTP/1.1.

    Args:
        verify: which certificates to trust; None for those that the system trusts, where ``SSL_CERT_FILE`` and
            ``SSL_CERT_DIR`` are honoured.
        http2: whether HTTP/2 is offered, before HTTP/1.1.
        timeout: seconds for TCP, TLS and the server's SETTINGS together.
        max_in_flight: how many requests may be open on a connection at once.
        proxy: the proxy to connect through.
    """

    def __init__(
        self,
        *,
        verify: ssl.SSLContext | None,
        http2: bool,
        timeout: float,
        max_in_flight: int,
        proxy: Proxy | None = None,
    ) -> None:
        self._verify = verify
        self._proxy = proxy
        self._protocols = ["h2", "http/1.1"] if http2 else ["http/1.1"]
        self._timeout = timeout
        self._max_in_flight = max_in_flight
        if proxy is None and (ignored := [name for name in _PROXY_VARIABLES if os.environ.get(name)]):
            text = "%s is set and not used: pass proxy=, or set RONGCLOUD_PROXY, to use a proxy"
            _logger.info(text, ignored[0])
        self._resolving: dict[tuple[str, int], Future[list[AddrInfoType]]] = {}

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """The TLS context, which offers the protocols by ALPN."""
        return tls_context(self._verify, self._protocols)

    async def connect(self, origin: Origin, on_change: Callable[[], None]) -> Connection:
        """See `Connector.connect`."""
        attempt = _Attempt(partial(self._connection, origin, on_change))
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                return await self._open(origin, attempt)
        except (OSError, RuntimeError, UnicodeError, TransportError) as error:
            cause = f"timed out after {self._timeout:g} s" if limit.expired() else f"failed: {_describe(error)}"
            failure = TransportError(f"{origin.host}:{origin.port}: {attempt.step} {cause}", never_processed=True)
            raise failure from (None if attempt.step == _READY_STEP else error)
        finally:
            if attempt.step:
                attempt.abort()

    async def _open(self, origin: Origin, attempt: "_Attempt") -> Connection:
        connected = await self._reach(origin, attempt)
        loop = asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        if origin.scheme == "https":
            attempt.step = "TLS handshake"
            tls = {"ssl": self.tls, "server_hostname": origin.host, "ssl_shutdown_timeout": CLOSE_TIMEOUT}
        try:
            await loop.create_connection(lambda: attempt, sock=connected, **tls)
        finally:
            if type(loop).__module__.partition(".")[0] in _OWNERS_OF_DESCRIPTORS:
                connected.detach()
        attempt.step = _READY_STEP
        await attempt.connection.wait_ready()
        attempt.step = ""
        return attempt.connection

    async def _reach(self, origin: Origin, attempt: "_Attempt") -> socket.socket:
        """A socket that is connected to the origin, through the proxy if there is one."""
        proxy = self._proxy_to(origin)
        _, host, port = origin if proxy is None else proxy.origin
        via = "" if proxy is None else f" of proxy {host}:{port}"
        attempt.step = f"name resolution{via}"
        addresses = await self._resolve(host, port)
        attempt.step = f"connecting{via.replace(' of', ' to')}"
        connected = await start_connection(addresses, happy_eyeballs_delay=_ATTEMPT_DELAY, interleave=1)
        if proxy is not None and origin.scheme == "https":
            attempt.step = f"tunnel{via.replace(' of', ' through')}"
            await open_tunnel(connected, origin, proxy)
        return connected

    def _proxy_to(self, origin: Origin) -> Proxy | None:
        return self._proxy if self._proxy is not None and self._proxy.serves(origin) else None

    def _connection(
        self, origin: Origin, on_change: Callable[[], None], tls: ssl.SSLObject | None
    ) -> HTTP2Connection | HTTP1Connection:
        if tls is None:
            return HTTP1Connection(origin, on_change, self._proxy_to(origin))
        if tls.selected_alpn_protocol() != "h2":
            return HTTP1Connection(origin, on_change)
        host, limit = origin.authority, self._max_in_flight
        return HTTP2Connection(host, on_change, max_in_flight=limit, slot_timeout=self._timeout)

    async def _resolve(self, host: str, port: int) -> list[AddrInfoType]:
        """The addresses of a host. A lookup that hangs holds one thread, however often it is waited for."""
        with suppress(socket.gaierror):
            return _look_up(host, port, socket.AI_NUMERICHOST)  # an IP address, which needs no resolver
        if (resolving := self._resolving.get((host, port))) is None:
            resolving = asyncio.get_running_loop().run_in_executor(None, _look_up, host, port)
            self._resolving[host, port] = resolving
            resolving.add_done_callback(partial(self._on_resolved, (host, port)))
        return await asyncio.shield(resolving)

    def _on_resolved(self, name: tuple[str, int], done: Future[list[AddrInfoType]]) -> None:
        del self._resolving[name]
        if not done.cancelled():
            done.exception()  # every waiter may have left


class _Attempt(asyncio.Protocol):
    """One attempt to connect, and the protocol of its transport until ALPN has chosen another.

    Attributes:
        step: what is being done; empty once the connection is open.
    """

    step = "connecting"
    connection: SocketConnection
    _transport: asyncio.Transport | None = None

    def __init__(self, make: Callable[[ssl.SSLObject | None], SocketConnection]) -> None:
        self._make = make

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it
        self.connection = self._make(transport.get_extra_info("ssl_object"))
        self._transport.set_protocol(self.connection)
        self.connection.connection_made(transport)  # in the same step, so no byte is missed

    def abort(self) -> None:
        """Close the transport, where there is one."""
        if self._transport is not None:
            self._transport.abort()


def _look_up(host: str, port: int, flags: int = 0) -> list[AddrInfoType]:
    return [*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)]


def _describe(error: Exception) -> str:
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
        case _:
            return str(error) or type(error).__name__
