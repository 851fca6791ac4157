"""(d) What does a `get` add to a bare request, with the client idle and while a sync runs?

``python -m benchmarks added_latency [--quick]``. A bare request is one that is signed already, sent on one of this
library's own connections, and whose response is not read. The client's process is this one.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import count
from statistics import median, quantiles
from typing import Self

from benchmarks.measuring.measured import print_table, write_results
from benchmarks.servers.child_processes import emulator, raw_server, trusting

from rongcloud_groups import Event, GroupClient, Hook
from rongcloud_groups._http import Origin, Request
from rongcloud_groups._protocol.api import ServiceApi
from rongcloud_groups._protocol.dialects import RONGCLOUD
from rongcloud_groups._protocol.secret import Secret
from rongcloud_groups._protocol.signing import Credentials
from rongcloud_groups._transport.connect import Dialler
from rongcloud_groups.emulator.program import Address
from rongcloud_groups.events import BatchSent

MOST_ADDED = 0.0003
MOST_BEHIND_SLOW = 0.080
UNLIMITED = 1e6
LATENCY = ("--rate", "0", "--latency", "0.015", "--latency-tail", "0.002")  # bare requests are not refused

Ask = Callable[[], Awaitable[object]]


def client_for(address: Address, *, rate: float = 100.0, hooks: Sequence[Hook] = ()) -> GroupClient:
    return GroupClient(
        address.app_key, address.app_secret, base_urls=address.url, verify=trusting(address), rate=rate, hooks=hooks
    )


@asynccontextmanager
async def bare_requests(address: Address) -> AsyncIterator[Ask]:
    """What sends one."""
    dialler = Dialler(verify=trusting(address), http2=True, timeout=5.0, max_in_flight=10)
    connection = await dialler.connect(Origin.parse(address.url), lambda: None)
    request = signed(address)
    try:
        yield lambda: connection.send(request, 5.0)
    finally:
        await connection.aclose()


def signed(address: Address) -> Request:
    credentials = Credentials(address.app_key, Secret(address.app_secret))
    return ServiceApi(RONGCLOUD, credentials).batch_request(["g1"])


async def seconds(ask: Ask) -> float:
    started = time.perf_counter()
    await ask()
    return time.perf_counter() - started


async def idle(address: Address, times: int) -> tuple[list[float], list[float]]:
    """How long bare requests and gets took, in turns."""
    numbers = count()
    bare, got = [], []
    async with client_for(address, rate=UNLIMITED) as client, bare_requests(address) as send:
        for _ in range(times):
            bare.append(await seconds(send))
            got.append(await seconds(lambda: client.get(f"g{next(numbers)}")))
    return bare[times // 10 :], got[times // 10 :]


async def during_sync(address: Address, times: int) -> tuple[list[float], list[float]]:
    """The same while a stream takes the whole of a budget of 100 requests/s; a bare request takes none of it."""
    numbers = count()
    bare, got = [], []
    async with (
        client_for(address) as client,
        bare_requests(address) as send,
        client.stream(f"s{number}" for number in endless()) as parts,
    ):
        draining = asyncio.create_task(drain(parts))
        await asyncio.sleep(1)  # the budget is used up by then
        for _ in range(times):
            bare.append(await seconds(send))
            got.append(await seconds(lambda: client.get(f"g{next(numbers)}")))
            await asyncio.sleep(0.017)  # at no fixed place in the budget's rhythm
        draining.cancel()
        await asyncio.wait([draining])
    return bare, got


def endless() -> Iterator[int]:
    return count()


async def drain(parts: AsyncIterator[object]) -> None:
    async for _ in parts:
        pass


async def behind_slow(address: Address, times: int) -> list[float]:
    """How long a `get` takes that is answered after 50 ms, with 20 of 2 s under way on the same connection."""
    took = []
    for _ in range(times):
        sent = asyncio.Semaphore(0)

        def note(event: Event, sent: asyncio.Semaphore = sent) -> None:
            if isinstance(event, BatchSent):
                sent.release()

        async with client_for(address, rate=UNLIMITED, hooks=[note]) as client:
            async with asyncio.TaskGroup() as slow:
                for number in range(20):
                    slow.create_task(client.get(f"after-2-{number}"))
                    await sent.acquire()  # by itself, not with the next in one batch
                took.append(await seconds(lambda: client.get("after-0.05-g")))
            assert client.stats().connections == 1
    return took


@dataclass
class Latency:
    """What was measured in one situation, in milliseconds; p50, p90 and p99 of each kind."""

    when: str
    bare: list[float]
    get: list[float]
    added: float

    @classmethod
    def of(cls, when: str, bare: list[float], got: list[float]) -> Self:
        return cls(when, percentiles(bare), percentiles(got), round(1000 * (median(got) - median(bare)), 3))


def percentiles(times: list[float]) -> list[float]:
    hundredths = quantiles(times, n=100)
    return [round(1000 * each, 3) for each in (median(times), hundredths[89], hundredths[98])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    quick = parser.parse_args().quick
    with raw_server() as address:
        bare, got = asyncio.run(idle(address, 300 if quick else 3000))
        slow = asyncio.run(behind_slow(address, 1 if quick else 5))
    with emulator(*LATENCY) as address:
        bare_beside, got_beside = asyncio.run(during_sync(address, 60 if quick else 600))
    rows = [
        Latency.of("idle", bare, got),
        Latency.of("during a sync at 100/s, answers after 15 ms", bare_beside, got_beside),
    ]
    print_table(
        ["client", "bare request, ms: p50, p90, p99", "get, ms: p50, p90, p99", "added to p50, ms"],
        [[str(cell) for cell in asdict(each).values()] for each in rows],
    )
    print(f"\na 50 ms answer behind 20 of 2 s on one connection: {1000 * max(slow):.1f} ms, the longest of {len(slow)}")
    figures = {"rows": rows, "behind_slow_ms": [round(1000 * each, 2) for each in slow]}
    write_results("added_latency", figures, quick=quick)
    broken = []
    if (added := median(got) - median(bare)) > MOST_ADDED:
        broken.append(f"{1000 * added:.2f} ms added to a bare request")
    if max(slow) > MOST_BEHIND_SLOW:
        broken.append(f"{1000 * max(slow):.0f} ms behind slow responses")
    for promise in broken:
        print(f"BROKEN  {promise}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
