"""Opens one connection: TCP, TLS, and the protocol that both sides speak."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from rongcloud_groups._http import Origin
from rongcloud_groups._transport.http2.connection import CLOSE_TIMEOUT, HTTP2Connection
from rongcloud_groups.errors import TransportError

if TYPE_CHECKING:
    from rongcloud_groups._transport.http1 import HTTP1Connection

_ATTEMPT_DELAY: Final = 0.25
"""Seconds until the next address is tried beside one that has not answered; RFC 8305, section 8."""

_Address = tuple[int, int, int, str, tuple[Any, ...]]


def tls_context(verify: ssl.SSLContext | None, *, http2: bool) -> ssl.SSLContext:
    """The TLS context for `connect`, with ALPN set.

    Args:
        verify: the caller's context, which is changed in place; None for one that trusts what the system trusts,
            where ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` are honoured.
        http2: whether HTTP/2 is offered, before HTTP/1.1.
    """
    context = ssl.create_default_context() if verify is None else verify
    context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    return context


async def connect(
    origin: Origin,
    *,
    ssl_context: ssl.SSLContext | None,
    http2: bool,
    timeout: float,
    max_in_flight: int,
    on_change: Callable[[], None],
) -> "HTTP2Connection | HTTP1Connection":
    """Opens a connection that is ready for requests, in the protocol that ALPN chose; without TLS, HTTP/1.1.

    Args:
        origin: where to.
        ssl_context: from `tls_context`; None makes one for this connection.
        http2: whether HTTP/2 is offered by a context that is made here.
        timeout: seconds for TCP, TLS and the server's SETTINGS together.
        max_in_flight: how many requests may be open at once.
        on_change: called when the connection's `open_slots` may have grown, and when it is retired or closed.

    Raises:
        TransportError: when it fails; the message says where and why. Nothing was sent, so it is
            `never_processed`.
    """
    loop = asyncio.get_running_loop()
    _, host, port = origin
    entry = _Entry(origin, max_in_flight, timeout, on_change)
    ready = False
    step = "name resolution"
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            step = "connecting"
            connected = await _first_connected(addresses)
            if origin.scheme == "https":
                step = "TLS handshake"
                await loop.create_connection(
                    lambda: entry,
                    sock=connected,
                    ssl=ssl_context or tls_context(None, http2=http2),
                    server_hostname=host,
                    ssl_shutdown_timeout=CLOSE_TIMEOUT,
                )
            else:
                await loop.create_connection(lambda: entry, sock=connected)
            if isinstance(entry.connection, HTTP2Connection):
                step = "HTTP/2 SETTINGS"
                await entry.connection.wait_ready()
            ready = True
            return entry.connection
    except (OSError, UnicodeError, TransportError) as error:
        cause = f"timed out after {timeout:g} s" if limit.expired() else f"failed: {_reason(error)}"
        failure = TransportError(f"{host}:{port}: {step} {cause}", never_processed=True)
        raise failure from error
    finally:
        if not ready:
            entry.abort()


class _Entry(asyncio.Protocol):
    """Chooses the protocol when the transport is up, and hands it over in the same step, so no byte is missed."""

    connection: "HTTP2Connection | HTTP1Connection"

    def __init__(self, origin: Origin, max_in_flight: int, timeout: float, on_change: Callable[[], None]) -> None:
        self._origin = origin
        self._max_in_flight = max_in_flight
        self._timeout = timeout
        self._on_change = on_change
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        protocol: asyncio.Protocol
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            protocol = self.connection = HTTP2Connection(
                self._origin.authority,
                max_in_flight=self._max_in_flight,
                on_change=self._on_change,
                slot_timeout=self._timeout,
            )
        else:
            from rongcloud_groups._transport.http1 import HTTP1Connection  # brings httpcore, which HTTP/2 does without

            self.connection = HTTP1Connection(self._origin, on_change=self._on_change)
            protocol = self.connection.protocol
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def _first_connected(addresses: Sequence[_Address]) -> socket.socket:
    """Tries the addresses, staggered, and returns the first socket that connects.

    `asyncio` can do this by itself, but leaves a socket open when it is cancelled just as that one connects.
    """
    loop = asyncio.get_running_loop()
    attempts: list[asyncio.Task[socket.socket]] = []
    winner: asyncio.Task[socket.socket] | None = None
    try:
        while winner is None:
            if len(attempts) < len(addresses):
                attempts.append(loop.create_task(_connected(addresses[len(attempts)])))
            elif all(attempt.done() for attempt in attempts):
                return await attempts[-1]
            if still_open := [attempt for attempt in attempts if not attempt.done()]:
                delay = _ATTEMPT_DELAY if len(attempts) < len(addresses) else None
                await asyncio.wait(still_open, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
            ended = [attempt for attempt in attempts if attempt.done()]
            winner = next((attempt for attempt in ended if attempt.exception() is None), None)
        return winner.result()
    finally:
        for attempt in attempts:
            # One that is cancelled closes its socket itself.
            if not attempt.cancel() and attempt is not winner and attempt.exception() is None:
                attempt.result().close()


async def _connected(address: _Address) -> socket.socket:
    family, kind, protocol, _, where = address
    connecting = socket.socket(family, kind, protocol)
    try:
        connecting.settimeout(0)
        await asyncio.get_running_loop().sock_connect(connecting, where)
    except BaseException:
        connecting.close()
        raise
    return connecting


def _reason(error: Exception) -> str:
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
