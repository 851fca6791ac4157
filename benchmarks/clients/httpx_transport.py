"""The connections behind httpx's transport interface, for use under an `httpx.AsyncClient`."""

import asyncio
import ssl
from typing import Final

import httpx

from rongcloud_groups._http import Origin, Request, Response
from rongcloud_groups._transport.connect import Dialler
from rongcloud_groups._transport.interface import Connection
from rongcloud_groups.errors import TransportError

_MAX_SENDINGS: Final = 10
_OWN_FIELDS: Final = {"host", "connection", "content-length", "transfer-encoding"}


class HTTP2Transport(httpx.AsyncBaseTransport):
    """Carries POST requests over one connection at a time, and opens the next when that one retires or fails.

    A request that the server says it never began is sent again. Of httpx's time-outs ``connect`` and ``read``
    apply, the latter to the whole response; ``None`` means 5 seconds.

    Args:
        ssl_context: for https; None for what the system trusts.
        requests_per_connection: after how many requests a connection is replaced.
    """

    def __init__(
        self, *, ssl_context: ssl.SSLContext | None = None, requests_per_connection: float = float("inf")
    ) -> None:
        self._verify = ssl_context
        self._requests_per_connection = requests_per_connection
        self._origin: Origin | None = None
        self._connections: list[Connection] = []
        self._opening: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method != "POST":
            raise httpx.UnsupportedProtocol(f"{request.method} is not carried, only POST", request=request)
        fields = [(name.lower(), value) for name, value in request.headers.multi_items()]
        fields = [(name, value) for name, value in fields if name not in _OWN_FIELDS]
        carried = Request(request.url.raw_path.decode("ascii"), fields, await request.aread())
        try:
            reply, version = await self._carry(carried, request)
        except TransportError as error:
            timed_out = isinstance(error.__cause__, TimeoutError)
            kind = httpx.ReadTimeout if timed_out else httpx.RemoteProtocolError
            raise kind(str(error), request=request) from error
        stream = httpx.ByteStream(reply.body)
        extensions = {"http_version": version.encode()}
        return httpx.Response(reply.status, headers=dict(reply.headers), stream=stream, extensions=extensions)

    async def aclose(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        await asyncio.gather(*(connection.aclose() for connection in self._connections))

    async def _carry(self, carried: Request, request: httpx.Request) -> tuple[Response, str]:
        limits = request.extensions.get("timeout", {})
        sendings = 0
        while True:
            connection = await self._with_free_slot(request, limits.get("connect") or 5.0)
            answer = connection.send(carried, limits.get("read") or 5.0)
            if connection.sent >= self._requests_per_connection:
                connection.retire("used up")
            try:
                return await answer, connection.http_version
            except TransportError as error:
                sendings += 1
                if not error.never_processed or sendings == _MAX_SENDINGS:
                    raise

    async def _with_free_slot(self, request: httpx.Request, connect_timeout: float) -> Connection:
        origin = Origin.parse(f"{request.url.scheme}://{request.url.netloc.decode('ascii')}")
        while True:
            current = self._connections[-1] if self._connections else None
            if current is None or current.closed_reason or origin != self._origin:
                try:
                    await self._share_opening(origin, connect_timeout)
                except TransportError as error:
                    timed_out = isinstance(error.__cause__, TimeoutError)
                    kind = httpx.ConnectTimeout if timed_out else httpx.ConnectError
                    raise kind(str(error), request=request) from error
            elif current.open_slots:
                return current
            else:
                self._changed.clear()
                await self._changed.wait()

    async def _share_opening(self, origin: Origin, connect_timeout: float) -> None:
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(origin, connect_timeout))
            self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        # A caller that is cancelled leaves the others their connection.
        await asyncio.shield(self._opening)

    async def _open(self, origin: Origin, connect_timeout: float) -> None:
        try:
            for connection in self._connections:
                connection.retire("used up")
            self._connections = [connection for connection in self._connections if not connection.closed]
            dialler = Dialler(verify=self._verify, http2=True, timeout=connect_timeout, max_in_flight=100)
            self._connections.append(await dialler.connect(origin, self._changed.set))
            self._origin = origin
        finally:
            self._opening = None
