"""Opens one connection: TCP, TLS, and the protocol that both sides speak."""

import asyncio
import ssl
from collections.abc import Callable
from socket import gaierror
from typing import Final

import httpx

from rongcloud_groups.errors import TransportError
from rongcloud_groups.http1 import HTTP1Connection
from rongcloud_groups.http2 import CLOSE_TIMEOUT, HTTP2Connection

_HAPPY_EYEBALLS_DELAY: Final = 0.25  # RFC 8305, section 8


def tls_context(verify: ssl.SSLContext | None, *, http2: bool) -> ssl.SSLContext:
    """The TLS context for `connect`, with ALPN set.

    Args:
        verify: the caller's context, which is changed in place; None for httpx's default one, which honours
            ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``.
        http2: whether HTTP/2 is offered, before HTTP/1.1.
    """
    context = httpx.create_ssl_context() if verify is None else verify
    context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    return context


async def connect(
    origin: httpx.URL,
    *,
    ssl_context: ssl.SSLContext | None,
    http2: bool,
    timeout: float,  # noqa: ASYNC109  the error says which step took the time
    max_in_flight: int,
    on_change: Callable[[], None],
) -> HTTP2Connection | HTTP1Connection:
    """Opens a connection that is ready for requests, in the protocol that ALPN chose; without TLS, HTTP/1.1.

    Args:
        origin: scheme, host and port; the rest of the URL is ignored.
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
    host = origin.raw_host.decode("ascii")
    port = origin.port or (443 if origin.scheme == "https" else 80)
    transport: asyncio.Transport | None = None
    ready = False
    step = "connecting"
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            transport, entry = await loop.create_connection(
                _Entry, host, port, happy_eyeballs_delay=_HAPPY_EYEBALLS_DELAY
            )
            if origin.scheme == "https":
                step = "TLS handshake"
                context = ssl_context or tls_context(None, http2=http2)
                transport = await _start_tls(transport, entry, context, host)
            connection: HTTP2Connection | HTTP1Connection
            if _alpn(transport) == "h2":
                step = "HTTP/2 SETTINGS"
                authority = origin.netloc.decode("ascii")
                connection = HTTP2Connection(authority, max_in_flight=max_in_flight, on_change=on_change)
                entry.hand_over(transport, connection)
                await connection.wait_ready()
            else:
                step = "HTTP/1.1"
                connection = HTTP1Connection(origin, on_change=on_change)
                entry.hand_over(transport, connection.protocol)
            ready = True
            return connection
    except (OSError, UnicodeError, TransportError) as error:
        cause = f"timed out after {timeout:g} s" if limit.expired() else f"failed: {_reason(error)}"
        failure = TransportError(f"{host}:{port}: {step} {cause}", never_processed=True)
        raise failure from error
    finally:
        if transport is not None and not ready:
            transport.abort()


class _Entry(asyncio.Protocol):
    """Keeps what the server says before it is settled which protocol it speaks."""

    def __init__(self) -> None:
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data

    def hand_over(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        if transport.is_closing():
            raise ConnectionResetError("closed by the server")
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._received:
            protocol.data_received(self._received)


async def _start_tls(
    transport: asyncio.Transport, entry: _Entry, context: ssl.SSLContext, host: str
) -> asyncio.Transport:
    tls_transport = await asyncio.get_running_loop().start_tls(
        transport, entry, context, server_hostname=host, ssl_shutdown_timeout=CLOSE_TIMEOUT
    )
    if tls_transport is None:
        raise ConnectionResetError("closed by the server")
    return tls_transport


def _alpn(transport: asyncio.Transport) -> str | None:
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    return tls.selected_alpn_protocol() if tls is not None else None


def _reason(error: Exception) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"certificate not trusted: {error.verify_message}"
        case ssl.SSLError():
            return error.reason or str(error)
        case gaierror():
            return f"name not resolved: {error.strerror}"
        case ConnectionRefusedError():
            return "connection refused"
        case UnicodeError():
            return f"not a host name: {error}"
        case _:
            return str(error) or type(error).__name__
