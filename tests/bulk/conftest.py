"""The service of a job that a test runs, and a client of it."""

from collections.abc import AsyncIterator

import pytest_asyncio
from support.bulk_jobs import client_of

from rongcloud_groups import GroupClient
from rongcloud_groups.emulator import Emulator, Universe


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(limit=None, universe=Universe(listed=2500)) as emulator:
        yield emulator


@pytest_asyncio.fixture
async def client(emulator: Emulator) -> AsyncIterator[GroupClient]:
    async with client_of(emulator) as client:
        yield client
