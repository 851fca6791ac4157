"""What an engine makes of the budget: threads that share a client, a fork among them, and the whole listing.

``python -m benchmarks engines [--quick]`` prints one table, writes JSON into ``benchmarks/results``, and exits with
status 1 where a promise is broken.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import msgspec
from benchmarks.measuring.measured import print_table, write_results
from benchmarks.servers.child_processes import emulator, seen, trusting

from rongcloud_groups import GroupClient
from rongcloud_groups.blocking import BlockingGroupClient
from rongcloud_groups.config import Options
from rongcloud_groups.emulator.program import Address

LATENCY = ("--latency", "0.015", "--latency-tail", "0.002", "--unknown", "0")
THREADS = 20
LIMIT = 100
LEAST_USED = 0.97


class Row(msgspec.Struct, frozen=True):
    """What one way of use came to.

    Attributes:
        way: the way of use.
        group_ids: IDs that were looked up.
        found: of them found.
        requests: batch queries at the server.
        requests_needed: those of full batches.
        worst_second: the most of them in any second.
        refused: of them refused.
        used: share of the limit from the first to the last.
        least_used: the share that is promised.
    """

    way: str
    group_ids: int
    found: int
    requests: int
    requests_needed: int
    worst_second: int
    refused: int
    used: float
    least_used: float

    @property
    def holds(self) -> bool:
        exact = (self.found, self.requests) == (self.group_ids, self.requests_needed)
        return exact and self.worst_second <= LIMIT and not self.refused and self.used >= self.least_used


def by_threads(address: Address, count: int) -> int:
    """Look up IDs from many threads through one client."""
    return _threads(BlockingGroupClient(address.app_key, address.app_secret, **_options(address)), count)


def by_threads_and_a_fork(address: Address, count: int) -> int:
    """The same on a budget in a file, where a child that was forked in the middle looks up a tenth of the IDs."""
    with tempfile.TemporaryDirectory() as directory:
        options = _options(address, limiter=f"file:{directory}/budget")
        client = BlockingGroupClient(address.app_key, address.app_secret, **options)
        child: list[int] = []

        def fork() -> None:
            while client.stats().requests < count // 100:
                pass
            if (pid := os.fork()) == 0:
                signal.alarm(60)
                os._exit(_child_failed(client, count // 10))
            child.append(pid)

        found = _threads(client, count - count // 10, fork)
        assert os.waitstatus_to_exitcode(os.waitpid(child[0], 0)[1]) == 0
    return found + count // 10


def _child_failed(client: BlockingGroupClient, count: int) -> bool:
    return len(client.get_many(f"child{number}" for number in range(count)).found) != count


def by_one_async_caller(address: Address, count: int) -> int:
    """For comparison: one ``get_many``."""

    async def look_up() -> int:
        async with _opened(address) as client:
            return len((await client.get_many(f"t{number}" for number in range(count))).found)

    return asyncio.run(look_up())


def by_profile_pages(address: Address, count: int) -> int:
    """Look up what the listing has."""
    del count

    async def look_up() -> int:
        async with _opened(address) as client, client.list_profiles() as pages:
            return sum([len(page.lookup.found) async for page in pages])

    return asyncio.run(look_up())


def by_a_naive_loop(address: Address, count: int) -> int:
    """For comparison: a page, its lookups, the next page."""
    del count

    async def look_up() -> int:
        found = 0
        async with _opened(address) as client:
            async for page in client.list_groups().pages():
                found += len((await client.get_many(group.group_id for group in page.groups)).found)
        return found

    return asyncio.run(look_up())


WAYS: dict[str, tuple[Callable[[Address, int], int], float]] = {
    "one async caller": (by_one_async_caller, LEAST_USED),
    f"{THREADS} threads": (by_threads, LEAST_USED),
    f"{THREADS} threads, a fork": (by_threads_and_a_fork, LEAST_USED),
    "list_profiles": (by_profile_pages, LEAST_USED),
    "a naive loop over pages": (by_a_naive_loop, 0.0),
}
"""The ways of use, and the share of the limit that each of them uses at least."""


def _threads(client: BlockingGroupClient, count: int, beside: Callable[[], None] = lambda: None) -> int:
    chunks = [[f"t{thread}-{number}" for number in range(count // THREADS)] for thread in range(THREADS)]
    with client, ThreadPoolExecutor(THREADS) as pool:
        lookups = [pool.submit(client.get_many, chunk) for chunk in chunks]
        beside()
        return sum(len(lookup.result().found) for lookup in lookups)


def _options(address: Address, limiter: str | None = None) -> Options:
    return {"base_urls": address.url, "verify": trusting(address), "limiter": limiter}


@asynccontextmanager
async def _opened(address: Address) -> AsyncIterator[GroupClient]:
    verify = trusting(address)
    async with GroupClient(address.app_key, address.app_secret, base_urls=address.url, verify=verify) as client:
        yield client


def measure(way: str, count: int) -> Row:
    look_up, least_used = WAYS[way]
    with emulator(*LATENCY, "--listed", str(count)) as address:
        found = look_up(address, count)
        arrivals, report = seen(address)
    used = (len(arrivals) - 1) / (arrivals[-1] - arrivals[0]) / LIMIT
    return Row(
        way=way,
        group_ids=count,
        found=found,
        requests=len(arrivals),
        requests_needed=count // 50,
        worst_second=report.worst_second,
        refused=report.refused,
        used=round(used, 4),
        least_used=least_used,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 IDs instead of 20,000")
    quick = parser.parse_args().quick
    rows = [measure(way, 10_000 if quick else 20_000) for way in WAYS]
    headings = ["way", "IDs", "found", "requests", "needed", "worst second", "refused", "used", "promised", "holds"]
    cells = [[str(cell) for cell in msgspec.structs.astuple(row)] + ["yes" if row.holds else "NO"] for row in rows]
    print_table(headings, cells)
    write_results("engines", rows, quick=quick)
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
