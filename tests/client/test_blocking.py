import asyncio
import gc
import inspect
import itertools
import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from support.emulators import emulator_process

from rongcloud_groups import ClientClosed, ConfigError, GroupClient, InvalidGroupId, LocalLimiter, Lookup
from rongcloud_groups.blocking import BlockingGroupClient, running, shared
from rongcloud_groups.config import Options
from rongcloud_groups.emulator import Report
from rongcloud_groups.emulator.program import Address
from rongcloud_groups.events import BatchSent, Event

IDS = [f"g{number}" for number in range(1000)]


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[Address]:
    """An emulator in a process of its own, which the environment names."""
    with emulator_process("--no-tls", "--unknown", "0.1") as address:
        monkeypatch.setenv("RONGCLOUD_BASE_URL", address.url)
        monkeypatch.setenv("RONGCLOUD_APP_KEY", address.app_key)
        monkeypatch.setenv("RONGCLOUD_APP_SECRET", address.app_secret)
        yield address


def report(address: Address) -> Report:
    with httpx.Client(base_url=address.url, trust_env=False) as client:
        return msgspec.json.decode(client.get("/_emulator/report").content, type=Report)


def warnings_in(stderr: str) -> list[str]:
    """The lines of stderr, without those in which asyncio's debug mode, part of -X dev, reports a slow machine."""
    return [line for line in stderr.splitlines() if not line.startswith("Executing <")]


def run_in_developer_mode(*arguments: str, cwd: Path | None = None) -> tuple[int, str, list[str]]:
    """A Python process with warnings as errors: its exit code, its output, and the lines of its stderr."""
    finished = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-X", "dev", "-W", "error", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    return finished.returncode, finished.stdout, warnings_in(finished.stderr)


def merged(parts: Iterator[Lookup]) -> tuple[int, int, int]:
    found = missing = failed = 0
    for part in parts:
        found, missing, failed = found + len(part.found), missing + len(part.missing), failed + len(part.failed)
    return found, missing, failed


@pytest.mark.parametrize("name", ["get", "get_many", "stream", "list_groups", "list_profiles", "stats"])
def test_the_two_clients_have_the_same_methods(name: str) -> None:
    ours, theirs = getattr(BlockingGroupClient, name), getattr(GroupClient, name)
    assert ours.__doc__
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    defaults = [parameter.default for parameter in inspect.signature(theirs).parameters.values()]
    assert [parameter.default for parameter in inspect.signature(ours).parameters.values()] == defaults


def test_no_public_method_of_the_async_client_is_left_out() -> None:
    renamed = {"aclose": "close"}
    only_async = {"app_key", "cache", "max_in_flight", "max_attempts", "open"}
    public = {name for name in vars(GroupClient) if not name.startswith("_")} - only_async
    assert {renamed.get(name, name) for name in public} <= set(dir(BlockingGroupClient))


def test_it_looks_up_one_many_and_all(address: Address) -> None:
    with BlockingGroupClient.from_env() as client:
        lookup = client.get_many(IDS)
        assert len(lookup) == len(IDS)
        group_id = next(iter(lookup.found))
        assert client.get(group_id) == lookup.found[group_id]
        assert client.get(lookup.missing[0]) is None
        assert merged(client.stream(iter(IDS))) == (len(lookup.found), len(lookup.missing), 0)
        assert client.stats().requests == sum(report(address).requests.values())
        with pytest.raises(InvalidGroupId):
            client.get("a,b")
    with pytest.raises(ClientClosed, match="closed"):
        client.get("g1")


def test_the_listing_is_an_iterator() -> None:
    with (
        emulator_process("--no-tls", "--listed", "1500") as address,
        BlockingGroupClient(address.app_key, address.app_secret, base_urls=address.url) as client,
    ):
        listed = [group.group_id for group in client.list_groups()]
        assert len(set(listed)) == 1500
        pages = list(client.list_profiles())
        assert [group_id for page in pages for group_id in page.lookup.found] == listed


def test_a_bad_option_is_refused_when_the_client_is_made() -> None:
    with pytest.raises(ConfigError, match="max_in_flight"):
        BlockingGroupClient("key", "secret", max_in_flight=0)


@pytest.mark.parametrize("option", [{"limiter": "local"}, {"limiter": LocalLimiter(50)}, {"transport": "httpx"}])
def test_a_client_with_a_limiter_or_for_mocks_shares_no_budget(option: Options, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        BlockingGroupClient("key", "secret", **option)
        assert list(tmp_path.iterdir()) == []
        BlockingGroupClient("key", "secret")
        assert [path.suffix for path in tmp_path.glob("*/*")] == [".budget"]


def test_twenty_threads_make_the_batches_that_one_async_caller_makes(address: Address) -> None:
    chunks = [[f"t{first}-{number}" for number in range(400)] for first in range(20)]
    with BlockingGroupClient.from_env(guard=True) as client, ThreadPoolExecutor(20) as pool:  # no batch is refused
        lookups = list(pool.map(client.get_many, chunks))
    assert [len(lookup) for lookup in lookups] == [400] * 20
    assert sum(report(address).requests.values()) == 8000 // 50


@pytest.mark.usefixtures("address")
def test_a_stream_reads_its_source_in_the_callers_thread() -> None:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE t (id TEXT)")
    database.executemany("INSERT INTO t VALUES (?)", [[group_id] for group_id in IDS])
    with BlockingGroupClient.from_env() as client:
        rows = (group_id for (group_id,) in database.execute("SELECT id FROM t"))
        assert sum(merged(client.stream(rows))) == len(IDS)
    database.close()


@pytest.mark.usefixtures("address")
def test_an_endless_source_is_read_only_as_far_as_parts_are_consumed() -> None:
    numbers = itertools.count()
    with BlockingGroupClient.from_env(max_in_flight=2) as client:
        with client.stream(f"g{number}" for number in numbers) as parts:
            assert next(parts)
        assert next(numbers) < 5_000
        assert client.get_many(["g1"])


@pytest.mark.usefixtures("address")
def test_a_source_that_fails_is_raised_after_the_outcomes_of_its_ids() -> None:
    def failing() -> Iterator[str]:
        yield from IDS[:120]
        raise OSError("the cursor went away")

    parts: list[Lookup] = []
    with BlockingGroupClient.from_env() as client, pytest.raises(OSError, match="cursor"):
        parts.extend(client.stream(failing()))
    assert sum(map(len, parts)) == 120


@pytest.mark.usefixtures("address")
def test_a_single_str_is_no_collection_of_ids() -> None:
    with BlockingGroupClient.from_env() as client:
        with pytest.raises(TypeError):
            client.get_many("g1")
        with pytest.raises(TypeError):
            client.stream("g1")


def test_closing_ends_the_lookups_of_other_threads() -> None:
    with emulator_process("--no-tls", "--fault", "hang=1") as address:
        client = BlockingGroupClient(address.app_key, address.app_secret, base_urls=address.url)
        caught: list[BaseException] = []

        def look_up() -> None:
            try:
                client.get("g1")
            except ClientClosed as error:
                caught.append(error)

        thread = threading.Thread(target=look_up)
        with client:
            thread.start()
            while client.stats().in_flight == 0:
                pass
        thread.join()
    assert [type(error) for error in caught] == [ClientClosed]


def test_a_call_whose_event_loop_ends_before_it_begins_leaves_no_coroutine_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = running.Running(GroupClient("app", "secret"))
    loop, closing, called = opened._loop, threading.Event(), threading.Event()

    def close() -> None:
        closing.set()
        assert called.wait(20)
        type(loop).close(loop)

    def call(coroutine: Coroutine[Any, Any, int], loop: asyncio.AbstractEventLoop) -> "Future[int]":
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        called.set()
        return future

    monkeypatch.setattr(loop, "close", close)
    monkeypatch.setattr(running, "run_coroutine_threadsafe", call)
    with ThreadPoolExecutor(1) as pool:
        closed = pool.submit(opened.close)
        assert closing.wait(20)
        with pytest.raises(ClientClosed):
            opened.call(int)
        closed.result()
    del opened
    gc.collect()  # a coroutine that was never awaited is an error here


@pytest.mark.usefixtures("address")
async def test_it_works_inside_a_running_event_loop() -> None:
    with BlockingGroupClient.from_env() as client:
        assert len(client.get_many(IDS[:60])) == 60
    assert asyncio.get_running_loop().is_running()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.usefixtures("address")
def test_a_forked_child_opens_its_own_and_the_parent_keeps_its() -> None:
    with BlockingGroupClient.from_env() as client, client.stream(iter(IDS)) as parts:
        first = next(parts)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(20)
                own = len(client.get_many(IDS[:100])) == 100
                try:
                    next(parts)
                except ClientClosed:
                    client.close()
                    code = 0 if own else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(first) + sum(merged(parts)) == len(IDS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.parametrize("use", ["pass", "del client", "client.get('g1')"])
@pytest.mark.usefixtures("address")
def test_a_forked_child_ends_whether_or_not_it_uses_the_client(use: str) -> None:
    program = (
        "import os, signal, warnings\n"
        "from rongcloud_groups.blocking import BlockingGroupClient\n"
        "client = BlockingGroupClient.from_env()\n"
        "client.get('g1')\n"
        "warnings.simplefilter('ignore', DeprecationWarning)  # of a fork beside a thread\n"
        "child = os.fork()\n"
        "if child:\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "else:\n"
        "    signal.alarm(60)\n"
        f"    {use}\n"
    )
    assert run_in_developer_mode("-c", program) == (0, "0\n", [])


def test_it_is_pickled_without_its_secret_which_the_environment_has(address: Address) -> None:
    client = BlockingGroupClient.from_env(max_attempts=2)
    explicit = BlockingGroupClient(address.app_key, address.app_secret, base_urls=address.url)
    for each in (client, explicit):
        pickled = pickle.dumps(each)
        assert address.app_secret.encode() not in pickled
        with pickle.loads(pickled) as twin:  # noqa: S301  our own
            assert len(twin.get_many(IDS[:60])) == 60


@pytest.mark.usefixtures("address")
def test_a_password_is_not_pickled() -> None:
    client = BlockingGroupClient.from_env(limiter="redis://:hidden@localhost/0")
    with pytest.raises(TypeError, match="limiter holds a password") as refused:
        pickle.dumps(client)
    assert "hidden" not in str(refused.value)


@pytest.mark.usefixtures("address")
def test_a_process_has_one_shared_client_for_the_same_options() -> None:
    client = shared(max_attempts=3)
    try:
        assert shared(max_attempts=3) is client
        assert shared(max_attempts=4) is not client
        assert client.get_many(IDS[:10])
    finally:
        client.close()
    again = shared(max_attempts=3)
    assert again is not client
    assert again.get_many(IDS[:10])
    again.close()


@pytest.mark.parametrize(
    "end", ["", "client.close()", "del client", "import gc; client = None; gc.collect()", "raise SystemExit"]
)
@pytest.mark.usefixtures("address")
def test_a_script_ends_without_a_word_whether_or_not_it_closes(end: str) -> None:
    program = (
        "from rongcloud_groups.blocking import BlockingGroupClient\n"
        "client = BlockingGroupClient.from_env()\n"
        f"print(len(client.get_many(['g1', 'g2'])))\n{end}\n"
    )
    assert run_in_developer_mode("-c", program) == (0, "2\n", [])


POOLS = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from rongcloud_groups.blocking import shared

def look_up(first):
    return len(shared(limiter=sys.argv[2]).get_many([f"g{first}-{number}" for number in range(60)]))

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    if sys.argv[1] != "fork" or sys.version_info < (3, 12):  # which warns of a fork beside any thread
        look_up("parent")
    with context.Pool(2) as pool:
        print(pool.map(look_up, range(3)))
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        print(list(pool.map(look_up, range(3))))
    alone = context.Process(target=look_up, args=["alone"])
    alone.start()
    alone.join()
    print(alone.exitcode)
"""


A_CLIENT_A_CALL = """
import multiprocessing
from rongcloud_groups.blocking import BlockingGroupClient

def look_up(first):
    for number in range(10):
        with BlockingGroupClient.from_env() as client:
            client.get(f"g{first}-{number}")

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.map(look_up, range(3))
"""


def test_processes_with_a_client_a_call_share_the_budget(
    address: Address, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RONGCLOUD_RATE", "20")
    (tmp_path / "calls.py").write_text(A_CLIENT_A_CALL, encoding="utf-8")
    began = time.monotonic()
    subprocess.run([sys.executable, "calls.py"], cwd=tmp_path, check=True, timeout=100)
    assert sum(report(address).requests.values()) == 30
    assert time.monotonic() - began > 29 / 20


@pytest.mark.parametrize("kind", ["fork", "forkserver", "spawn"])
@pytest.mark.usefixtures("address")
def test_pools_of_processes_use_the_shared_client_and_end_without_a_word(kind: str, tmp_path: Path) -> None:
    if kind not in multiprocessing.get_all_start_methods():
        pytest.skip(f"the platform has no {kind}")
    (tmp_path / "pools.py").write_text(POOLS, encoding="utf-8")  # spawned processes import it
    ended = run_in_developer_mode("pools.py", kind, f"file:{tmp_path / 'budget'}", cwd=tmp_path)
    assert ended == (0, "[60, 60, 60]\n[60, 60, 60]\n0\n", [])


def test_ctrl_c_ends_a_call_and_gives_up_its_ids() -> None:
    with (
        emulator_process("--no-tls", "--fault", "hang=1") as address,
        BlockingGroupClient(address.app_key, address.app_secret, base_urls=address.url) as client,
    ):
        client.stats()

        def interrupt() -> None:
            while client.stats().in_flight == 0:
                pass
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            client.get_many(IDS)
        thread.join()
        while client.stats().waiting:
            pass


@pytest.mark.usefixtures("address")
def test_an_iteration_in_a_closed_client_ends_in_client_closed() -> None:
    client = BlockingGroupClient.from_env()
    with client.stream(iter(IDS)) as parts:
        next(parts)
        client.close()
        with pytest.raises(ClientClosed):
            list(parts)


@pytest.mark.usefixtures("address")
def test_an_iteration_that_had_not_begun_when_the_client_closed_ends_in_client_closed() -> None:
    client = BlockingGroupClient.from_env()
    iterations: list[Iterator[object]] = [client.stream(iter(IDS)), client.list_profiles(), client.list_groups()]
    client.close()
    for each in iterations:
        with pytest.raises(ClientClosed):
            next(each)


@pytest.mark.usefixtures("address")
def test_an_iteration_needs_no_other_reference_to_its_client() -> None:
    assert sum(merged(BlockingGroupClient.from_env().stream(iter(IDS)))) == len(IDS)
    pages = BlockingGroupClient.from_env().list_profiles()
    assert sum(len(page.lookup) for page in pages) == len(list(BlockingGroupClient.from_env().list_groups()))


@pytest.mark.usefixtures("address")
def test_an_iteration_and_a_client_that_are_dropped_leave_no_ids_and_no_thread() -> None:
    threads = set(threading.enumerate())
    client = BlockingGroupClient.from_env(max_in_flight=1)
    for _ in client.stream(f"g{number}" for number in itertools.count()):
        break
    while client.stats().waiting:
        pass
    del client
    assert set(threading.enumerate()) <= threads


@pytest.mark.usefixtures("address")
def test_an_error_that_stops_the_event_loop_ends_the_calls() -> None:
    def stop(event: Event) -> None:
        if isinstance(event, BatchSent):
            raise SystemExit

    client = BlockingGroupClient.from_env(hooks=[stop])
    for _ in range(2):
        with pytest.raises(ClientClosed):
            client.get("g1")
    with pytest.raises(SystemExit):
        client.close()
    assert client.closed


@pytest.mark.usefixtures("address")
def test_a_hook_that_calls_its_blocking_client_is_refused() -> None:
    refused: list[str] = []

    def call(event: Event) -> None:
        if isinstance(event, BatchSent):
            with pytest.raises(RuntimeError) as caught:
                client.stats()
            refused.append(str(caught.value))

    with BlockingGroupClient.from_env(hooks=[call]) as client:
        client.get("g1")
    assert ["own event loop" in text for text in refused] == [True]
