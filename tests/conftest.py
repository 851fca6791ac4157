import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import uvloop
from hypothesis import HealthCheck, settings
from support.clients import ClientFor, trusting

from rongcloud_groups import GroupClient
from rongcloud_groups.emulator import Emulator

ON_BOTH_LOOPS: Final = {
    "transport",
    "emulator",
    "limiters",
    "test_cancellation.py",
    "test_client.py",
    "test_hostile_servers.py",
    "test_listing.py",
}
"""Rooms and files whose tests run on uvloop too: web servers take it where it is installed."""


# A slow or busy machine is no fault of the code under test.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Without bytecode each process that runs tests, and each that they start, would compile everything again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Five processes for two processors where all tests run, since many wait; none for chosen tests."""
    return 5 * (os.cpu_count() or 1) // 2 if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if ON_BOTH_LOOPS & {item.path.name, item.path.parent.name}:
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_reaches_what_tests_start() -> None:
    """A shell that runs the tests in the background has them ignore it, and each process that they start."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def runtime_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Commands that tests run share no budget with those of the user, or of other tests at this time."""
    directory = tmp_path_factory.mktemp("runtime")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(directory))
        yield directory


@pytest.fixture(scope="module", params=["rongcloud", "nexconn"])
def dialect(request: pytest.FixtureRequest) -> str:
    """The interface of the service; what asks for it runs once for each."""
    return str(request.param)


@pytest.fixture
def client_for(dialect: str) -> ClientFor:
    """A client of an emulator, in each dialect, with any option of its own."""

    def make(*emulators: Emulator, **options: Any) -> GroupClient:
        first = emulators[0]
        defaults: dict[str, Any] = {
            "app_key": first.app_key,
            "app_secret": first.app_secret,
            "base_urls": [emulator.url for emulator in emulators],
            "dialect": dialect,
            "verify": trusting(*emulators),
        }
        return GroupClient(**(defaults | options))

    return make
