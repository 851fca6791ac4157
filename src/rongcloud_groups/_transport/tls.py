"""The TLS context of connections, which offers the protocols of HTTP by ALPN."""

import ssl
from contextlib import suppress
from threading import Lock
from typing import Any, Final, Self

_ALPN_EXTENSION: Final = b"\0\x10"

_lock = Lock()


def tls_context(verify: ssl.SSLContext | None, protocols: list[str]) -> ssl.SSLContext:
    """A context that offers protocols by ALPN, the preferred first.

    It is made of the caller's, which is not changed, or trusts the system's certificates where that is None.
    """
    if verify is not None:
        return _AlpnContext(verify, protocols)
    context = ssl.create_default_context()
    context.set_alpn_protocols(protocols)
    return context


class _AlpnContext(ssl.SSLContext):
    """A caller's context that offers our protocols on our connections, and stays as it was for everything else."""

    def __new__(cls, _context: ssl.SSLContext, _protocols: list[str]) -> Self:
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, context: ssl.SSLContext, protocols: list[str]) -> None:
        self._context = context
        self._protocols = protocols
        self._own_protocols = _offered_by(context)

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        # OpenSSL copies the list to the connection when it is made, which is here.
        with _lock:
            self._context.set_alpn_protocols(self._protocols)
            try:
                return self._context.wrap_bio(*args, **options)
            finally:
                with suppress(MemoryError):  # OpenSSL 1.1.1 clears the list, and reports an error
                    self._context.set_alpn_protocols(self._own_protocols)


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
