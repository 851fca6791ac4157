"""What a bulk sync takes: memory and processor time by the number of IDs, and the time at the real limit."""

import argparse
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median

import httpx
import msgspec
from benchmarks.measuring.measured import print_table, write_results
from benchmarks.servers.child_processes import emulator

from rongcloud_groups.emulator.program import Address

COMMAND = str(Path(sysconfig.get_path("scripts")) / "rongcloud-groups")
MEMORY_LIMIT = 150.0
"""MB, whatever the number of IDs."""
MORE_MEMORY = 1.01
"""How much more memory ten times the IDs may take: two runs of the same differ by more. Parquet's footer, which is kept
until the file is closed, takes 1 MB for 10^6 rows."""
MORE_TIME = 1.1
"""How much more processor time for each ID: the trees in which IDs are found again grow by a level, and runs differ."""
MOST_SECONDS = 10.3
"""For 50,000 IDs at 100 requests/s, from the first request to the last."""


class Run(msgspec.Struct):
    """One sync, as the operating system and the emulator saw it."""

    name: str
    group_ids: int
    peak_mb: float
    cpu_us_per_id: float
    seconds: float
    ids_per_second: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the IDs, JSON lines alone")
    options = parser.parse_args()
    few, many = (10_000, 100_000) if options.quick else (100_000, 1_000_000)
    outputs = ["out.jsonl"] if options.quick else ["out.jsonl", "out.csv", "out.sqlite", "out.parquet"]
    runs = []
    with tempfile.TemporaryDirectory() as name, emulator("--rate", "0") as address:
        for output in outputs:
            runs += [sync(address, Path(name), output, count, rate=1e6) for count in counts_of_runs(few, many)]
    with tempfile.TemporaryDirectory() as name, emulator("--rate", "100") as address:
        real = sync(address, Path(name), "out.jsonl", 50_000, rate=100)
        arrivals = httpx.get(f"{address.url}/_emulator/arrivals", verify=address.ca_file or True).json()
    runs.append(real)
    span = max(arrivals) - min(arrivals)
    show(runs, span)
    print(write_results("bulk", {"runs": runs, "real_limit_first_to_last_request": span}, quick=options.quick))
    broken = list(broken_promises(runs, span))
    print(*broken, sep="\n")
    sys.exit(bool(broken))


def counts_of_runs(few: int, many: int) -> list[int]:
    """Twenty runs with a tenth of the IDs have as many moments at full speed as one with all: they start half the time.

    The peak is the highest of all moments, so the middle one of three large runs is compared with the highest of twenty
    small ones.
    """
    return [few] * 7 + [many] + [few] * 6 + [many] + [few] * 7 + [many]


def sync(address: Address, directory: Path, output: str, count: int, *, rate: float) -> Run:
    """Run the installed command on so many random IDs."""
    source = directory / "ids.txt"
    numbers = random.Random(0)
    with source.open("w") as file:
        file.writelines(f"{numbers.getrandbits(80):020x}\n" for _ in range(count))
    environment = os.environ | {
        "RONGCLOUD_BASE_URL": address.url,
        "RONGCLOUD_APP_KEY": address.app_key,
        "RONGCLOUD_APP_SECRET": address.app_secret,
        "RONGCLOUD_RATE": str(rate),
        "SSL_CERT_FILE": address.ca_file or "",
    }
    started = time.monotonic()
    process = subprocess.Popen([COMMAND, "sync", str(source), "-o", str(directory / output)], env=environment)  # noqa: S603  our own command
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - started
    assert process.returncode == 0
    return Run(
        f"{output.removeprefix('out.')}, {'limit lifted' if rate > 100 else '100 requests/s'}",
        count,
        usage.ru_maxrss / 1024,
        (usage.ru_utime + usage.ru_stime) / count * 1e6,
        seconds,
        count / seconds,
    )


def show(runs: list[Run], span: float) -> None:
    columns = ["sync", "IDs", "runs", "peak MB: lowest, median, highest", "CPU µs/ID", "IDs/s"]
    print_table(columns, [_row(each) for each in _alike(runs)])
    print(f"50,000 IDs at 100 requests/s: {span:.2f} s from the first request to the last")


def _alike(runs: list[Run]) -> list[list[Run]]:
    """The runs by what they did, in the order in which each was done first."""
    alike: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        alike.setdefault((run.name, run.group_ids), []).append(run)
    return list(alike.values())


def _row(runs: list[Run]) -> list[str]:
    peaks = [run.peak_mb for run in runs]
    return [
        runs[0].name,
        f"{runs[0].group_ids:,}",
        str(len(runs)),
        f"{min(peaks):.1f}, {median(peaks):.1f}, {max(peaks):.1f}",
        f"{_mean_cpu(runs):.1f}",
        f"{mean(run.ids_per_second for run in runs):,.0f}",
    ]


def _mean_cpu(runs: list[Run]) -> float:
    return mean(run.cpu_us_per_id for run in runs)


def broken_promises(runs: list[Run], span: float) -> Iterator[str]:
    for run in runs:
        if run.peak_mb > MEMORY_LIMIT:
            yield f"{run.name}: {run.peak_mb:.0f} MB"
    *lifted, _real = _alike(runs)
    for few, many in zip(lifted[::2], lifted[1::2], strict=True):
        name, count = many[0].name, many[0].group_ids
        highest, middle = max(run.peak_mb for run in few), median(run.peak_mb for run in many)
        if middle > highest * MORE_MEMORY:
            yield f"{name}: {middle:.1f} MB for {count:,}, {highest:.1f} the highest for fewer"
        if _mean_cpu(many) > _mean_cpu(few) * MORE_TIME:
            yield f"{name}: {_mean_cpu(many):.1f} µs an ID, {_mean_cpu(few):.1f} for fewer"
    if span > MOST_SECONDS:
        yield f"the real limit: {span:.2f} s"


if __name__ == "__main__":
    main()
