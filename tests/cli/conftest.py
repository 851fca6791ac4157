"""The service, the environment and the directory of a `sync` that a test runs."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from support.bulk_jobs import environment_of

from rongcloud_groups.emulator import Emulator, Universe


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(limit=None, universe=Universe(unknown_share=0.1, listed=1500)) as emulator:
        yield emulator


@pytest.fixture
def variables(emulator: Emulator, tmp_path: Path) -> dict[str, str]:
    return environment_of(emulator, tmp_path)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    directory = tmp_path / "here"
    directory.mkdir()
    return directory
