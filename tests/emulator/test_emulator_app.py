import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import trustme
from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.typing import Framework
from support.service_requests import V1_BATCH, form, signed

from rongcloud_groups.emulator import Faults, Service, Universe, asgi_app

EVERY = Universe(unknown_share=0)


async def ask(client: httpx.AsyncClient, *group_ids: str) -> httpx.Response:
    return await client.post(V1_BATCH, content=form(group_ids), headers=signed())


async def test_the_app_answers_under_httpx() -> None:
    app = asgi_app(Service(universe=EVERY, limit=2, latency=0.001))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://emulator") as client:
        replies = [await ask(client, "a", "b") for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert [profile["groupId"] for profile in replies[0].json()["profiles"]] == ["a", "b"]
    assert replies[0].headers["content-length"] == str(len(replies[0].content))


async def test_a_hung_request_ends_when_the_client_gives_up() -> None:
    app = asgi_app(Service(faults=Faults(at={1: "hang"})))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://emulator") as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ask(client, "a")
        assert (await ask(client, "a")).status_code == 200


async def test_a_client_that_leaves_before_its_request_is_whole_asks_nothing() -> None:
    service = Service()
    sent: list[Any] = []
    messages: Iterator[MutableMapping[str, Any]] = iter(
        [{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> MutableMapping[str, Any]:
        return next(messages)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await asgi_app(service)({"type": "http", "headers": []}, receive, send)
    assert not sent
    assert not service.answered


async def test_a_hung_request_ends_when_the_server_says_that_the_client_left() -> None:
    messages: Iterator[MutableMapping[str, Any]] = iter(
        [{"type": "http.request", "body": form(["a"])}, {"type": "http.disconnect"}]
    )

    async def receive() -> MutableMapping[str, Any]:
        return next(messages)

    async def send(message: MutableMapping[str, Any]) -> None:
        raise AssertionError(message)

    headers = [(name.encode(), value.encode()) for name, value in signed().items()]
    scope = {"type": "http", "method": "POST", "path": V1_BATCH, "headers": headers}
    await asgi_app(Service(faults=Faults(at={1: "hang"})))(scope, receive, send)
    assert next(messages, None) is None


async def test_other_kinds_of_connection_are_none_of_its_business() -> None:
    async def never(*_: object) -> Any:
        raise AssertionError

    await asgi_app(Service())({"type": "websocket"}, never, never)


@asynccontextmanager
async def hypercorn(service: Service, directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(directory / "server.pem"))
    config = Config()
    config.certfile = config.keyfile = str(directory / "server.pem")
    config.errorlog = None
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config.bind = [f"fd://{listener.detach()}"]
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(cast("Framework", asgi_app(service)), config, shutdown_trigger=stop.wait))
    trust = httpx.create_ssl_context(verify=False)
    authority.configure_trust(trust)
    try:
        async with httpx.AsyncClient(http2=True, verify=trust, base_url=f"https://127.0.0.1:{port}") as client:
            yield client
    finally:
        stop.set()
        await serving


async def test_the_app_answers_under_a_real_server_over_http2(tmp_path: Path) -> None:
    async with hypercorn(Service(universe=EVERY), tmp_path) as client:
        replies = await asyncio.gather(*(ask(client, f"x{number}") for number in range(20)))
    assert {reply.http_version for reply in replies} == {"HTTP/2"}
    assert [reply.json()["profiles"][0]["groupId"] for reply in replies] == [f"x{number}" for number in range(20)]
