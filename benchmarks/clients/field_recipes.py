"""The recipes: what a good engineer writes in forty lines with httpx, HTTP/2 and aiolimiter, or with aiohttp."""

import hashlib
import json
import secrets
import ssl
import time
from importlib import import_module
from typing import Any

import httpx
from benchmarks.clients.field_loop import FieldClient

from rongcloud_groups.emulator.program import Address

PATH = "/entrust/group/profile/query.json"
NESTED = ("groupProfile", "groupExtProfile", "permissions")


class Recipe(FieldClient):
    """Gives profiles as dicts, with the nested texts read."""

    def read(self, content: bytes, group_ids: list[str]) -> dict[str, Any]:
        del group_ids
        profiles: list[dict[str, Any]] = json.loads(content)["profiles"]
        for profile in profiles:
            for key in NESTED:
                if text := profile.get(key):
                    profile[key] = json.loads(text)
        return {profile["groupId"]: profile for profile in profiles}


class HttpxRecipe(Recipe):
    def __init__(self, address: Address, *, rate: float, in_flight: int) -> None:
        super().__init__(address, rate=rate, in_flight=in_flight)
        context = ssl.create_default_context(cafile=address.ca_file)
        self._client = httpx.AsyncClient(base_url=address.url, http2=True, verify=context, timeout=5)

    async def post(self, group_ids: list[str]) -> bytes:
        response = await self._client.post(PATH, data={"groupIds": group_ids}, headers=signed(self.address))
        return response.raise_for_status().content

    async def aclose(self) -> None:
        await self._client.aclose()


class AiohttpRecipe(Recipe):
    """The same with aiohttp, which speaks HTTP/1.1."""

    def __init__(self, address: Address, *, rate: float, in_flight: int) -> None:
        super().__init__(address, rate=rate, in_flight=in_flight)
        aiohttp: Any = import_module("aiohttp")  # in the environment of field_environment.py
        context = ssl.create_default_context(cafile=address.ca_file)
        self._session = aiohttp.ClientSession(
            base_url=address.url,
            connector=aiohttp.TCPConnector(ssl=context, limit=in_flight),
            timeout=aiohttp.ClientTimeout(total=5),
            raise_for_status=True,
        )

    async def post(self, group_ids: list[str]) -> bytes:
        form = [("groupIds", group_id) for group_id in group_ids]
        async with self._session.post(PATH, data=form, headers=signed(self.address)) as response:
            content: bytes = await response.read()
        return content

    async def aclose(self) -> None:
        await self._session.close()


def signed(address: Address) -> dict[str, str]:
    nonce, timestamp = secrets.token_hex(8), str(int(time.time() * 1000))
    signature = hashlib.sha1((address.app_secret + nonce + timestamp).encode()).hexdigest()
    return {"App-Key": address.app_key, "Nonce": nonce, "Timestamp": timestamp, "Signature": signature}
