"""A tunnel through an HTTP proxy: CONNECT; RFC 9110, section 9.3.6."""

import asyncio
import socket
from typing import Final

import h11

from rongcloud_groups._http import Origin, Proxy
from rongcloud_groups.errors import TransportError

_READ_SIZE: Final = 16 * 1024
_MAX_EVENTS: Final = 64
_UNAUTHORIZED: Final = (401, 407)  # tinyproxy refuses a wrong password with the first


async def open_tunnel(connected: socket.socket, origin: Origin, proxy: Proxy) -> None:
    """Have the proxy, which the socket is connected to, connect to an origin.

    Raises:
        TransportError: the proxy refused; the message says why.
        h11.RemoteProtocolError: it is no HTTP proxy.
        OSError: the socket failed.
    """
    loop = asyncio.get_running_loop()
    http = h11.Connection(h11.CLIENT)
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    target = f"{host}:{origin.port}"
    await loop.sock_sendall(connected, _request(http, target, proxy))
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


def _request(http: h11.Connection, target: str, proxy: Proxy) -> bytes:
    """The request as bytes; apart from the exchange, so that no traceback of that shows the password."""
    request = h11.Request(method="CONNECT", target=target, headers=[("host", target), *proxy.headers])
    return (http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b"")
