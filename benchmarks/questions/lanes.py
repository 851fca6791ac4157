"""Does a page wait behind a bulk sync, and what does it cost the sync?

``python -m benchmarks lanes [--quick] [--against DIRECTORY]`` prints one table, writes JSON into
``benchmarks/results``, and exits with status 1 where a promise is broken. ``DIRECTORY`` is another checkout of this
project with an environment in ``.venv``: its figures are taken first, and a get here waits no longer than there.
"""

import argparse
import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from math import ceil
from pathlib import Path
from typing import NamedTuple

import msgspec
from benchmarks.measuring.measured import print_table, write_results
from benchmarks.servers.child_processes import emulator, seen, trusting

from rongcloud_groups import Event, GroupClient
from rongcloud_groups.emulator.program import Address
from rongcloud_groups.events import BatchAnswered

LATENCY = ("--latency", "0.015", "--latency-tail", "0.002")
GETS_PER_SECOND = 25
LONGEST_WAIT = 0.030
NOISE_MS = 3.0
"""Milliseconds by which two runs of the same code differ."""
LEAST_SECONDS = 2.0
"""Time before the stream's expected end in which no get begins, so that each of them meets the stream."""


class Figures(msgspec.Struct, frozen=True):
    bulk_ids: int
    gets: int
    requests: int
    requests_needed: int
    worst_second: int
    round_trip_ms: float
    round_trip_p99_ms: float
    alone_p99_ms: float
    beside_p50_ms: float
    beside_p99_ms: float
    waited_p99_ms: float
    earlier_beside_p50_ms: float | None = None
    earlier_waited_p99_ms: float | None = None

    @property
    def earlier(self) -> tuple[float | None, float | None]:
        return self.earlier_beside_p50_ms, self.earlier_waited_p99_ms

    def broken(self) -> list[str]:
        """The promises that do not hold."""
        broken = []
        if self.waited_p99_ms > LONGEST_WAIT * 1000:
            broken.append(f"a get waits {self.waited_p99_ms:.1f} ms besides its round trip (p99)")
        if self.requests != self.requests_needed:
            broken.append(f"{self.requests} requests, not {self.requests_needed}")
        if (before := self.earlier_waited_p99_ms) is not None and self.waited_p99_ms > before + NOISE_MS:
            broken.append(f"a get waits {self.waited_p99_ms:.1f} ms (p99), and waited {before:.1f} ms")
        if (before := self.earlier_beside_p50_ms) is not None and self.beside_p50_ms > before + NOISE_MS:
            broken.append(f"a get takes {self.beside_p50_ms:.1f} ms (p50), and took {before:.1f} ms")
        return broken


class Results(msgspec.Struct):
    rows: Figures


class Get(NamedTuple):
    """Seconds that a get took, and those of them that were its request's round trip."""

    seconds: float
    round_trip: float

    @property
    def waited(self) -> float:
        """Seconds besides the round trip."""
        return self.seconds - self.round_trip


@asynccontextmanager
async def opened(address: Address, round_trips: list[float]) -> AsyncIterator[GroupClient]:
    def note(event: Event) -> None:
        if isinstance(event, BatchAnswered):
            round_trips.append(event.seconds)

    async with GroupClient(
        address.app_key, address.app_secret, base_urls=address.url, verify=trusting(address), hooks=[note]
    ) as client:
        yield client


async def timed_get(client: GroupClient, group_id: str, round_trips: list[float]) -> Get:
    began = time.monotonic()
    await client.get(group_id)
    return Get(time.monotonic() - began, round_trips[-1])  # the response that came last is its own


async def gets_at_random(client: GroupClient, seconds: float, round_trips: list[float]) -> list[Get]:
    """Single gets for some seconds, independent of each other as those of pages are."""
    end = time.monotonic() + seconds
    async with asyncio.TaskGroup() as tasks:
        gets: list[asyncio.Task[Get]] = []
        while time.monotonic() < end:
            gets.append(tasks.create_task(timed_get(client, f"page{len(gets)}-{end}", round_trips)))
            await asyncio.sleep(random.expovariate(GETS_PER_SECOND))
    return [each.result() for each in gets]


def bulk_ids(count: int) -> Iterator[str]:
    return (f"bulk{number}" for number in range(count))


async def run(address: Address, count: int) -> tuple[list[Get], list[Get], list[float]]:
    """What gets took alone and beside a stream, and each round trip."""
    round_trips: list[float] = []
    async with opened(address, round_trips) as client:
        await client.get("first")  # opens the connection
        alone = await gets_at_random(client, LEAST_SECONDS, round_trips)
        round_trips.clear()
        async with client.stream(bulk_ids(count)) as parts, asyncio.TaskGroup() as tasks:
            await anext(parts)
            beside = tasks.create_task(gets_at_random(client, count / 5000 - LEAST_SECONDS, round_trips))
            async for _ in parts:
                pass
            assert beside.done(), "the stream ended before the gets"
    return alone, beside.result(), round_trips


def percentile(values: list[float], percent: int) -> float:
    return sorted(values)[len(values) * percent // 100]


def measure(count: int) -> Figures:
    with emulator(*LATENCY) as address:
        alone, beside, round_trips = asyncio.run(run(address, count))
        _, report = seen(address)
    return Figures(
        bulk_ids=count,
        gets=len(beside),
        requests=len(round_trips),
        requests_needed=ceil((count + len(beside)) / 50),
        worst_second=report.worst_second,
        round_trip_ms=percentile(round_trips, 50) * 1000,
        round_trip_p99_ms=percentile(round_trips, 99) * 1000,
        alone_p99_ms=percentile([get.seconds for get in alone], 99) * 1000,
        beside_p50_ms=percentile([get.seconds for get in beside], 50) * 1000,
        beside_p99_ms=percentile([get.seconds for get in beside], 99) * 1000,
        waited_p99_ms=percentile([get.waited for get in beside], 99) * 1000,
    )


def measured_in(directory: Path, *, quick: bool) -> Figures:
    """What the same program of another checkout finds."""
    command = [str(directory / ".venv/bin/python"), "-m", "benchmarks", "lanes", *(["--quick"] if quick else [])]
    subprocess.run(command, cwd=directory, check=False, stdout=subprocess.DEVNULL)  # noqa: S603  our own program
    content = (directory / "benchmarks/results" / f"lanes{'-quick' if quick else ''}.json").read_bytes()
    return msgspec.json.decode(content, type=Results).rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="25,000 IDs in bulk instead of 100,000")
    parser.add_argument("--against", type=Path, metavar="DIRECTORY", help="another checkout, to compare with")
    options = parser.parse_args()
    quick = options.quick
    earlier = None if options.against is None else measured_in(options.against, quick=quick)
    figures = measure(25_000 if quick else 100_000)
    if earlier is not None:
        figures = msgspec.structs.replace(
            figures, earlier_beside_p50_ms=earlier.beside_p50_ms, earlier_waited_p99_ms=earlier.waited_p99_ms
        )
    print_table(
        [
            "IDs in bulk",
            "gets",
            "requests",
            "needed",
            "worst second",
            "round trip ms",
            "its p99",
            "alone p99",
            "p50",
            "p99",
            "besides its round trip",
            "earlier p50",
            "earlier besides",
        ],
        [
            [
                str(figures.bulk_ids),
                str(figures.gets),
                str(figures.requests),
                str(figures.requests_needed),
                str(figures.worst_second),
                f"{figures.round_trip_ms:.1f}",
                f"{figures.round_trip_p99_ms:.1f}",
                f"{figures.alone_p99_ms:.1f}",
                f"{figures.beside_p50_ms:.1f}",
                f"{figures.beside_p99_ms:.1f}",
                f"{figures.waited_p99_ms:.1f}",
                *("" if each is None else f"{each:.1f}" for each in figures.earlier),
            ]
        ],
    )
    write_results("lanes", figures, quick=quick)
    broken = figures.broken()
    print(f"BROKEN  lanes: {'; '.join(broken)}" if broken else "HOLDS   lanes")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
