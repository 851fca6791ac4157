import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from benchmarks.clients.httpx_transport import HTTP2Transport
from hyperframe.frame import GoAwayFrame, SettingsFrame
from support.h2_peer import Peer, Received, Server, by_path, client_context, echo, serving
from support.silent_server import Silent, listening


@asynccontextmanager
async def client_of(server: Server, **options: float) -> AsyncIterator[httpx.AsyncClient]:
    transport = HTTP2Transport(ssl_context=client_context(), **options)
    async with httpx.AsyncClient(transport=transport, base_url=str(server.url), timeout=30) as client:
        yield client


async def test_a_post_of_httpx_is_carried_and_gets_a_response() -> None:
    async with serving() as server, client_of(server) as client:
        response = await client.post("/q", params={"a": "b"}, content=b"body", headers={"App-Key": "k"})
        assert response.content == b"/q?a=b body"
        assert response.http_version == "HTTP/2"
        assert server.peer.requests[0].headers["app-key"] == "k"


async def test_many_callers_share_one_connection() -> None:
    settings: dict[int, int] = {SettingsFrame.MAX_CONCURRENT_STREAMS: 3}
    async with serving(settings=settings) as server, client_of(server) as client:
        responses = await asyncio.gather(*(client.post("/q") for _ in range(30)))
        assert {response.status_code for response in responses} == {200}
        assert len(server.peers) == 1


async def test_a_connection_is_replaced_after_its_requests_and_none_fails() -> None:
    async with serving() as server, client_of(server, requests_per_connection=10) as client:
        for _ in range(10):
            responses = await asyncio.gather(*(client.post("/q") for _ in range(5)))
            assert {response.status_code for response in responses} == {200}
        assert len(server.peers) == 5


async def test_requests_that_a_goaway_gave_back_are_sent_again() -> None:
    def limited(peer: Peer, request: Received) -> None:
        if request.stream_id > 19:
            return
        echo(peer, request)
        if request.stream_id == 19:
            peer.write(GoAwayFrame(last_stream_id=19))

    async with serving(limited) as server, client_of(server) as client:
        responses = await asyncio.gather(*(client.post("/q") for _ in range(55)))
        assert {response.status_code for response in responses} == {200}
        assert len(server.peers) == 6


async def test_a_connection_that_was_closed_while_idle_costs_no_request() -> None:
    async with serving() as server, client_of(server) as client:
        await client.post("/q")
        server.peer.transport.close()
        await server.peer.lost.wait()
        responses = await asyncio.gather(*(client.post("/q") for _ in range(20)))
        assert {response.status_code for response in responses} == {200}
        assert len(server.peers) == 2


async def test_failures_become_errors_of_httpx() -> None:
    def odd(peer: Peer, request: Received) -> None:
        if request.headers[":path"] == "/broken":
            peer.respond(request.stream_id, status="2x0")

    async with serving(odd) as server, client_of(server) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="is no number"):
            await client.post("/broken")
        with pytest.raises(httpx.ReadTimeout, match="no response within"):
            await client.post("/hang", timeout=httpx.Timeout(10, read=0.05))
        with pytest.raises(httpx.UnsupportedProtocol):
            await client.get("/q")


async def test_callers_share_the_failure_of_a_connect_that_hangs() -> None:
    protocol = Silent()
    async with (
        listening(protocol) as url,
        httpx.AsyncClient(transport=HTTP2Transport(ssl_context=client_context())) as client,
    ):
        target = f"https://{url.authority}"
        posts = [client.post(target, timeout=httpx.Timeout(30, connect=1)) for _ in range(20)]
        async with asyncio.timeout(15):  # in turn they would take 20 s
            outcomes = await asyncio.gather(*posts, return_exceptions=True)
        assert all(isinstance(outcome, httpx.ConnectTimeout) for outcome in outcomes)


async def test_a_connect_that_is_refused_is_a_connect_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with httpx.AsyncClient(transport=HTTP2Transport(ssl_context=client_context())) as client:
        with pytest.raises(httpx.ConnectError, match="refused"):
            await client.post(f"https://127.0.0.1:{port}/q")


async def test_another_origin_gets_a_connection_of_its_own() -> None:
    async with serving() as first, serving() as second, client_of(first) as client:
        assert (await client.post("/q")).status_code == 200
        assert (await client.post(f"{second.url}/q")).status_code == 200
        await first.peer.lost.wait()


async def test_closing_while_a_connect_is_under_way_leaves_nothing_open() -> None:
    protocol = Silent()
    async with listening(protocol) as url:
        transport = HTTP2Transport(ssl_context=client_context())
        request = httpx.Request("POST", f"https://{url.authority}/q")
        waiting = asyncio.create_task(transport.handle_async_request(request))
        await protocol.made.wait()
        await transport.aclose()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await protocol.lost.wait()


async def test_a_caller_that_is_cancelled_leaves_the_others_their_connection() -> None:
    async with serving(by_path) as server, client_of(server) as client:
        first, second = (asyncio.create_task(client.post("/q")) for _ in range(2))
        await server.connected.wait()
        first.cancel()
        assert (await second).status_code == 200
        assert first.cancelled()
