"""(e) Memory and time of a lookup of ten thousand to a million IDs, the rate limit lifted.

``python -m benchmarks memory [--quick]``: each size in a process of its own, against `raw_server.py`; with `stream`,
whose parts are dropped as they come, and with `get_many`, whose profiles are all kept.
"""

import argparse
import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec
from benchmarks.measuring.measured import print_table, write_results
from benchmarks.servers.child_processes import raw_server, trusting

from rongcloud_groups import GroupClient
from rongcloud_groups.emulator.program import Address

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
QUICK_SIZES = (3_000, 10_000, 30_000)
KINDS = ("stream", "get_many")
MOST_GROWTH = 1.2
"""Times the memory of a stream of the smallest size that one of the largest may take."""


class Took(msgspec.Struct):
    """Seconds of the clock and of the processor, and mebibytes: before the first ID, and the highest."""

    kind: str
    ids: int
    clock: float
    processor: float
    before: float
    most: float


def group_ids(size: int) -> Iterator[str]:
    return (f"group-{number:07}" for number in range(size))


async def look_up(kind: str, address: Address, size: int) -> Took:
    client = GroupClient(address.app_key, address.app_secret, base_urls=address.url, verify=trusting(address), rate=1e6)
    async with client:
        await client.get("warm-up")
        usage = resource.getrusage(resource.RUSAGE_SELF)
        started, before = time.perf_counter(), usage.ru_maxrss
        processor = usage.ru_utime + usage.ru_stime
        found = 0
        if kind == "stream":
            async with client.stream(group_ids(size)) as parts:
                async for part in parts:
                    found += len(part.found)
        else:
            lookup = await client.get_many(group_ids(size))
            found = len(lookup.found)
        clock = time.perf_counter() - started
        usage = resource.getrusage(resource.RUSAGE_SELF)
    assert found == size, f"{found} of {size} found"
    processor = usage.ru_utime + usage.ru_stime - processor
    return Took(
        kind, size, round(clock, 2), round(processor, 2), round(before / 1024, 1), round(usage.ru_maxrss / 1024, 1)
    )


def measured(kind: str, address: Address, size: int) -> Took:
    command = [
        sys.executable,
        "-m",
        "benchmarks.questions.memory",
        "--measure",
        kind,
        str(size),
        msgspec.json.encode(address).decode(),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603  our own program
    return msgspec.json.decode(done.stdout, type=Took)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        kind, size, address = options.measure
        took = asyncio.run(look_up(kind, msgspec.json.decode(address, type=Address), int(size)))
        sys.stdout.write(msgspec.json.encode(took).decode())
        return 0
    rows = []
    with raw_server() as address:
        for size in QUICK_SIZES if options.quick else SIZES:
            for kind in KINDS:
                print(f"{kind} of {size} …", file=sys.stderr, flush=True)
                rows.append(measured(kind, address, size))
    return report(rows, quick=options.quick)


def report(rows: list[Took], *, quick: bool) -> int:
    print_table(
        ["with", "IDs", "seconds", "µs an ID", "processor, µs an ID", "MiB before", "highest MiB", "kB an ID"],
        [
            [
                each.kind,
                f"{each.ids:,}",
                f"{each.clock:.1f}",
                f"{each.clock / each.ids * 1e6:.1f}",
                f"{each.processor / each.ids * 1e6:.1f}",
                f"{each.before:.0f}",
                f"{each.most:.0f}",
                f"{(each.most - each.before) * 1024 / each.ids:.2f}",
            ]
            for each in rows
        ],
    )
    write_results("memory", rows, quick=quick)
    streams = [each.most for each in rows if each.kind == "stream"]
    if not quick and streams[-1] > MOST_GROWTH * streams[0]:
        print(f"BROKEN  a stream's memory grew from {streams[0]:.0f} to {streams[-1]:.0f} MiB")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
