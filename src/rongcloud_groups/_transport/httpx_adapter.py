"""Adapts a caller-supplied httpx transport to the connection interface."""

import asyncio
import ssl
import sys
from asyncio import Future, Task
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, Literal, get_args

import httpx

from rongcloud_groups._http import Origin, Request, Response
from rongcloud_groups._transport.containment import contained
from rongcloud_groups._transport.interface import Connection, OnChange
from rongcloud_groups._transport.response import MAX_BODY_SIZE
from rongcloud_groups.errors import ConfigError, TransportError

Library = Literal["httpx", "httpx2"]
TransportSource = httpx.AsyncBaseTransport | Callable[[], httpx.AsyncBaseTransport] | Library


class HttpxTransports:
    """A `Connector` over the client's ``transport``.

    Args:
        source: one transport, closed with the client; a function that makes one for each connection, called once here
            to see what it makes; or the library whose own transports serve.
        slots: requests in flight at most.
        verify: the TLS context of a library's own transports; None for the system's trust.

    Raises:
        ConfigError: it is none of these.

    Attributes:
        shared: whether all connections are one transport, which retires its own connections.
    """

    def __init__(self, source: TransportSource, slots: int, verify: ssl.SSLContext | None = None) -> None:
        self._slots = slots
        self._make: Callable[[], Any]
        self._first: Any = None
        self.shared = library_of(source) is not None
        if self.shared:
            self._make = lambda: source
        elif isinstance(source, str):
            self._make = _maker_of(source, verify)
        elif callable(source):
            self._make = source
        else:
            text = f"transport is {source!r}; give a transport of httpx or httpx2, or a function that makes one"
            raise ConfigError(text)
        try:
            self._first = self._make()
        except Exception:  # noqa: BLE001  it may be made later; a connection reports why it was not
            return
        if library_of(self._first) is None:
            raise ConfigError(f"transport makes {self._first!r}; it must make transports of httpx or httpx2")

    async def connect(self, origin: Origin, on_change: OnChange) -> "HttpxConnection":
        with contained(partial(TransportError, never_processed=True), f"{origin.authority}: making the transport"):
            transport, self._first = self._first or self._make(), None
        return HttpxConnection(transport, origin, self._slots, on_change, owned=not self.shared)

    async def aclose(self) -> None:
        """Close a shared transport; any other is closed with its connection."""
        if self.shared:
            await self._make().aclose()


def library_of(transport: object) -> Any:
    """Httpx or httpx2, as the transport is of; None where it is of neither. Neither is imported for it."""
    for name in get_args(Library):
        library = sys.modules.get(name)
        if library is not None and isinstance(transport, library.AsyncBaseTransport):
            return library
    return None


def _maker_of(library: str, verify: ssl.SSLContext | None) -> Callable[[], httpx.AsyncBaseTransport]:
    if library not in get_args(Library):
        raise ConfigError(f"transport is {library!r}; a library is one of {', '.join(get_args(Library))}")
    try:
        transport: Callable[..., httpx.AsyncBaseTransport] = import_module(library).AsyncHTTPTransport
    except ModuleNotFoundError:
        raise ConfigError(f"transport is {library!r}, which is not installed: pip install {library}") from None
    return lambda: transport(verify=True if verify is None else verify)


class HttpxConnection(Connection):
    """An `httpx.AsyncBaseTransport` that carries requests to one host: a mock, an ASGI app, another engine.

    Its connections and handshakes are its own affair; so the token is taken just before the call. Anything that it
    raises counts as a transport error.

    Args:
        owned: close the transport with the connection.
    """

    http_version = "httpx transport"

    def __init__(self, transport: Any, origin: Origin, slots: int, on_change: OnChange, *, owned: bool) -> None:
        super().__init__(origin.authority, on_change)
        self._library = library_of(transport)
        if self._library is None:
            text = f"{origin.authority}: transport made {transport!r}, which is none of httpx or httpx2"
            raise TransportError(text, never_processed=True)
        self._client = self._library.AsyncClient(transport=transport, trust_env=False)
        self._url = self._library.URL(str(origin))
        self._slots = slots
        self._owned = owned
        self._calls: set[Task[Response]] = set()

    @property
    def open_slots(self) -> int:
        return 0 if self.closed_reason else max(0, self._slots - self.in_flight)

    def send(self, request: Request, timeout: float) -> Future[Response]:
        call = self._loop.create_task(self._call(request, timeout))
        self._calls.add(call)
        self.in_flight = len(self._calls)
        self.sent += 1
        call.add_done_callback(self._on_returned)
        return call

    def retire(self, reason: str) -> None:
        self.closed_reason = self.closed_reason or reason
        if not self._calls:
            self.closed = True
            self._on_change()

    async def aclose(self) -> None:
        self.retire("closed here")
        for call in list(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        if self._owned:
            await self._client.aclose()

    def _on_returned(self, call: Task[Response]) -> None:
        self._calls.discard(call)
        self.in_flight = len(self._calls)
        self.closed = bool(self.closed_reason) and not self._calls
        self._on_change()

    async def _call(self, request: Request, timeout: float) -> Response:
        extensions = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout)}
        with contained(TransportError, f"the request to {self.host}"):
            url, fields, body = self._url.copy_with(path=request.path), request.headers, request.body
            carried = self._library.Request("POST", url, headers=fields, content=body, extensions=extensions)
            try:
                async with asyncio.timeout(timeout):
                    return await _read(await self._client.send(carried, stream=True))
            except TimeoutError as error:
                raise self._timed_out(timeout) from error


async def _read(response: "httpx.Response") -> Response:
    """The whole response, its content still encoded: httpx would inflate it without a bound."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    if response.is_stream_consumed:  # a mock's, which httpx decoded when it was made
        headers.pop("content-encoding", None)
        return Response(response.status_code, headers, response.content)
    body = bytearray()
    try:
        async for part in response.aiter_raw():
            body += part
            if len(body) > MAX_BODY_SIZE:
                raise TransportError(f"a body of more than {MAX_BODY_SIZE >> 20} MiB")
        return Response(response.status_code, headers, bytes(body))
    finally:
        await response.aclose()
