import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from support.h2_peer import QUERY, opened, server_context

from rongcloud_groups._http import Origin, Request, Response
from rongcloud_groups._transport import response as http_response
from rongcloud_groups._transport.http1 import HTTP1Connection
from rongcloud_groups.errors import TransportError

Handler = Callable[["Server", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """An HTTP/1.1 server whose handler says for each connection what happens on it."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.url = Origin("http", "localhost", 0)
        self.requests: list[tuple[str, bytes]] = []
        self.received = asyncio.Event()
        self.go = asyncio.Event()
        self.ended = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            await self.handler(self, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.ended.set()

    async def request(self, reader: asyncio.StreamReader) -> tuple[str, bytes]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = await reader.readexactly(int(fields["content-length"]))
        self.requests.append((head, body))
        self.received.set()
        return head, body


@asynccontextmanager
async def serving(handler: Handler, *, tls: bool = True) -> AsyncIterator[Server]:
    server = Server(handler)
    context = server_context("http/1.1") if tls else None
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    server.url = Origin.parse(f"http{'s' if tls else ''}://localhost:{listener.sockets[0].getsockname()[1]}")
    try:
        yield server
    finally:
        listener.close()
        for writer in server.writers:
            writer.transport.abort()
        if server.writers:
            await server.ended.wait()
        await listener.wait_closed()


@asynccontextmanager
async def connected(server: Server, on_change: Callable[[], None] = lambda: None) -> AsyncIterator[HTTP1Connection]:
    connection = await opened(server.url, on_change)
    assert isinstance(connection, HTTP1Connection)
    try:
        yield connection
    finally:
        await connection.aclose()


def respond(body: bytes, head: str = "HTTP/1.1 200 OK", *fields: str) -> bytes:
    lines = [head, f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


async def echo(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        _, body = await server.request(reader)
        writer.write(respond(body, "HTTP/1.1 200 OK", "X-A: 1", "x-a: 2"))


async def hang(server: Server, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await server.request(reader)
    await reader.read()


def saying(data: bytes) -> Handler:
    async def handler(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(data)

    return handler


@pytest.mark.parametrize("tls", [True, False])
async def test_one_connection_carries_requests_one_after_the_other(tls: bool) -> None:  # noqa: FBT001  a parameter
    async with serving(echo, tls=tls) as server, connected(server) as connection:
        assert connection.http_version == "HTTP/1.1"
        for number in range(3):
            response = await connection.send(Request("/q?x=1", [("app-key", "k")], b"%d" % number), 5)
            assert response == Response(200, {"content-length": "1", "x-a": "2"}, b"%d" % number)
        assert connection.sent == 3
        assert len(server.writers) == 1
        head = server.requests[0][0]
        lines = head.lower().split("\r\n")
        assert lines[0] == "post /q?x=1 http/1.1"
        assert f"host: localhost:{server.url.port}" in lines
        assert "app-key: k" in lines
        assert "content-length: 1" in lines


async def test_there_is_one_slot_and_none_while_a_request_is_open() -> None:
    async with serving(hang) as server, connected(server) as connection:
        assert connection.open_slots == 1
        first = connection.send(QUERY, 30)
        assert connection.open_slots == 0
        assert connection.in_flight == 1
        assert "1 in flight" in repr(connection)
        with pytest.raises(TransportError, match="a request is open") as refused:
            await connection.send(QUERY, 30)
        assert refused.value.never_processed
        first.cancel()


async def test_on_change_is_called_when_the_slot_is_free_again() -> None:
    changed = asyncio.Event()
    async with serving(echo) as server, connected(server, changed.set) as connection:
        future = connection.send(QUERY, 5)
        await changed.wait()
        assert connection.open_slots == 1
        assert (await future).status == 200


async def test_a_request_that_times_out_closes_the_connection() -> None:
    async with serving(hang) as server, connected(server) as connection:
        with pytest.raises(TransportError, match=f"no response within 0.05 s from localhost:{server.url.port}") as late:
            await connection.send(QUERY, 0.05)
        assert not late.value.never_processed
        assert isinstance(late.value.__cause__, TimeoutError)
        assert connection.closed
        await server.ended.wait()


@pytest.mark.parametrize("begun", [True, False])
async def test_a_cancelled_request_closes_the_connection(begun: bool) -> None:  # noqa: FBT001  a parameter
    async with serving(hang) as server, connected(server) as connection:
        future = connection.send(QUERY, 30)
        if begun:
            await server.received.wait()
        future.cancel()
        await server.ended.wait()
        assert connection.closed
        assert connection.open_slots == connection.in_flight == 0
        assert connection.closed_reason == "request cancelled"


async def test_connection_close_closes_it_after_the_response() -> None:
    async with (
        serving(saying(respond(b"bye", "HTTP/1.1 200 OK", "Connection: close"))) as server,
        connected(server) as connection,
    ):
        assert (await connection.send(QUERY, 5)).body == b"bye"
        assert connection.closed
        with pytest.raises(TransportError, match="closed by the server after its response"):
            await connection.send(QUERY, 5)


async def test_a_response_that_ends_with_the_connection_is_whole() -> None:
    async with serving(saying(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")) as server, connected(server) as connection:
        assert (await connection.send(QUERY, 5)).body == b"until the end"
        assert connection.closed


async def test_a_response_followed_by_a_close_is_a_response() -> None:
    async with serving(saying(respond(b"last"))) as server, connected(server) as connection:
        assert (await connection.send(QUERY, 5)).body == b"last"
        await server.ended.wait()


async def test_an_idle_close_is_noticed_before_the_next_request() -> None:
    changed = asyncio.Event()
    async with serving(echo) as server, connected(server, changed.set) as connection:
        await connection.send(QUERY, 5)
        changed.clear()
        server.writers[0].close()
        await changed.wait()
        assert connection.closed
        assert connection.closed_reason == "closed by the server"


async def test_an_idle_connection_that_is_reset_is_noticed() -> None:
    changed = asyncio.Event()
    async with serving(echo, tls=False) as server, connected(server, changed.set) as connection:
        await connection.send(QUERY, 5)
        changed.clear()
        server.writers[0].transport.abort()
        await changed.wait()
        assert connection.closed


async def test_bytes_without_a_request_close_the_connection() -> None:
    changed = asyncio.Event()
    async with serving(echo) as server, connected(server, changed.set) as connection:
        await connection.send(QUERY, 5)
        changed.clear()
        server.writers[0].write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        await changed.wait()
        assert connection.closed_reason == "the server spoke unasked"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "disconnected without sending a response"),
        (b"garbage\r\n\r\n", "illegal status line"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort",
            "closed connection|incomplete|without sending complete",
        ),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n", "more than 64 KiB"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 200_000, "buffer too long"),
    ],
)
async def test_a_response_that_is_none_is_a_transport_error(data: bytes, text: str) -> None:
    async with serving(saying(data)) as server, connected(server) as connection:
        with pytest.raises(TransportError, match=text) as failed:
            await connection.send(QUERY, 5)
        assert not failed.value.never_processed
        assert connection.closed


async def test_a_body_over_the_cap_is_a_transport_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_response, "MAX_BODY_SIZE", 1_000)
    async with serving(echo) as server, connected(server) as connection:
        assert len((await connection.send(QUERY._replace(body=b"x" * 1_000), 5)).body) == 1_000
        with pytest.raises(TransportError, match="a body of more than"):
            await connection.send(QUERY._replace(body=b"x" * 1_001), 5)


async def test_a_response_before_the_whole_request_was_read_is_a_response() -> None:
    async def refuse(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(respond(b"too large", "HTTP/1.1 413 Content Too Large", "Connection: close"))
        await server.go.wait()

    async with serving(refuse, tls=False) as server, connected(server) as connection:
        future = connection.send(QUERY._replace(body=b"x" * 100_000), 5)
        response = await future
        assert (response.status, response.body) == (413, b"too large")
        server.go.set()


async def test_a_write_that_fails_is_a_transport_error() -> None:
    async def leave(_server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async with serving(leave, tls=False) as server, connected(server) as connection:
        with pytest.raises(TransportError):
            await connection.send(QUERY._replace(body=b"x" * 20_000_000), 5)
        assert connection.closed


async def test_a_retired_connection_finishes_and_closes() -> None:
    async def wait(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        await server.go.wait()
        writer.write(respond(b"done"))
        await reader.read()

    async with serving(wait) as server, connected(server) as connection:
        future = connection.send(QUERY, 5)
        connection.retire("used up")
        connection.retire("used up")
        assert connection.open_slots == 0
        assert not connection.closed
        server.go.set()
        assert (await future).body == b"done"
        assert connection.closed
        assert connection.closed_reason == "used up"
        await server.ended.wait()


async def test_an_idle_connection_that_is_retired_closes_at_once() -> None:
    async with serving(echo) as server, connected(server) as connection:
        connection.retire("used up")
        assert connection.closed
        await server.ended.wait()


async def test_aclose_ends_the_open_request_and_may_be_repeated() -> None:
    async with serving(hang) as server, connected(server) as connection:
        future = connection.send(QUERY, 30)
        await server.received.wait()
        await connection.aclose()
        await connection.aclose()
        with pytest.raises(TransportError, match="closed here"):
            await future
        await server.ended.wait()


async def test_a_server_that_speaks_before_it_is_asked_is_left() -> None:
    async def hasty(_server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(respond(b"hello"))
        await reader.read()

    changed = asyncio.Event()
    async with serving(hasty, tls=False) as server:
        connection = await opened(server.url, on_change=changed.set)
        await changed.wait()
        assert connection.closed
        await connection.aclose()


SURPLUS = respond(b"surplus")


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("surplus", [SURPLUS, SURPLUS[:20], b"\r\n", b"x"])
async def test_a_surplus_response_is_never_taken_for_the_next_one(surplus: bytes, tls: bool) -> None:  # noqa: FBT001  a parameter
    async with serving(saying(respond(b"mine") + surplus), tls=tls) as server, connected(server) as connection:
        assert (await connection.send(QUERY, 5)).body == b"mine"
        assert connection.closed
        with pytest.raises(TransportError, match="the server sent more than its response") as refused:
            await connection.send(QUERY, 5)
        assert refused.value.never_processed


async def test_a_surplus_response_still_in_the_socket_is_never_taken_for_the_next_one() -> None:
    async def flood(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(respond(b"mine") + SURPLUS * 40_000)
        await server.go.wait()

    async with serving(flood, tls=False) as server, connected(server) as connection:
        assert (await connection.send(QUERY, 5)).body == b"mine"
        assert connection.open_slots == 0
        server.go.set()


@pytest.mark.parametrize("tls", [True, False])
async def test_a_surplus_response_before_the_next_request_is_sent_ends_the_connection(tls: bool) -> None:  # noqa: FBT001
    writers: list[asyncio.StreamWriter] = []

    async def late(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(respond(b"mine"))
        writers.append(writer)
        await server.go.wait()

    async with serving(late, tls=tls) as server, connected(server) as connection:
        assert (await connection.send(QUERY, 5)).body == b"mine"
        writers[0].write(SURPLUS)  # the event loop reads it after the next line
        with pytest.raises(TransportError, match="the server spoke unasked") as refused:
            await connection.send(QUERY, 5)
        assert refused.value.never_processed
        server.go.set()


async def test_a_response_before_the_whole_request_was_sent_ends_the_connection() -> None:
    async def hasty(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(respond(b"early"))
        await server.go.wait()

    async with serving(hasty, tls=False) as server, connected(server) as connection:
        assert (await connection.send(QUERY._replace(body=b"x" * 20_000_000), 5)).body == b"early"
        assert connection.closed
        server.go.set()


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "both Transfer-Encoding and"),
        (b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "conflicting Content-Length"),
        (b"Transfer-Encoding: gzip\r\n\r\nabc", "Only Transfer-Encoding: chunked is supported"),
        (b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 2_000, "a body in chunks of a few bytes"),
    ],
)
async def test_a_response_whose_length_is_in_doubt_is_refused(head: bytes, text: str) -> None:
    async with serving(saying(b"HTTP/1.1 200 OK\r\n" + head)) as server, connected(server) as connection:
        with pytest.raises(TransportError, match=text):
            await connection.send(QUERY, 5)
        assert connection.closed


async def test_a_chunked_response_is_put_together() -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (b"a" * 300, b"b" * 5))
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    async with serving(saying(data)) as server, connected(server) as connection:
        assert (await connection.send(QUERY, 5)).body == b"a" * 300 + b"b" * 5


async def test_an_early_hint_is_no_response_and_a_flood_of_them_ends_the_connection() -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    async with serving(saying(hint + respond(b"final"))) as server, connected(server) as connection:
        assert (await connection.send(QUERY, 5)).body == b"final"
    async with serving(saying(hint * 1_000)) as server, connected(server) as connection:
        with pytest.raises(TransportError, match="more than 16 informational responses"):
            await connection.send(QUERY, 5)


async def test_a_request_that_no_server_could_take_is_a_transport_error() -> None:
    async with serving(hang) as server, connected(server) as connection:
        with pytest.raises(TransportError, match="request refused by h11"):
            await connection.send(Request("/q q", [], b""), 5)
        assert connection.closed
