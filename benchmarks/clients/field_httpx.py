"""The recipe: what a good engineer writes in forty lines with httpx, HTTP/2 and aiolimiter."""

import asyncio
import hashlib
import json
import secrets
import ssl
import time
from types import TracebackType
from typing import Any, Self

import httpx
from aiolimiter import AsyncLimiter

from rongcloud_groups.emulator.program import Address

PATH = "/entrust/group/profile/query.json"
NESTED = ("groupProfile", "groupExtProfile", "permissions")


class HttpxRecipe:
    def __init__(self, address: Address, *, rate: float, in_flight: int) -> None:
        self._address = address
        self._limiter = AsyncLimiter(rate, 1)
        self._in_flight = asyncio.Semaphore(in_flight)
        context = ssl.create_default_context(cafile=address.ca_file)
        self._client = httpx.AsyncClient(base_url=address.url, http2=True, verify=context, timeout=5)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def look_up(self, group_ids: list[str]) -> dict[str, dict[str, Any]]:
        batches = [group_ids[start : start + 50] for start in range(0, len(group_ids), 50)]
        answers = await asyncio.gather(*map(self._ask, batches), return_exceptions=True)
        good = (answer for answer in answers if isinstance(answer, list))
        return {profile["groupId"]: profile for answer in good for profile in answer}

    async def _ask(self, group_ids: list[str]) -> list[dict[str, Any]]:
        async with self._in_flight, self._limiter:
            response = await self._client.post(PATH, data={"groupIds": group_ids}, headers=signed(self._address))
        response.raise_for_status()
        profiles: list[dict[str, Any]] = json.loads(response.content)["profiles"]
        for profile in profiles:
            for key in NESTED:
                if text := profile.get(key):
                    profile[key] = json.loads(text)
        return profiles


def signed(address: Address) -> dict[str, str]:
    nonce, timestamp = secrets.token_hex(8), str(int(time.time() * 1000))
    signature = hashlib.sha1((address.app_secret + nonce + timestamp).encode()).hexdigest()
    return {"App-Key": address.app_key, "Nonce": nonce, "Timestamp": timestamp, "Signature": signature}
