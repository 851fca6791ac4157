"""Do the pages of a web app in four processes keep one budget, and do they come soon?

``python -m benchmarks web [--quick]`` prints one table, writes JSON into ``benchmarks/results``, and exits with
status 1 where a promise is broken.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import msgspec
from benchmarks.measuring.measured import print_table, write_results
from benchmarks.servers.child_processes import emulator, seen

from rongcloud_groups.emulator import worst_second
from rongcloud_groups.emulator.program import Address

LATENCY = ("--latency", "0.015", "--latency-tail", "0.002")
EXAMPLES = Path(__file__).parents[2] / "examples"
PROCESSES = 4
PAGES_PER_SECOND = 400
LIMIT = 100
LONGEST_PAGE = 0.150


class Visit(msgspec.Struct, frozen=True):
    """One page: how it was answered, and after how many seconds since it was due."""

    status: int
    seconds: float


class Figures(msgspec.Struct, frozen=True):
    pages: int
    errors: int
    requests: int
    worst_second: int
    group_ids_per_request: float
    p50_ms: float
    p99_ms: float

    @property
    def holds(self) -> bool:
        return not self.errors and self.worst_second <= LIMIT and self.p99_ms <= LONGEST_PAGE * 1000


@contextmanager
def app_server(address: Address, directory: Path) -> Iterator[str]:
    """The FastAPI example on uvicorn, in several processes; yields its URL once all of them serve."""
    assert address.ca_file is not None
    env = os.environ | {
        "RONGCLOUD_BASE_URL": address.url,
        "RONGCLOUD_APP_KEY": address.app_key,
        "RONGCLOUD_APP_SECRET": address.app_secret,
        "RONGCLOUD_LIMITER": f"file:{directory / 'budget'}",
        "SSL_CERT_FILE": address.ca_file,
    }
    app = ["fastapi_app:app", "--app-dir", str(EXAMPLES), "--port", "0", "--workers", str(PROCESSES)]
    command = [sys.executable, "-m", "uvicorn", *app, "--no-access-log"]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE) as server:  # noqa: S603  our own example
        try:
            assert server.stderr is not None
            yield _url(server.stderr)
        finally:
            server.terminate()
            server.communicate()


def _url(log: Iterator[bytes]) -> str:
    url, started = "", 0
    for line in log:
        if found := re.search(rb"running on (http://[\d.:]+)", line):
            url = found[1].decode()
        started += b"startup complete" in line
        if url and started == PROCESSES:
            return url
    raise RuntimeError("uvicorn did not start")


async def visit(url: str, seconds: float) -> list[Visit]:
    """Ask for pages at a steady rate, each of another group, whether or not those before were answered."""
    connector, patience = aiohttp.TCPConnector(limit=200), aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(url, connector=connector, timeout=patience) as browser:

        async def page(name: str, due: float) -> Visit:
            await asyncio.sleep(due - time.monotonic())
            async with browser.get(f"/groups/{name}") as response:
                await response.read()
            return Visit(response.status, time.monotonic() - due)

        # Nothing leaves for 1.6 s after the budget's file is made, for the sake of processes that had a budget before.
        await asyncio.gather(*(page(f"first{number}", time.monotonic()) for number in range(PROCESSES * 10)))
        begin = time.monotonic()
        return await asyncio.gather(
            *(
                page(f"g{number}", begin + number / PAGES_PER_SECOND)
                for number in range(int(seconds * PAGES_PER_SECOND))
            )
        )


def measure(seconds: float) -> Figures:
    with (
        tempfile.TemporaryDirectory() as directory,
        emulator(*LATENCY) as address,
        app_server(address, Path(directory)) as url,
    ):
        visits = asyncio.run(visit(url, seconds))
        arrivals, report = seen(address)
    statuses = Counter(each.status for each in visits)
    times = sorted(each.seconds for each in visits)
    return Figures(
        pages=len(visits),
        errors=len(visits) - statuses[200] - statuses[404],
        requests=len(arrivals),
        worst_second=worst_second(arrivals),
        group_ids_per_request=report.ids_asked / len(arrivals),
        p50_ms=times[len(times) // 2] * 1000,
        p99_ms=times[len(times) * 99 // 100] * 1000,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="five seconds instead of thirty")
    quick = parser.parse_args().quick
    figures = measure(5 if quick else 30)
    print_table(
        ["pages/s", "pages", "errors", "requests", "worst second", "IDs a request", "p50 ms", "p99 ms", "holds"],
        [
            [
                str(PAGES_PER_SECOND),
                str(figures.pages),
                str(figures.errors),
                str(figures.requests),
                str(figures.worst_second),
                f"{figures.group_ids_per_request:.1f}",
                f"{figures.p50_ms:.0f}",
                f"{figures.p99_ms:.0f}",
                "yes" if figures.holds else "NO",
            ]
        ],
    )
    write_results("web", figures, quick=quick)
    sys.exit(not figures.holds)


if __name__ == "__main__":
    main()
