"""Adapts a caller-supplied httpx transport to the connection interface."""

import asyncio
from asyncio import Future, Task
from collections.abc import Callable

import httpx

from rongcloud_groups._http import Origin, Request, Response
from rongcloud_groups._transport.interface import ConnectionState
from rongcloud_groups.errors import ConfigError, TransportError

TransportSource = httpx.AsyncBaseTransport | Callable[[], httpx.AsyncBaseTransport]


class HttpxTransports:
    """A `Connector` over the client's ``transport``.

    Args:
        source: one transport, closed with the client; or a function that makes one for each connection.
        slots: requests in flight at most.

    Raises:
        ConfigError: it is neither.
    """

    def __init__(self, source: TransportSource, slots: int) -> None:
        self._shared: httpx.AsyncBaseTransport | None = None
        self._make: Callable[[], httpx.AsyncBaseTransport]
        self._slots = slots
        if isinstance(source, httpx.AsyncBaseTransport):
            self._shared, self._make = source, lambda: source
        elif callable(source):
            self._make = source
        else:
            raise ConfigError(
                f"transport is {source!r}; give an httpx.AsyncBaseTransport, or a function that makes one"
            )

    @property
    def shared(self) -> bool:
        """Whether all connections are one transport, which retires its own connections."""
        return self._shared is not None

    async def connect(self, origin: Origin, on_change: Callable[[], None]) -> "HttpxConnection":
        """See `Connector.connect`."""
        try:
            transport = self._make()
        except Exception as error:
            text = f"{origin.authority}: making the transport failed: {type(error).__name__}: {error}"
            raise TransportError(text, never_processed=True) from error
        return HttpxConnection(transport, origin, self._slots, on_change, owned=not self.shared)

    async def aclose(self) -> None:
        """Close a shared transport; any other is closed with its connection."""
        if self._shared is not None:
            await self._shared.aclose()


class HttpxConnection(ConnectionState):
    """An `httpx.AsyncBaseTransport` that carries requests to one host: a mock, an ASGI app, another engine.

    Its connections and handshakes are its own affair; so the token is taken just before the call. Anything that it
    raises counts as a transport error.

    Args:
        transport: the transport.
        origin: where requests go.
        slots: requests in flight at most.
        on_change: see `Connector.connect`.
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
        super().__init__(origin.authority, on_change)
        self._client = httpx.AsyncClient(transport=transport, trust_env=False)
        self._url = httpx.URL(str(origin))
        self._slots = slots
        self._owned = owned
        self._calls: set[Task[Response]] = set()
        self._closing: Task[None] | None = None

    @property
    def open_slots(self) -> int:
        """How many more calls may be made right now."""
        return 0 if self._retired else max(0, self._slots - self.in_flight)

    def send(self, request: Request, timeout: float) -> Future[Response]:
        """Call the transport; see `Connection.send`."""
        self.sent += 1
        self.in_flight += 1
        call = self._loop.create_task(self._call(request, timeout))
        self._calls.add(call)
        call.add_done_callback(self._on_returned)
        return call

    def retire(self) -> None:
        """Make no more calls; close when the last one has returned."""
        self._mark_retired("retired")
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

    def _on_returned(self, call: Task[Response]) -> None:
        self._calls.discard(call)
        self.in_flight -= 1
        if self._retired and not self._calls:
            self._start_closing()
        self._on_change()

    def _start_closing(self) -> None:
        if self._owned and self._closing is None:
            self._closing = self._loop.create_task(self._client.aclose())
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
            raise TransportError(f"the request to {self._authority} failed: the transport cancelled it") from None
        except TimeoutError:
            raise TransportError(f"no answer within {timeout:g} s from {self._authority}") from None
        except Exception as error:
            text = f"the request to {self._authority} failed: {type(error).__name__}: {error}"
            raise TransportError(text) from error
        headers = {name.lower(): value for name, value in response.headers.items()}
        headers.pop("content-encoding", None)  # httpx has undone it
        return Response(response.status_code, headers, response.content)
