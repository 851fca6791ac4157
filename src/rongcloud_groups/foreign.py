"""Somebody else's httpx transport in the place of a connection."""

import asyncio
from asyncio import Future, Task
from collections.abc import Callable

import httpx

from rongcloud_groups.connection import Reply, Request
from rongcloud_groups.errors import TransportError


class TransportConnection:
    """An `httpx.AsyncBaseTransport` that carries requests to one base URL: a mock, an ASGI app, another engine.

    What it does inside (connections, handshakes) is its own affair; so the token is taken just before the call.
    Anything that it raises counts as a transport error.

    Args:
        transport: the transport.
        base_url: where requests go.
        slots: requests in flight at the most.
        on_change: called when another request may be sent.
        owned: close the transport with the connection.
    """

    http_version = "httpx transport"

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        base_url: httpx.URL,
        slots: int,
        on_change: Callable[[], None],
        *,
        owned: bool,
    ) -> None:
        self._client = httpx.AsyncClient(transport=transport, trust_env=False)
        self._base_url = base_url
        self._slots = slots
        self._on_change = on_change
        self._owned = owned
        self._calls: set[Task[Reply]] = set()
        self._closing: Task[None] | None = None
        self._retired = False
        self.closed = False
        self.closed_reason = ""
        self.sent = 0

    @property
    def in_flight(self) -> int:
        """Calls that have not returned."""
        return len(self._calls)

    @property
    def open_slots(self) -> int:
        """How many more calls may be made right now."""
        return 0 if self._retired else max(0, self._slots - len(self._calls))

    def send(self, request: Request, timeout: float) -> Future[Reply]:
        """Call the transport; see `Connection.send`."""
        self.sent += 1
        call = asyncio.get_running_loop().create_task(self._call(request, timeout))
        self._calls.add(call)
        call.add_done_callback(self._returned)
        return call

    def retire(self) -> None:
        """Make no more calls; close when the last one has returned."""
        self._retired = True
        self.closed_reason = self.closed_reason or "retired"
        if not self._calls:
            self._start_closing()
            self._on_change()

    async def aclose(self) -> None:
        """Cancel the calls under way and close."""
        self.retire()
        for call in list(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        if self._closing is not None:
            await self._closing

    def _returned(self, call: Task[Reply]) -> None:
        self._calls.discard(call)
        if self._retired and not self._calls:
            self._start_closing()
        self._on_change()

    def _start_closing(self) -> None:
        if self._owned and self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._client.aclose())
        self.closed = True

    async def _call(self, request: Request, timeout: float) -> Reply:
        url = self._base_url.copy_with(path=request.path)
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), timeout)
        try:
            async with asyncio.timeout(timeout):
                response = await self._client.send(
                    httpx.Request(
                        "POST", url, headers=request.headers, content=request.body, extensions={"timeout": timeouts}
                    )
                )
        except TimeoutError:
            raise TransportError(f"no answer within {timeout:g} s from {url.host}") from None
        except Exception as error:
            raise TransportError(f"the request to {url.host} failed: {type(error).__name__}: {error}") from error
        headers = {name.lower(): value for name, value in response.headers.items()}
        headers.pop("content-encoding", None)  # httpx has undone it
        return Reply(response.status_code, headers, response.content)
