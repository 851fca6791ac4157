"""A process that looks groups up with one of the clients, and says on its one line of output what that took."""

import asyncio
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, Literal

import msgspec
from benchmarks.clients.field_environment import interpreter

from rongcloud_groups.emulator.program import Address

_OURS, _RECIPES, _ENGINES, _PACKAGES = (
    f"benchmarks.clients.field_{name}" for name in ("ours", "recipes", "engines", "packages")
)
CLIENTS: Final[dict[str, tuple[str, str]]] = {
    "rongcloud-groups": (_OURS, "Ours"),
    "rongcloud-groups, v4": (_OURS, "ours_v4"),
    "rongcloud-groups over pyreqwest": (_OURS, "over_pyreqwest"),
    "httpx recipe": (_RECIPES, "HttpxRecipe"),
    "aiohttp recipe": (_RECIPES, "AiohttpRecipe"),
    "MCP base client": (_PACKAGES, "McpBaseClient"),
    "ncsdk, v4": (_PACKAGES, "Ncsdk"),
    "rc-server-sdk": (_PACKAGES, "RcServerSdk"),
}
"""The clients; of each, the module and the class, so that a process imports no other."""
UNPACED: Final = {"ncsdk, v4", "MCP base client", "rc-server-sdk"}
"""The clients that send as fast as they can."""
ENGINES: Final[dict[str, tuple[str, str]]] = {
    "floor": (_ENGINES, "Floor"),
    "pyreqwest, bare": (_ENGINES, "Pyreqwest"),
    "pyqwest, bare": (_ENGINES, "Pyqwest"),
    "aiohttp, bare": (_ENGINES, "Aiohttp"),
    "urllib3-future, bare": (_ENGINES, "Urllib3Future"),
    "niquests, bare": (_ENGINES, "Niquests"),
    "httpx2, bare": (_ENGINES, "Httpx2"),
    "httpx, bare": (_ENGINES, "Httpx"),
}
"""HTTP engines with our signing and decoding, without book-keeping."""

NOT_INSTALLED: Final = 3
"""The exit status where a package is missing."""


class Order(msgspec.Struct, kw_only=True):
    """What to do.

    Attributes:
        client: a key of `CLIENTS` or `ENGINES`.
        address: whom to ask.
        warm_up: batches that are looked up first and not measured.
        batches: batches of 50 IDs.
        rate: requests/s, for clients that pace themselves.
        in_flight: the most requests in flight, for clients that are asynchronous.
        count_instructions: run in callgrind, which takes fifty times as long.
    """

    client: str
    address: Address
    warm_up: int
    batches: int
    rate: float
    in_flight: int
    count_instructions: bool = False


class Took(msgspec.Struct):
    """What it took.

    Attributes:
        processor: seconds, user and system.
        clock: seconds.
        found: IDs that were found.
        asked: IDs that were looked up.
        instructions: those executed in user space; 0 where they were not counted.
    """

    processor: float
    clock: float
    found: int
    asked: int
    instructions: int = 0


def measured(order: Order) -> Took | None:
    """Run it in a process of its own, in the field's environment; None where a package is not installed there."""
    argument = msgspec.json.encode(order).decode()
    command = [interpreter(), "-m", "benchmarks.clients.field_worker", argument]
    if order.count_instructions:
        tool = ["--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=/dev/null"]
        command = ["valgrind", *tool, *command]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)  # noqa: S603  our own program
    if done.returncode == NOT_INSTALLED:
        print(f"{order.client}: {done.stderr.splitlines()[-1]}; skipped", file=sys.stderr)
        return None
    if done.returncode:
        raise RuntimeError(f"{order.client}: {done.stderr}")
    took = msgspec.json.decode(done.stdout, type=Took)
    if order.count_instructions:
        took.instructions = int(done.stderr.rpartition("Collected : ")[2].split()[0])
    return took


async def work(order: Order) -> Took:
    module, name = (CLIENTS | ENGINES)[order.client]
    client: Callable[..., Any] = getattr(import_module(module), name)
    async with client(order.address, rate=order.rate, in_flight=order.in_flight) as opened:
        await opened.look_up([f"warm-{number}" for number in range(50 * order.warm_up)])
        group_ids = [f"group-{number:06}" for number in range(50 * order.batches)]
        if order.count_instructions:
            count_instructions("on")
        started, processor_started = time.perf_counter(), processor_time()
        found = await opened.look_up(group_ids)
        took = Took(processor_time() - processor_started, time.perf_counter() - started, len(found), len(group_ids))
        if order.count_instructions:
            count_instructions("off")
        return took


def count_instructions(switch: Literal["on", "off"]) -> None:
    command = ["callgrind_control", "-i", switch, str(os.getpid())]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603  our own arguments


def processor_time() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    order = msgspec.json.decode(sys.argv[1], type=Order)
    try:
        took = asyncio.run(work(order))
    except ModuleNotFoundError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(NOT_INSTALLED)
    sys.stdout.write(msgspec.json.encode(took).decode())


if __name__ == "__main__":
    main()
