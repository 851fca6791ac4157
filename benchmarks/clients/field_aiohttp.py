"""The same recipe with aiohttp, which speaks HTTP/1.1."""

import asyncio
import json
import ssl
from types import TracebackType
from typing import Any, Self

import aiohttp  # type: ignore[import-not-found,unused-ignore]  # in the environment of field_environment.py
from aiolimiter import AsyncLimiter
from benchmarks.clients.field_httpx import NESTED, PATH, signed

from rongcloud_groups.emulator.program import Address


class AiohttpRecipe:
    def __init__(self, address: Address, *, rate: float, in_flight: int) -> None:
        self._address = address
        self._limiter = AsyncLimiter(rate, 1)
        self._in_flight = asyncio.Semaphore(in_flight)
        context = ssl.create_default_context(cafile=address.ca_file)
        self._session = aiohttp.ClientSession(
            base_url=address.url,
            connector=aiohttp.TCPConnector(ssl=context, limit=in_flight),
            timeout=aiohttp.ClientTimeout(total=5),
            raise_for_status=True,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def look_up(self, group_ids: list[str]) -> dict[str, dict[str, Any]]:
        batches = [group_ids[start : start + 50] for start in range(0, len(group_ids), 50)]
        answers = await asyncio.gather(*map(self._ask, batches), return_exceptions=True)
        good = (answer for answer in answers if isinstance(answer, list))
        return {profile["groupId"]: profile for answer in good for profile in answer}

    async def _ask(self, group_ids: list[str]) -> list[dict[str, Any]]:
        form = [("groupIds", group_id) for group_id in group_ids]
        async with (
            self._in_flight,
            self._limiter,
            self._session.post(PATH, data=form, headers=signed(self._address)) as response,
        ):
            content = await response.read()
        profiles: list[dict[str, Any]] = json.loads(content)["profiles"]
        for profile in profiles:
            for key in NESTED:
                if text := profile.get(key):
                    profile[key] = json.loads(text)
        return profiles
