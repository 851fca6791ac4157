"""Sends requests with httpx, over its own connections or this library's, and counts what becomes of them."""

import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import anyio
import httpx
from benchmarks.clients.httpx_transport import HTTP2Transport
from benchmarks.servers.child_processes import trusting

from rongcloud_groups._protocol.api import ServiceApi
from rongcloud_groups._protocol.dialects import RONGCLOUD
from rongcloud_groups._protocol.secret import Secret
from rongcloud_groups._protocol.signing import Credentials
from rongcloud_groups.emulator.program import Address

Side = Literal["httpx", "rongcloud_groups"]
CLOSING_TIME = 2.0
"""Seconds that closing a client may take."""


class Caller:
    """One httpx client; all its requests ask for the same 50 groups.

    Attributes:
        outcomes: how many requests were answered, under ``answered``, and how many failed, by their exception.
    """

    def __init__(self, client: httpx.AsyncClient, address: Address, url: str) -> None:
        self.outcomes: Counter[str] = Counter()
        self._client = client
        self._timeout = client.timeout.as_dict()
        api = ServiceApi(RONGCLOUD, Credentials(address.app_key, Secret(address.app_secret)))
        signed = api.batch_request([f"g{number}" for number in range(50)])
        self._url = httpx.URL(url + signed.path)
        self._headers = signed.headers
        self._body = signed.body

    @property
    def answered(self) -> int:
        return self.outcomes["answered"]

    @property
    def failed(self) -> int:
        return self.outcomes.total() - self.answered

    async def ask(self, *, answer_after: float | None = None) -> float:
        """Send the request, note what became of it, and return the seconds that took; cancelled, it leaves no note.

        Args:
            answer_after: seconds that `directed_emulator.py` is to wait.
        """
        directions = [] if answer_after is None else [("x-answer-after", str(answer_after))]
        request = httpx.Request(
            "POST",
            self._url,
            headers=[*self._headers, *directions],
            content=self._body,
            extensions={"timeout": self._timeout},
        )
        started = time.perf_counter()
        try:
            response = await self._client.send(request)
            outcome = "answered" if response.status_code == httpx.codes.OK else f"status {response.status_code}"
        except Exception as error:  # noqa: BLE001  what httpx lets through raw is part of what is measured
            outcome = type(error).__name__
        self.outcomes[outcome] += 1
        return time.perf_counter() - started

    async def ask_all(self, count: int, at_a_time: int) -> None:
        left = iter(range(count))

        async def work() -> None:
            for _ in left:
                await self.ask()

        async with anyio.create_task_group() as tasks:
            for _ in range(at_a_time):
                tasks.start_soon(work)

    async def burst(self, count: int) -> float:
        """Send so many at once; return the seconds until the last ended."""
        started = time.perf_counter()
        await self.ask_all(count, count)
        return time.perf_counter() - started


@asynccontextmanager
async def calling(side: Side, address: Address, url: str, timeout: httpx.Timeout) -> AsyncIterator[Caller]:
    """A caller over the connections of one side."""
    context = trusting(address)
    transport: httpx.AsyncBaseTransport = (
        HTTP2Transport(ssl_context=context)
        if side == "rongcloud_groups"
        else httpx.AsyncHTTPTransport(verify=context, http2=True)
    )
    client = httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False)
    try:
        yield Caller(client, address, url)
    finally:
        with anyio.move_on_after(CLOSING_TIME, shield=True):
            await client.aclose()
