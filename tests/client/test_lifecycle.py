"""Opening, closing and misuse of a client."""

import asyncio
import gc
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
import pytest_asyncio
from support.bulk_jobs import client_of
from support.clients import trusting

from rongcloud_groups import ClientClosed, GroupClient, LocalLimiter
from rongcloud_groups._dispatch import lifetime
from rongcloud_groups.emulator import Emulator


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(limit=None) as emulator:
        yield emulator


def tasks_of_clients() -> set[str]:
    return {repr(task.get_coro()) for task in asyncio.all_tasks() if "rongcloud_groups" in repr(task.get_coro())} - {
        repr(task.get_coro()) for task in asyncio.all_tasks() if "emulator" in repr(task.get_coro())
    }


async def test_an_opening_that_a_log_filter_of_the_application_breaks_ends(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: logging.LogRecord) -> bool:
        raise RuntimeError("no disk for the log")

    monkeypatch.setattr(lifetime, "_WARNED", set())
    monkeypatch.setattr(logging.getLogger("rongcloud_groups"), "filters", [refuse])
    async with client_of(emulator):
        with pytest.raises(RuntimeError, match="no disk"):
            await client_of(emulator).open()


async def test_a_client_is_opened_and_closed_without_async_with(emulator: Emulator) -> None:
    client = await client_of(emulator).open()
    assert len(await client.get_many(["g1", "g2"])) == 2
    with pytest.raises(ClientClosed, match="opened once"):
        await client.open()
    await client.aclose()
    await client.aclose()
    with pytest.raises(ClientClosed, match="the client is closed"):
        await client.get("g1")


async def test_a_client_shows_whether_it_is_open(emulator: Emulator) -> None:
    async with client_of(emulator) as client:
        host = emulator.url.partition("//")[2]
        assert repr(client) == f"<GroupClient {emulator.app_key!r} at {host}, open>"
    assert repr(client).endswith(", not open>")
    assert repr(GroupClient.__new__(GroupClient)) == "<GroupClient, not made>"  # as in a traceback of its constructor


async def test_opening_that_is_cancelled_leaves_no_task(emulator: Emulator) -> None:
    client = client_of(emulator)
    with anyio.move_on_after(0):
        async with client:
            raise AssertionError("it is not open")
    assert tasks_of_clients() == set()
    with pytest.raises(ClientClosed, match="the client is closed"):
        await client.get("g1")


async def test_a_call_while_the_client_is_still_opening_says_so(emulator: Emulator) -> None:
    client = client_of(emulator)
    opening = asyncio.create_task(client.open())
    await asyncio.sleep(0)
    with pytest.raises(ClientClosed, match="still opening: wait until"):
        await client.get("g1")
    await opening
    await client.get("g1")
    await client.aclose()


async def test_a_client_is_not_used_from_a_thread_without_its_event_loop(emulator: Emulator) -> None:
    async with client_of(emulator) as client:
        with pytest.raises(ClientClosed, match="no event loop runs in this thread"):
            await asyncio.to_thread(client.stream, ["g1"])
        for call in (client.get, client.get_many, client.stream):
            with pytest.raises(ClientClosed, match="opened in another event loop"):
                await asyncio.to_thread(asyncio.run, _called(call))
        with pytest.raises(ClientClosed, match="opened in another event loop"):
            await asyncio.to_thread(asyncio.run, client.aclose())
        assert len(await client.get_many(["g1"])) == 1


async def _called(call: object) -> None:
    result = call("g1") if getattr(call, "__name__", "") == "get" else call(["g1"])  # type: ignore[operator]
    await result


FORK = """
    import asyncio, os, sys
    from rongcloud_groups import ClientClosed
    from rongcloud_groups.pytest_plugin import InProcessEmulator

    async def in_the_child(client):
        for call in (client.get("g1"), client.get_many(["g1"]), client.aclose()):
            try:
                await call
            except ClientClosed as error:
                print(error, flush=True)

    async def main():
        from rongcloud_groups import GroupClient
        import httpx
        transport = httpx.MockTransport(lambda request: httpx.Response(200, json={"code": 200, "profiles": []}))
        async with GroupClient("key", "secret", transport=transport) as client:
            await client.get("g1")
            if not (child := os.fork()):
                try:
                    asyncio.run(in_the_child(client))
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            assert await client.get("g1") is None

    asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_client_that_was_opened_before_a_fork_says_so_and_still_serves_the_parent() -> None:
    finished = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", textwrap.dedent(FORK)], capture_output=True, text=True, check=False, timeout=100
    )
    assert finished.stderr == ""
    assert (
        finished.stdout.splitlines()
        == ["the client was opened before this process was forked: open one client in each process"] * 3
    )


async def test_several_clients_of_one_app_key_without_a_common_limiter_are_logged_once(
    emulator: Emulator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifetime, "_WARNED", set())
    async with client_of(emulator), client_of(emulator), client_of(emulator):
        pass
    async with client_of(emulator), client_of(emulator):
        pass
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert emulator.app_key in warnings[0]
    assert "limiter=" in warnings[0]
    assert "shared()" in warnings[0]


async def test_clients_that_share_a_limiter_or_follow_each_other_are_not_logged(
    emulator: Emulator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lifetime, "_WARNED", set())
    limiter = LocalLimiter(100)
    async with client_of(emulator, limiter=limiter), client_of(emulator, limiter=limiter):
        pass
    words = f"file:{tmp_path / 'budget'}"
    async with client_of(emulator, limiter=words), client_of(emulator, limiter=words):
        pass
    for _ in range(2):
        async with client_of(emulator):
            pass
    async with Emulator(app_key="another") as another, client_of(emulator), client_of(another):
        pass
    assert [record for record in caplog.records if record.levelno == logging.WARNING] == []


SIXTY_FOUR = """
    import asyncio, gc, os, sys
    from pathlib import Path
    from rongcloud_groups import GroupClient
    from rongcloud_groups.emulator import Emulator

    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0

    async def one(emulator, number):
        client = GroupClient(
            emulator.app_key, emulator.app_secret, base_urls=emulator.url, verify=emulator.ssl_context
        )
        async with client:
            assert len(await client.get_many([f"g{number}", "g1"])) >= 1
            async with client.stream(f"g{each}" for each in range(2_000)) as parts:
                await anext(parts)

    async def main():
        asyncio.get_running_loop().slow_callback_duration = 60  # a busy machine is not the fault of the client
        async with Emulator(limit=None) as emulator:
            for number in range(8):
                await one(emulator, number)
            gc.collect()
            before = descriptors(), len(asyncio.all_tasks()), len(gc.get_objects())
            for number in range(64):
                await one(emulator, number)
            for _ in range(1000):  # the emulator closes its side of a connection a little later
                if (descriptors(), len(asyncio.all_tasks())) <= before[:2]:
                    break
                await asyncio.sleep(0.02)
            gc.collect()
            after = descriptors(), len(asyncio.all_tasks()), len(gc.get_objects())
            assert after[:2] <= before[:2], (before, after)
            assert sum(isinstance(each, GroupClient) for each in gc.get_objects()) == 0
            assert after[2] - before[2] < 64 * 30, (before, after)

    asyncio.run(main())
    print("done")
"""


def test_sixty_four_clients_in_turn_leave_nothing_and_developer_mode_is_silent() -> None:
    finished = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(SIXTY_FOUR)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (finished.stdout, finished.stderr) == ("done\n", "")


async def test_a_client_that_is_never_opened_needs_no_closing(emulator: Emulator) -> None:
    client = GroupClient(emulator.app_key, emulator.app_secret, base_urls=emulator.url, verify=trusting(emulator))
    await client.aclose()
    del client
    gc.collect()
