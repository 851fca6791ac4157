"""A server that takes a connection and says nothing."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from rongcloud_groups._http import Origin


class Silent(asyncio.Protocol):
    """Takes a connection, says `greeting`, and then nothing."""

    def __init__(self, greeting: bytes = b"", *, then_close: bool = False) -> None:
        self.greeting = greeting
        self.then_close = then_close
        self.made = asyncio.Event()
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self.made.set()
        transport.write(self.greeting)
        if self.then_close:
            transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.lost.set()


@asynccontextmanager
async def listening(protocol: Silent, context: ssl.SSLContext | None = None) -> AsyncIterator[Origin]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: protocol, "127.0.0.1", 0, ssl=context)
    scheme = "https" if context else "http"
    try:
        yield Origin.parse(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()
        await server.wait_closed()
