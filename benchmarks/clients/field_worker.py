"""A process that looks groups up with one of the clients, and says on its one line of output what that took."""

import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

import msgspec
from benchmarks.clients.field_environment import interpreter

from rongcloud_groups.emulator.program import Address

CLIENTS: Final[dict[str, tuple[str, str]]] = {
    "rongcloud-groups": ("benchmarks.clients.field_ours", "Ours"),
    "rongcloud-groups, v4": ("field_ours", "ours_v4"),
    "rongcloud-groups over pyreqwest": ("field_ours", "over_pyreqwest"),
    "httpx recipe": ("benchmarks.clients.field_httpx", "HttpxRecipe"),
    "aiohttp recipe": ("benchmarks.clients.field_aiohttp", "AiohttpRecipe"),
    "ncsdk, v4": ("benchmarks.clients.field_packages", "Ncsdk"),
    "MCP base client": ("benchmarks.clients.field_packages", "McpBaseClient"),
    "rc-server-sdk": ("benchmarks.clients.field_packages", "RcServerSdk"),
}
"""The module and the class of each, so that a process imports no other."""


class Order(msgspec.Struct, kw_only=True):
    """What to do.

    Attributes:
        client: a key of `CLIENTS`.
        address: whom to ask.
        warm_up: batches that are looked up first and not measured.
        batches: batches of 50 IDs.
        rate: requests/s, for clients that pace themselves.
        in_flight: the most requests in flight, for clients that are asynchronous.
    """

    client: str
    address: Address
    warm_up: int
    batches: int
    rate: float
    in_flight: int


class Took(msgspec.Struct):
    """What it took: seconds, of the processor (user and system) and of the clock; and how many IDs were found."""

    processor: float
    clock: float
    found: int
    asked: int


def measured(order: Order) -> Took:
    """Run it in a process of its own, in the field's environment."""
    argument = msgspec.json.encode(order).decode()
    command = [interpreter(), "-m", "benchmarks.clients.field_worker", argument]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603  our own program
    return msgspec.json.decode(done.stdout, type=Took)


async def work(order: Order) -> Took:
    module, name = CLIENTS[order.client]
    client: Callable[..., Any] = getattr(import_module(module), name)
    async with client(order.address, rate=order.rate, in_flight=order.in_flight) as opened:
        await opened.look_up([f"warm-{number}" for number in range(50 * order.warm_up)])
        group_ids = [f"group-{number:06}" for number in range(50 * order.batches)]
        started, processor_started = time.perf_counter(), processor_time()
        found = await opened.look_up(group_ids)
        return Took(processor_time() - processor_started, time.perf_counter() - started, len(found), len(group_ids))


def processor_time() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    order = msgspec.json.decode(sys.argv[1], type=Order)
    sys.stdout.write(msgspec.json.encode(asyncio.run(work(order))).decode())


if __name__ == "__main__":
    main()
