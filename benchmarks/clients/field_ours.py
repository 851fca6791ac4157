"""This library's client, and the same over another engine behind its transport seam."""

import ssl
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from rongcloud_groups import GroupClient, GroupProfile
from rongcloud_groups.config import DialectName
from rongcloud_groups.emulator.program import Address

OWN_FIELDS = {"host", "content-length", "connection", "accept-encoding"}


class Ours:
    def __init__(
        self, address: Address, *, rate: float, in_flight: int, dialect: DialectName = "rongcloud", **options: Any
    ) -> None:
        self._client = GroupClient(
            address.app_key,
            address.app_secret,
            base_urls=address.url,
            dialect=dialect,
            rate=rate,
            max_in_flight=in_flight,
            verify=ssl.create_default_context(cafile=address.ca_file),
            **options,
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def look_up(self, group_ids: list[str]) -> dict[str, GroupProfile]:
        return (await self._client.get_many(group_ids)).found


class PyreqwestTransport(httpx.AsyncBaseTransport):
    """Carries requests with pyreqwest; its own httpx transport sends ``host``, which some HTTP/2 servers refuse."""

    def __init__(self, address: Address) -> None:
        pyreqwest: Any = import_module("pyreqwest.client")  # in the environment of field_environment.py
        authority = Path(address.ca_file or "").read_bytes()
        self._client = pyreqwest.ClientBuilder().add_root_certificate_pem(authority).no_proxy().build()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        fields = [(name, value) for name, value in request.headers.multi_items() if name not in OWN_FIELDS]
        seconds = request.extensions["timeout"]["read"]
        builder = self._client.post(str(request.url)).headers(fields).timeout(timedelta(seconds=seconds))
        response = await builder.body_bytes(request.content).build().send()
        content = bytes(await response.bytes())
        return httpx.Response(response.status, headers=list(response.headers.items()), content=content)

    async def aclose(self) -> None:
        await self._client.close()


def over_pyreqwest(address: Address, *, rate: float, in_flight: int) -> AbstractAsyncContextManager[Ours]:
    return Ours(address, rate=rate, in_flight=in_flight, transport=PyreqwestTransport(address))


def ours_v4(address: Address, *, rate: float, in_flight: int) -> AbstractAsyncContextManager[Ours]:
    return Ours(address, rate=rate, in_flight=in_flight, dialect="nexconn")
