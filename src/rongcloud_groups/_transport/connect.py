"""Opens one connection: name resolution, TCP, TLS, and the protocol that both sides speak."""

import asyncio
import ipaddress
import socket
import ssl
from asyncio import Future
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Self, cast

from aiohappyeyeballs import AddrInfoType, start_connection

from rongcloud_groups._http import Origin
from rongcloud_groups._transport.interface import CLOSE_TIMEOUT, Connection
from rongcloud_groups.errors import TransportError

if TYPE_CHECKING:
    from rongcloud_groups._transport.http1 import HTTP1Connection
    from rongcloud_groups._transport.http2.connection import HTTP2Connection

_ATTEMPT_DELAY: Final = 0.25
"""Seconds until the next address is tried beside one that has not answered; RFC 8305, section 8."""

_ALPN_EXTENSION: Final = b"\0\x10"

_alpn_lock = Lock()


class Dialler:
    """A `Connector` over TCP and TLS. ALPN chooses the protocol; without TLS it is HTTP/1.1.

    Args:
        verify: which certificates to trust; None for those that the system trusts, where ``SSL_CERT_FILE`` and
            ``SSL_CERT_DIR`` are honoured.
        http2: whether HTTP/2 is offered, before HTTP/1.1.
        timeout: seconds for TCP, TLS and the server's SETTINGS together.
        max_in_flight: how many requests may be open on a connection at once.
    """

    def __init__(self, *, verify: ssl.SSLContext | None, http2: bool, timeout: float, max_in_flight: int) -> None:
        self._verify = verify
        self._http2 = http2
        self._timeout = timeout
        self._max_in_flight = max_in_flight
        self._resolving: dict[tuple[str, int], Future[list[AddrInfoType]]] = {}

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """The TLS context, which offers the protocols by ALPN."""
        protocols = ["h2", "http/1.1"] if self._http2 else ["http/1.1"]
        if self._verify is not None:
            return _AlpnContext.of(self._verify, protocols)
        context = ssl.create_default_context()
        context.set_alpn_protocols(protocols)
        return context

    async def connect(self, origin: Origin, on_change: Callable[[], None]) -> Connection:
        """See `Connector.connect`."""
        _, host, port = origin
        attempt = _Attempt()
        protocol = _AlpnProtocol(origin, self._max_in_flight, self._timeout, on_change)
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                return await self._open(origin, protocol, attempt)
        except (OSError, RuntimeError, UnicodeError, TransportError) as error:
            cause = f"timed out after {self._timeout:g} s" if limit.expired() else f"failed: {_describe(error)}"
            failure = TransportError(f"{host}:{port}: {attempt.step} {cause}", never_processed=True)
            raise failure from error
        finally:
            if not attempt.succeeded:
                protocol.abort()

    async def _open(self, origin: Origin, protocol: "_AlpnProtocol", attempt: "_Attempt") -> Connection:
        loop = asyncio.get_running_loop()
        _, host, port = origin
        addresses = await self._resolve(host, port)
        attempt.step = "connecting"
        connected = await start_connection(addresses, happy_eyeballs_delay=_ATTEMPT_DELAY, interleave=1)
        if origin.scheme == "https":
            attempt.step = "TLS handshake"
            await loop.create_connection(
                lambda: protocol, sock=connected, ssl=self.tls, server_hostname=host, ssl_shutdown_timeout=CLOSE_TIMEOUT
            )
        else:
            await loop.create_connection(lambda: protocol, sock=connected)
        attempt.step = "HTTP/2 SETTINGS"
        await protocol.connection.wait_ready()
        attempt.succeeded = True
        return protocol.connection

    async def _resolve(self, host: str, port: int) -> list[AddrInfoType]:
        """The addresses of a host. A lookup that hangs holds one thread, however often it is waited for."""
        with suppress(ValueError):
            return [_address_info(host, port)]
        if (resolving := self._resolving.get((host, port))) is None:
            resolving = asyncio.get_running_loop().run_in_executor(None, _look_up, host, port)
            self._resolving[host, port] = resolving
            resolving.add_done_callback(lambda done: self._resolved(host, port, done))
        return await asyncio.shield(resolving)

    def _resolved(self, host: str, port: int, done: Future[list[AddrInfoType]]) -> None:
        del self._resolving[host, port]
        if not done.cancelled():
            done.exception()  # every waiter may have left


class _Attempt:
    step = "name resolution"
    succeeded = False


class _AlpnContext(ssl.SSLContext):
    """A caller's context that offers our protocols on our connections, and stays as it was for everything else."""

    _context: ssl.SSLContext
    _protocols: list[str]
    _own_protocols: list[str]

    @classmethod
    def of(cls, context: ssl.SSLContext, protocols: list[str]) -> Self:
        new = cls(ssl.PROTOCOL_TLS_CLIENT)
        new._context, new._protocols, new._own_protocols = context, protocols, _offered_by(context)
        return new

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        # OpenSSL copies the list to the connection when it is made, which is here.
        with _alpn_lock:
            self._context.set_alpn_protocols(self._protocols)
            try:
                return self._context.wrap_bio(*args, **options)
            finally:
                with suppress(MemoryError):  # OpenSSL 1.1.1 clears the list, and reports an error
                    self._context.set_alpn_protocols(self._own_protocols)


class _AlpnProtocol(asyncio.Protocol):
    """Chooses the protocol when the transport is up, and hands it over in the same step, so no byte is missed."""

    connection: "HTTP2Connection | HTTP1Connection"

    def __init__(self, origin: Origin, max_in_flight: int, timeout: float, on_change: Callable[[], None]) -> None:
        self._origin = origin
        self._max_in_flight = max_in_flight
        self._timeout = timeout
        self._on_change = on_change
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        protocol: asyncio.Protocol
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            from rongcloud_groups._transport.http2.connection import HTTP2Connection

            protocol = self.connection = HTTP2Connection(
                self._origin.authority,
                max_in_flight=self._max_in_flight,
                on_change=self._on_change,
                slot_timeout=self._timeout,
            )
        else:
            from rongcloud_groups._transport.http1 import HTTP1Connection

            protocol = self.connection = HTTP1Connection(self._origin, on_change=self._on_change)
        self._transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _offered_by(context: ssl.SSLContext) -> list[str]:
    """The protocols that a context offers, which it shows nowhere but in a ClientHello; RFC 8446, 4.1.2; RFC 7301."""
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="name.invalid").do_handshake()
    hello = outgoing.read()[43:]  # after record and message headers, version and random
    for length_size in (1, 2, 1):  # session ID, cipher suites, compression methods
        hello = hello[length_size + int.from_bytes(hello[:length_size]) :]
    hello = hello[2:]
    while hello and hello[:2] != _ALPN_EXTENSION:
        hello = hello[4 + int.from_bytes(hello[2:4]) :]
    names, protocols = hello[6 : 4 + int.from_bytes(hello[2:4])], list[str]()
    while names:
        protocols.append(names[1 : 1 + names[0]].decode("ascii"))
        names = names[1 + names[0] :]
    return protocols


def _look_up(host: str, port: int) -> list[AddrInfoType]:
    return [*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _address_info(host: str, port: int) -> AddrInfoType:
    """The address that a literal IP address stands for: it needs no resolver.

    Raises:
        ValueError: it is a name.
    """
    if ipaddress.ip_address(host).version == 6:  # noqa: PLR2004  IPv6
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))


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
