import asyncio
import socket
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.h2_peer import QUERY

from rongcloud_groups._http import Origin, Response
from rongcloud_groups._transport.http1 import HTTP1Connection
from rongcloud_groups.errors import TransportError

lines = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 103 Early Hints\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n",
        b"HTTP/1.1 204 No Content\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/2 200\r\n",
        b"HTTP/1.1 99999 X\r\n",
        b"Content-Length: 3\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 3, 3\r\n",
        b"Content-Length: %s\r\n" % (b"9" * 5_000),
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Connection: close\r\n",
        b"Connection: upgrade\r\nUpgrade: h2c\r\n",
        b" folded\r\n",
        b"X\x00Y: \xff\r\n",
        b"X : y\r\n",
        b"\r\n",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"fffffffffffffffffffffff\r\n",
        b"3;extension\r\n",
        b"abc",
        b"\n\n",
    ]
)


@settings(max_examples=300)
@given(parts=st.lists(lines | st.binary(max_size=8), max_size=10), whole=st.booleans())
def test_whatever_a_server_sends_the_request_has_an_outcome(parts: list[bytes], whole: bool) -> None:  # noqa: FBT001  a parameter
    asyncio.run(_send_and_receive(parts, whole=whole))


async def _send_and_receive(parts: list[bytes], *, whole: bool) -> None:
    problems: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, problem: problems.append(problem))
    ours, theirs = socket.socketpair()
    with theirs:
        origin = Origin.parse("http://localhost")
        _, connection = await loop.create_connection(lambda: HTTP1Connection(origin, on_change=lambda: None), sock=ours)
        future = connection.send(QUERY, 5)
        with suppress(OSError):  # the client has closed
            for part in [b"".join(parts)] if whole else parts:
                theirs.sendall(part)
                await asyncio.sleep(0)
            theirs.shutdown(socket.SHUT_WR)
        (outcome,) = await asyncio.gather(future, return_exceptions=True)
        assert isinstance(outcome, Response | TransportError)
        await connection.aclose()
    assert connection.open_slots == connection.in_flight == 0
    assert problems == []
