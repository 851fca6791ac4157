"""HTTP engines with our signing and typed decoding and nothing around them, and the floor.

An engine keeps no promise: it has no queue, no retry, no outcome for an ID whose batch is lost. What it costs less than
the client is the price of the book-keeping; what it costs more is the price of its HTTP.
"""

import asyncio
import ssl
from asyncio import Future
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.clients.field_loop import FieldClient

from rongcloud_groups._http import Request, Response
from rongcloud_groups._protocol.api import ServiceApi
from rongcloud_groups._protocol.dialects import RONGCLOUD
from rongcloud_groups._protocol.secret import Secret
from rongcloud_groups._protocol.signing import Credentials
from rongcloud_groups.emulator.program import Address

SECONDS = 5
MAX_PACED = 1e5
"""Requests/s from which on a rate means that there is none."""


class Engine(FieldClient):
    """Signs, encodes and decodes as the client does; a subclass sends."""

    def __init__(self, address: Address, *, rate: float, in_flight: int) -> None:
        super().__init__(address, rate=rate, in_flight=in_flight)
        self.context = ssl.create_default_context(cafile=address.ca_file)
        self.authority = Path(address.ca_file or "").read_bytes()
        self.api = ServiceApi(RONGCLOUD, Credentials(address.app_key, Secret(address.app_secret)))

    async def post(self, group_ids: list[str]) -> bytes:
        request = self.api.batch_request(group_ids)
        return await self.send(self.address.url + request.path, request.headers, request.body)

    def read(self, content: bytes, group_ids: list[str]) -> dict[str, Any]:
        return self.api.read_batch(Response(200, {}, content), group_ids).found

    async def send(self, url: str, fields: list[tuple[str, str]], body: bytes) -> bytes:
        raise NotImplementedError


class Httpx(Engine):
    module = "httpx"

    async def open(self) -> None:
        httpx: Any = import_module(self.module)
        self._client = httpx.AsyncClient(http2=True, verify=self.context, timeout=SECONDS, trust_env=False)

    async def send(self, url: str, fields: list[tuple[str, str]], body: bytes) -> bytes:
        content: bytes = (await self._client.post(url, headers=fields, content=body)).raise_for_status().content
        return content

    async def aclose(self) -> None:
        await self._client.aclose()


class Httpx2(Httpx):
    module = "httpx2"


class Aiohttp(Engine):
    """HTTP/1.1, a connection for each request in flight."""

    async def open(self) -> None:
        aiohttp: Any = import_module("aiohttp")
        connector = aiohttp.TCPConnector(ssl=self.context, limit=0)
        timeout = aiohttp.ClientTimeout(total=SECONDS)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, raise_for_status=True)

    async def send(self, url: str, fields: list[tuple[str, str]], body: bytes) -> bytes:
        async with self._session.post(url, headers=fields, data=body) as response:
            content: bytes = await response.read()
        return content

    async def aclose(self) -> None:
        await self._session.close()


class Pyreqwest(Engine):
    async def open(self) -> None:
        builder: Any = import_module("pyreqwest.client").ClientBuilder()
        self._client = (
            builder.add_root_certificate_pem(self.authority).no_proxy().timeout(timedelta(seconds=SECONDS)).build()
        )

    async def send(self, url: str, fields: list[tuple[str, str]], body: bytes) -> bytes:
        response = await self._client.post(url).headers(fields).body_bytes(body).build().send()
        return bytes(await response.bytes())

    async def aclose(self) -> None:
        await self._client.close()


class Pyqwest(Engine):
    async def open(self) -> None:
        pyqwest: Any = import_module("pyqwest")
        self._transport = pyqwest.HTTPTransport(tls_ca_cert=self.authority, read_timeout=SECONDS, enable_otel=False)
        self._client = pyqwest.Client(self._transport)

    async def send(self, url: str, fields: list[tuple[str, str]], body: bytes) -> bytes:
        content: bytes = (await self._client.post(url, headers=fields, content=body)).content
        return content

    async def aclose(self) -> None:
        await self._transport.aclose()


class Urllib3Future(Engine):
    async def open(self) -> None:
        urllib3: Any = import_module("urllib3_future")
        self._pool = urllib3.AsyncPoolManager(ca_certs=self.address.ca_file, timeout=SECONDS, retries=False)

    async def send(self, url: str, fields: list[tuple[str, str]], body: bytes) -> bytes:
        response = await self._pool.request("POST", url, headers=dict(fields), body=body, multiplexed=True)
        response = await self._pool.get_response(promise=response)
        content: bytes = await response.data
        return content

    async def aclose(self) -> None:
        await self._pool.clear()


class Niquests(Engine):
    async def open(self) -> None:
        niquests: Any = import_module("niquests")
        self._session = niquests.AsyncSession(timeout=SECONDS, disable_http3=True)
        self._session.verify = self.address.ca_file
        self._session.trust_env = False

    async def send(self, url: str, fields: list[tuple[str, str]], body: bytes) -> bytes:
        response = await self._session.post(url, headers=dict(fields), data=body)
        content: bytes = await response.content if hasattr(response.content, "__await__") else response.content
        return content

    async def aclose(self) -> None:
        await self._session.close()


class Floor(Engine):
    """asyncio's TLS, signing and decoding, and next to nothing else: pipelined HTTP/1.1 on one connection."""

    def __init__(self, address: Address, *, rate: float, in_flight: int) -> None:
        super().__init__(address, rate=rate, in_flight=in_flight)
        self._window = in_flight
        self._is_paced = rate < MAX_PACED

    async def open(self) -> None:
        url = urlsplit(self.address.url)
        self.context.set_alpn_protocols(["http/1.1"])
        loop = asyncio.get_running_loop()
        _, self._pipe = await loop.create_connection(_Pipe, str(url.hostname), url.port or 443, ssl=self.context)

    async def look_up(self, group_ids: list[str]) -> dict[str, Any]:
        if self._is_paced:
            return await super().look_up(group_ids)
        found: dict[str, Any] = {}
        ended = asyncio.get_running_loop().create_future()
        starts = iter(range(0, len(group_ids), 50))

        def send() -> None:
            if (start := next(starts, None)) is not None:
                batch = group_ids[start : start + 50]
                self._pipe.send(self.api.batch_request(batch), lambda content: received(content, batch))

        def received(content: bytes, batch: list[str]) -> None:
            found.update(self.read(content, batch))
            send()
            if not self._pipe.in_flight:
                ended.set_result(None)

        for _ in range(self._window):
            send()
        await ended
        return found

    async def post(self, group_ids: list[str]) -> bytes:
        content: Future[bytes] = asyncio.get_running_loop().create_future()
        self._pipe.send(self.api.batch_request(group_ids), content.set_result)
        return await content

    async def aclose(self) -> None:
        self._pipe.close()


class _Pipe(asyncio.Protocol):
    def __init__(self) -> None:
        self._callbacks: deque[Callable[[bytes], object]] = deque()
        self._received = bytearray()
        self._transport: asyncio.Transport

    @property
    def in_flight(self) -> int:
        return len(self._callbacks)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def close(self) -> None:
        self._transport.close()

    def send(self, request: Request, callback: Callable[[bytes], object]) -> None:
        fields = "".join(f"{name}: {value}\r\n" for name, value in request.headers)
        head = f"POST {request.path} HTTP/1.1\r\nhost: floor\r\n{fields}content-length: {len(request.body)}\r\n\r\n"
        self._callbacks.append(callback)
        self._transport.write(head.encode() + request.body)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (head := self._received.find(b"\r\n\r\n") + 4) > 3:
            length = int(self._received[:head].lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(self._received) < head + length:
                return
            content = bytes(self._received[head : head + length])
            del self._received[: head + length]
            self._callbacks.popleft()(content)
