import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypercorn.asyncio import serve
from hypercorn.config import Config, Sockets
from support.h2_peer import QUERY, authority, opened

from rongcloud_groups._http import Origin

Message = MutableMapping[str, Any]


async def echo(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    if scope["type"] != "http":
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-path", scope["path"].encode())]})
    await send({"type": "http.response.body", "body": body * 2})


@asynccontextmanager
async def hypercorn(path: Path, alpn: str) -> AsyncIterator[Origin]:
    certificate = authority().issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(path / "server.pem"))
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.certfile = config.keyfile = str(path / "server.pem")
    config.alpn_protocols = [alpn]
    config.accesslog = config.errorlog = None
    sockets: Sockets = config.create_sockets()
    config.create_sockets = lambda: sockets  # type: ignore[method-assign]
    stop = asyncio.Event()
    running = asyncio.create_task(serve(echo, config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
    for listener in sockets.secure_sockets:
        listener.listen()
    try:
        yield Origin.parse(f"https://localhost:{sockets.secure_sockets[0].getsockname()[1]}")
    finally:
        stop.set()
        await running


@pytest.mark.parametrize(("alpn", "version"), [("h2", "HTTP/2"), ("http/1.1", "HTTP/1.1")])
async def test_hypercorn_is_understood(alpn: str, version: str, tmp_path: Path) -> None:
    async with hypercorn(tmp_path, alpn) as url:
        connection = await opened(url)
        assert connection.http_version == version
        for size in (10, 200_000):
            response = await connection.send(QUERY._replace(body=b"x" * size), 10)
            assert response.status == 200
            assert response.headers["x-path"] == "/q"
            assert response.body == b"x" * size * 2
        await connection.aclose()
