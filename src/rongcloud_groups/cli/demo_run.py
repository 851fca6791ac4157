"""The demo's job, and a check of its counts against the emulator's."""

import random
import ssl
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired
from typing import Final

import httpx
import msgspec
from rich.console import Console
from rich.text import Text

from rongcloud_groups.bulk import FailedIdsPrinter, Failure, Job, Report, file_source, open_sink
from rongcloud_groups.cli.console import fitted
from rongcloud_groups.cli.exit import Context, ExitCode, print_error
from rongcloud_groups.cli.progress import display, watch
from rongcloud_groups.client import GroupClient
from rongcloud_groups.emulator.program import Address
from rongcloud_groups.emulator.server import Report as Seen
from rongcloud_groups.errors import ConfigError, InvalidGroupId, RongCloudError
from rongcloud_groups.models import GroupProfile

RATE: Final = 100
"""Requests in any one second that the service allows an App Key."""
LINES: Final = 20_000
DISTINCT: Final = 19_500
"""Different IDs among the lines, the invalid ones included; the other lines are duplicates."""
INVALID: Final = (
    "chess,tea",
    "chess and tea",
    "chess\ttea",
    "chess\N{ZERO WIDTH SPACE}tea",
    f"{'a-very-long-name-':*<65}",
    "g1001,g1002,g1003",
)
"""IDs that no request may carry: with commas, spaces, an invisible character, or 65 characters."""
_NUMBERS_WIDTH: Final = 22
_EMULATOR: Final = ("--latency=0.02", "--latency-tail=0.005", "--unknown=0.05", f"--rate={RATE}")
_PROGRAM: Final = """
import os, signal, sys, threading
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for the parent, which ends this process
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()  # so does its death
from rongcloud_groups.emulator.__main__ import main
main()
"""


class Outcome(msgspec.Struct, frozen=True):
    distinct: int  # different IDs in the file of IDs
    written: Counter[str]  # the group IDs in the file of profiles, each with how often it occurs
    failed: list[Failure]
    report: Report
    seen: Seen  # the emulator's report


def run(directory: Path, context: Context) -> int:
    directory.mkdir(parents=True, exist_ok=True)
    ids_file, profiles_file = directory / "group-ids.txt", directory / "profiles.jsonl"
    ids = demo_ids()
    content = "".join(f"{line}\n" for line in ids).encode()
    if ids_file.exists() and ids_file.read_bytes() != content:
        raise ConfigError(f"{ids_file} is not the demo's; give another --directory")
    ids_file.write_bytes(content)
    failed: list[Failure] = []

    async def look_up(client: GroupClient) -> Report:
        async with client:
            printer = FailedIdsPrinter(failed.append)
            job = Job(client, file_source(ids_file), open_sink(profiles_file), printer, restart=True)
            return await watch(job, display("auto", stdout_has_rows=False, interval=1.0), context.warnings)

    with _emulator_process(*_EMULATOR) as address:
        tls = ssl.create_default_context(cafile=address.ca_file)
        # The guard keeps to the limit on a busy machine as well, where the emulator's process may be late to read.
        client = GroupClient(address.app_key, address.app_secret, base_urls=address.url, verify=tls, guard=True)
        report = context.run(look_up(client))
        response = httpx.get(f"{address.url}/_emulator/report", verify=tls, trust_env=False)
    profiles = msgspec.json.Decoder(GroupProfile).decode_lines(profiles_file.read_bytes())
    written = Counter(profile.group_id for profile in profiles)
    seen = msgspec.json.decode(response.raise_for_status().content, type=Seen)
    outcome = Outcome(len(set(ids)), written, failed, report, seen)
    _print_summary(outcome, ids_file, profiles_file)
    wrong = contradictions(outcome)
    for each in wrong:
        print_error(each)
    return ExitCode.ERROR if wrong else ExitCode.DONE


def demo_ids() -> list[str]:
    """All the lines, the same each time."""
    shuffle = random.Random(20)
    valid = [
        {0: f"项目组-{number}", 1: f"team_{number:x}"}.get(number % 10, f"g{100_000 + number}")
        for number in range(DISTINCT - len(INVALID))
    ]
    lines = [*valid, *INVALID, *shuffle.choices(valid, k=LINES - DISTINCT)]
    shuffle.shuffle(lines)
    return lines


@contextmanager
def _emulator_process(*options: str) -> Iterator[Address]:
    """Run the emulator as a process: it counts by a clock and an event loop that are not the client's."""
    command = [sys.executable, "-P", "-c", _PROGRAM, *options]
    with Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:  # noqa: S603  our own module
        try:
            assert process.stdout is not None  # noqa: S101  it is a pipe
            line = process.stdout.readline()
            if not line:
                errors = process.communicate()[1].decode(errors="replace")
                raise RongCloudError(f"the emulator did not start: {errors}")
            yield msgspec.json.decode(line, type=Address)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=5)
            except TimeoutExpired:
                process.kill()


def _print_summary(outcome: Outcome, ids_file: Path, profiles_file: Path) -> None:
    counts, seconds = outcome.report.counts, outcome.report.seconds
    invalid = sum(each.error == InvalidGroupId.__name__ for each in outcome.failed)
    connections = f"over HTTP/2, on {outcome.seen.connections} connections, one after another"
    rows = (
        ("lines", f"{counts.records:,}", f"in {ids_file}"),
        ("distinct IDs", f"{outcome.distinct:,}", "each was looked up once"),
        ("found", f"{counts.found:,}", f"their profiles are in {profiles_file}"),
        ("missing", f"{counts.missing:,}", "the service has no such group"),
        ("failed", f"{counts.failed:,}", f"{invalid} of them invalid, refused before any request"),
        ("requests", f"{outcome.seen.batch_requests:,}", connections),
        ("worst second", f"{outcome.seen.worst_second:,}", f"requests, counted by the emulator; {RATE} are allowed"),
        ("time", f"{seconds:.1f}", "seconds"),
        ("speed", f"{outcome.distinct / seconds:,.0f}", "IDs/s"),
    )
    console = Console(highlight=False)
    for name, number, words in rows:
        line = Text(fitted(f"{name:<12}  {number:>6}  {words}", sys.stdout, indent=_NUMBERS_WIDTH))
        line.stylize("bold", 0, _NUMBERS_WIDTH)
        console.print(line, soft_wrap=True)
    sys.stdout.flush()


def contradictions(outcome: Outcome) -> list[str]:
    counts, written = outcome.report.counts, outcome.written
    settled = counts.found + counts.missing + counts.failed
    refused = {each.group_id for each in outcome.failed if each.error == InvalidGroupId.__name__}
    sentences = [f"{each.group_id!r} failed: {each.message}" for each in outcome.failed if each.group_id not in refused]
    if settled != outcome.distinct:
        sentences.append(f"{settled:,} IDs are found, missing or failed; it should be all {outcome.distinct:,}")
    if refused != set(INVALID):
        sentences.append(f"{len(refused)} IDs were refused as invalid; it should be the {len(INVALID)} that are")
    if len(written) != counts.found or written.total() != counts.found:
        sentences.append(f"{written.total():,} profiles are in the file; it should be the {counts.found:,} found")
    if outcome.seen.worst_second > RATE:
        sentences.append(f"{outcome.seen.worst_second} requests came in one second; the service allows {RATE}")
    return sentences
