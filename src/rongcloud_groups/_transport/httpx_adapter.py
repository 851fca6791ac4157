"""Somebody else's httpx transport in the place of the client's own connections."""

import asyncio
from asyncio import Future, Task
from collections.abc import Callable

import httpx

from rongcloud_groups._http import Origin, Request, Response
from rongcloud_groups.errors import ConfigError, TransportError

TransportSource = httpx.AsyncBaseTransport | Callable[[], httpx.AsyncBaseTransport]


class HttpxTransports:
    """What carries the requests where the client is given a ``transport``.

    Args:
        source: one transport, closed with the client; or a function that makes one for each connection.

    Raises:
        ConfigError: it is neither.
    """

    def __init__(self, source: TransportSource) -> None:
        self._shared: httpx.AsyncBaseTransport | None = None
        self._make: Callable[[], httpx.AsyncBaseTransport]
        if isinstance(source, httpx.AsyncBaseTransport):
            self._shared, self._make = source, lambda: source
        elif callable(source):
            self._make = source
        else:
            raise ConfigError(f"transport is {source!r}; give an httpx.AsyncBaseTransport, or what makes one")

    @property
    def shared(self) -> bool:
        """Whether all connections are one transport, whose life is its own affair."""
        return self._shared is not None

    def connection(self, origin: Origin, slots: int, on_change: Callable[[], None]) -> "HttpxConnection":
        """A connection that the transport carries; see `HttpxConnection`."""
        return HttpxConnection(self._make(), origin, slots, on_change, owned=not self.shared)

    async def aclose(self) -> None:
        """Close a shared transport; any other is closed with its connection."""
        if self._shared is not None:
            await self._shared.aclose()


class HttpxConnection:
    """An `httpx.AsyncBaseTransport` that carries requests to one host: a mock, an ASGI app, another engine.

    What it does inside (connections, handshakes) is its own affair; so the token is taken just before the call.
    Anything that it raises counts as a transport error.

    Args:
        transport: the transport.
        origin: where requests go.
        slots: requests in flight at the most.
        on_change: called when another request may be sent.
        owned: close the transport with the connection.
    """

    http_version = "httpx transport"

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        origin: Origin,
        slots: int,
        on_change: Callable[[], None],
        *,
        owned: bool,
    ) -> None:
        self._client = httpx.AsyncClient(transport=transport, trust_env=False)
        self._host = origin.host
        self._url = httpx.URL(str(origin))
        self._slots = slots
        self._on_change = on_change
        self._owned = owned
        self._calls: set[Task[Response]] = set()
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

    def send(self, request: Request, timeout: float) -> Future[Response]:
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

    def _returned(self, call: Task[Response]) -> None:
        self._calls.discard(call)
        if self._retired and not self._calls:
            self._start_closing()
        self._on_change()

    def _start_closing(self) -> None:
        if self._owned and self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._client.aclose())
        self.closed = True

    async def _call(self, request: Request, timeout: float) -> Response:
        url = self._url.copy_with(path=request.path)
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), timeout)
        try:
            async with asyncio.timeout(timeout):
                response = await self._client.send(
                    httpx.Request(
                        "POST", url, headers=request.headers, content=request.body, extensions={"timeout": timeouts}
                    )
                )
        except asyncio.CancelledError:
            call = asyncio.current_task()
            if call is None or call.cancelling():
                raise
            raise TransportError(f"the request to {self._host} failed: the transport cancelled it") from None
        except TimeoutError:
            raise TransportError(f"no answer within {timeout:g} s from {self._host}") from None
        except Exception as error:
            raise TransportError(f"the request to {self._host} failed: {type(error).__name__}: {error}") from error
        headers = {name.lower(): value for name, value in response.headers.items()}
        headers.pop("content-encoding", None)  # httpx has undone it
        return Response(response.status_code, headers, response.content)
