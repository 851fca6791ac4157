"""The service as an ASGI application, for `httpx.ASGITransport` and ASGI servers."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio

from rongcloud_groups.emulator.service import Service

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def asgi_app(service: Service) -> ASGIApp:
    """Make an ASGI application of a service.

    Of the faults of the connection it plays ``hang`` alone: the others need the connection itself,
    which an ASGI server keeps to itself.
    """

    async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            await _answer(service, scope, receive, send)

    return app


async def _live(receive: Receive, send: Send) -> None:
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})


async def _answer(service: Service, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    arrived = time.monotonic()
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    answer = service.answer(scope["method"], scope["path"], headers, bytes(body), arrived)
    if answer.fault == "hang":
        await receive()  # the client's giving up
        return
    await anyio.sleep(answer.delay)
    rest = [(name, value) for name, value in answer.headers if name != "date"]  # an ASGI server has one of its own
    fields = [("content-length", str(len(answer.body))), *rest]
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields],
        }
    )
    await send({"type": "http.response.body", "body": answer.body})
