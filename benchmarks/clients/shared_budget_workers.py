"""One of the processes that share a budget: it is saturated from one moment to another, and says what it sent."""

import asyncio
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Self

import msgspec

from rongcloud_groups import Event, GroupClient
from rongcloud_groups.emulator.program import Address
from rongcloud_groups.events import BatchSent

FREE = 0.005
"""Seconds for which a blocked event loop is free in between."""


class Order(msgspec.Struct):
    """What a worker has to do; times are those of `time.monotonic`.

    Attributes:
        blocked: seconds for which its event loop is blocked, again and again, with `FREE` seconds in between.
    """

    address: Address
    limiter: str
    begin: float
    end: float
    blocked: float = 0.0


class WorkerReport(msgspec.Struct):
    """What a worker did: when it sent, and how its IDs ended; ``lost`` ended in nothing."""

    sent: list[float]
    found: int
    missing: int
    failed: int
    lost: int


class Worker:
    """A worker's process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @classmethod
    def started(cls, order: Order) -> Self:
        argument = msgspec.json.encode(order).decode()
        command = [sys.executable, "-m", "benchmarks.clients.shared_budget_workers", argument]
        return cls(subprocess.Popen(command, stdout=subprocess.PIPE))  # noqa: S603  our own program

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def report(self) -> WorkerReport:
        """Wait for its end."""
        output, _ = self._process.communicate()
        return msgspec.json.decode(output, type=WorkerReport)


async def block_the_loop(seconds: float) -> None:
    """Block it for so many seconds, again and again."""
    while True:
        time.sleep(seconds)  # noqa: ASYNC251  that is the point
        await asyncio.sleep(FREE)


async def work(order: Order) -> WorkerReport:
    sent: list[float] = []
    asked = 0

    def note(event: Event) -> None:
        if isinstance(event, BatchSent):
            sent.append(time.monotonic())

    def group_ids() -> Iterator[str]:
        nonlocal asked
        while time.monotonic() < order.end:
            asked += 1
            yield f"p{os.getpid()}-{asked}"

    client = GroupClient(
        order.address.app_key,
        order.address.app_secret,
        base_urls=order.address.url,
        verify=ssl.create_default_context(cafile=order.address.ca_file),
        limiter=order.limiter,
        max_in_flight=32,  # so that the end is not far behind the last ID
        hooks=[note],
    )
    await asyncio.sleep(max(0.0, order.begin - time.monotonic()))
    found = missing = failed = 0
    blocking = asyncio.create_task(block_the_loop(order.blocked)) if order.blocked else None
    async with client, client.stream(group_ids()) as parts:
        async for part in parts:
            found += len(part.found)
            missing += len(part.missing)
            failed += len(part.failed)
    if blocking is not None:
        blocking.cancel()
    return WorkerReport(sent, found, missing, failed, asked - found - missing - failed)


def main() -> None:
    order = msgspec.json.decode(sys.argv[1], type=Order)
    sys.stdout.write(msgspec.json.encode(asyncio.run(work(order))).decode())


if __name__ == "__main__":
    main()
