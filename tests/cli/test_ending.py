"""Whatever the command waits for, a signal ends it, and --max-time ends `sync`."""

import asyncio
import fcntl
import os
import re
import signal
import socket
import subprocess
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from support.bulk_jobs import ids, until, written
from support.command_line import COMMAND, environment
from support.command_process import CommandProcess, started
from support.silent_server import Silent, listening

from rongcloud_groups.emulator import Emulator, Faults

WITHIN = 4.0
"""Seconds from the signal to the end: less than any of the waits, and more than a busy machine takes."""


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(limit=None, faults=Faults(share={"hang": 1.0})) as emulator:
        yield emulator


@pytest.fixture
def here(here: Path) -> Path:
    written(here / "ids.txt", *ids(600))
    os.mkfifo(here / "fifo")
    return here


@pytest.fixture
def silent_name_server(tmp_path: Path) -> Iterator[list[str]]:
    """The words before a command that make it ask a name server which never responds."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.9\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: dns\n")
    mounts = " && ".join(f'mount --bind "{tmp_path / name}" /etc/{name}' for name in ("resolv.conf", "nsswitch.conf"))
    prefix = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", f'{mounts} && exec "$@"', "sh"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        try:
            server.bind(("127.0.0.9", 53))
            subprocess.run([*prefix, "/bin/true"], check=True, capture_output=True)  # noqa: S603  a namespace of its own
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("a name server of its own takes the rights of root")
        yield prefix


def is_waiting(process: Process | CommandProcess) -> Callable[[], bool]:
    """Whether a process handles signals (a bit in a mask), and waits in the kernel."""

    def waiting() -> bool:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        except FileNotFoundError:  # it has ended
            return True
        caught = int(re.findall(r"SigCgt:\s*(\w+)", status)[0], 16)
        return bool(caught >> signal.SIGTERM - 1 & 1) and "State:\tS" in status

    return waiting


async def ended_by(process: Process | CommandProcess, number: signal.Signals) -> tuple[int | None, float, bytes]:
    signalled = time.monotonic()
    process.send_signal(number)
    _, errors = await process.communicate()
    return process.returncode, time.monotonic() - signalled, errors


WAITS = {
    "a request": ["sync", "ids.txt", "-o", "out.jsonl"],
    "a FIFO without a writer": ["sync", "fifo", "-o", "out.jsonl"],
    "stdin": ["sync", "-", "-o", "out.jsonl"],
    "stdin of get": ["get", "-"],
    "a request of get": ["get", "g1"],
    "a request of check": ["check"],
    "a refused request": ["sync", "ids.txt", "-o", "out.jsonl"],
    "a refused request of get": ["get", "g1"],
    "a dry run": ["sync", "ids.txt", "--dry-run"],
    "a dry run of stdin": ["sync", "-", "--dry-run"],
    "a connection": ["sync", "ids.txt", "-o", "out.jsonl"],
    "a connection of get": ["get", "g1"],
    "Redis": ["sync", "ids.txt", "-o", "out.jsonl"],
    "Redis of get": ["get", "g1"],
    "Redis of check": ["check"],
    "the budget": ["sync", "ids.txt", "-o", "out.jsonl"],
    "the budget of get": ["get", *ids(400)],
    "the budget's file": ["sync", "ids.txt", "-o", "out.jsonl"],
    "the budget's file of get": ["get", "g1"],
    "a secret's file": ["sync", "ids.txt", "-o", "out.jsonl"],
    "a secret's file of get": ["get", "g1"],
}


@pytest.fixture
def waiting_for(
    request: pytest.FixtureRequest, emulator: Emulator, variables: dict[str, str], tmp_path: Path
) -> Iterator[tuple[str, dict[str, str]]]:
    """The name of a wait, and an environment in which the command comes to it."""
    wait: str = request.param
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        match wait.partition(" of ")[0]:
            case "a refused request":
                emulator.faults.share = {"429": 1.0}
            case "a connection":
                for _ in range(3):  # the kernel takes no more of them
                    other = stack.enter_context(socket.socket())
                    other.settimeout(0)
                    other.connect_ex(silent.getsockname())
                variables["RONGCLOUD_BASE_URL"] = f"https://{address}"
            case "Redis":
                variables["RONGCLOUD_LIMITER"] = f"redis://{address}"
            case "the budget":
                variables |= {"RONGCLOUD_RATE": "0.2", "RONGCLOUD_LIMITER": "local"}
            case "the budget's file":
                held = stack.enter_context((tmp_path / "budget").open("wb"))
                fcntl.flock(held, fcntl.LOCK_EX)
                variables["RONGCLOUD_LIMITER"] = f"file:{tmp_path / 'budget'}"
            case "a secret's file":
                del variables["RONGCLOUD_APP_SECRET"]
                variables["RONGCLOUD_APP_SECRET_FILE"] = "fifo"
        yield wait, variables


@pytest.mark.parametrize("waiting_for", WAITS, indirect=True)
async def test_a_signal_ends_every_wait(
    waiting_for: tuple[str, dict[str, str]], emulator: Emulator, here: Path
) -> None:
    wait, env = waiting_for
    number = (signal.SIGINT, signal.SIGTERM)[list(WAITS).index(wait) % 2]
    process = await started(*WAITS[wait], env=env, here=here, stdin=PIPE)
    if "request" in wait or wait == "a dry run":
        await until(lambda: emulator.report().requests)
    else:
        await until(is_waiting(process))
    returncode, seconds, errors = await ended_by(process, number)
    assert returncode == 128 + number, errors
    assert seconds < WITHIN
    assert b"Traceback" not in errors


@pytest.mark.parametrize(
    "waiting_for", [wait for wait, command in WAITS.items() if command[0] == "sync"], indirect=True
)
async def test_max_time_ends_every_wait(waiting_for: tuple[str, dict[str, str]], here: Path) -> None:
    wait, env = waiting_for
    process = await started(*WAITS[wait], "--max-time", "0.3", env=env, here=here, stdin=PIPE)
    _, errors = await process.communicate()  # without --max-time it would wait for as long as this test may run
    assert process.returncode == 5, errors


async def test_a_signal_ends_the_scan_of_a_large_file(variables: dict[str, str], here: Path) -> None:
    (here / "many.txt").write_text("".join(f"group-{number}\n" for number in range(2_000_000)), encoding="utf-8")
    process = await started("sync", "many.txt", "-o", "out.jsonl", env=variables, here=here, stdin=PIPE)
    await until(lambda: has_open(process, here / "many.txt"))
    returncode, seconds, errors = await ended_by(process, signal.SIGINT)
    assert (returncode, seconds < WITHIN) == (130, True), errors


def has_open(process: Process | CommandProcess, path: Path) -> bool:
    try:
        return any(link.resolve() == path for link in Path(f"/proc/{process.pid}/fd").iterdir())
    except OSError:
        return False


@pytest.mark.parametrize("arguments", [["sync", "ids.txt", "-o", "out.jsonl"], ["get", "g1"], ["check"]])
async def test_a_signal_ends_a_tls_handshake_that_hangs(arguments: list[str], here: Path) -> None:
    server = Silent()
    async with listening(server) as origin:
        env = environment(f"https://localhost:{str(origin).rpartition(':')[2]}")
        process = await started(*arguments, env=env, here=here, stdin=PIPE)
        await asyncio.wait_for(server.made.wait(), 60)
        returncode, seconds, errors = await ended_by(process, signal.SIGINT)
    assert (returncode, seconds < WITHIN) == (130, True), errors


@pytest.mark.parametrize("arguments", [["sync", "ids.txt", "-o", "out.jsonl"], ["get", "g1"], ["check"]])
async def test_a_signal_ends_a_wait_for_the_name_server(
    arguments: list[str], silent_name_server: list[str], here: Path
) -> None:
    env = environment("https://service.invalid")
    process = await asyncio.create_subprocess_exec(
        *silent_name_server, COMMAND, *arguments, env=env, cwd=here, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    await until(lambda: has_udp_socket(process))
    returncode, seconds, errors = await ended_by(process, signal.SIGTERM)
    assert (returncode, seconds < WITHIN) == (143, True), errors


def has_udp_socket(process: Process | CommandProcess) -> bool:
    """Whether it has a socket to the name server: its address is 127.0.0.9, port 53."""
    try:
        sockets = Path(f"/proc/{process.pid}/net/udp").read_text(encoding="ascii")
    except OSError:
        return False
    return any(line.split()[2] == "0900007F:0035" for line in sockets.splitlines()[1:])
