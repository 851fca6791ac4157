"""The loop that every client but ours has: batches side by side, so many in flight, paced by aiolimiter."""

import asyncio
from types import TracebackType
from typing import Any, Self

from aiolimiter import AsyncLimiter

from rongcloud_groups.emulator.program import Address


class FieldClient:
    """Looks up batches of 50; one that fails is lost, as its recipe has no retries.

    Args:
        address: where the service is.
        rate: requests/s.
        in_flight: the most requests in flight.
    """

    def __init__(self, address: Address, *, rate: float, in_flight: int) -> None:
        self.address = address
        self._limiter = AsyncLimiter(rate, 1)
        self._in_flight = asyncio.Semaphore(in_flight)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def look_up(self, group_ids: list[str]) -> dict[str, Any]:
        batches = [group_ids[start : start + 50] for start in range(0, len(group_ids), 50)]
        results = await asyncio.gather(*map(self._look_up_batch, batches), return_exceptions=True)
        found: dict[str, Any] = {}
        for result in results:
            if isinstance(result, dict):
                found |= result
        if results and not any(isinstance(result, dict) for result in results):
            raise ExceptionGroup("no batch was looked up", [each for each in results if isinstance(each, Exception)])
        return found

    async def _look_up_batch(self, group_ids: list[str]) -> dict[str, Any]:
        async with self._in_flight, self._limiter:
            content = await self.post(group_ids)
        return self.read(content, group_ids)

    async def open(self) -> None:
        """Open what needs a running loop."""

    async def aclose(self) -> None:
        """Close the connections."""

    async def post(self, group_ids: list[str]) -> bytes:
        """Send the signed request; returns the body of the response."""
        raise NotImplementedError

    def read(self, content: bytes, group_ids: list[str]) -> dict[str, Any]:
        """Profiles by their ID."""
        raise NotImplementedError
