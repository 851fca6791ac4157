"""``rongcloud-groups demo``: 20,000 IDs at the real rate, against the emulator, which counts what it sees."""

import ssl
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import msgspec

from rongcloud_groups.cli.demo_ids import INVALID, demo_ids
from rongcloud_groups.cli.demo_outcome import RATE, Outcome
from rongcloud_groups.cli.emulator_process import emulator_process
from rongcloud_groups.cli.exit import ExitCode, Flag, print_error, run_command
from rongcloud_groups.cli.signals import Interruption
from rongcloud_groups.client import GroupClient
from rongcloud_groups.errors import RongCloudError
from rongcloud_groups.models import GroupProfile

if TYPE_CHECKING:  # it imports what an extra brings
    from rongcloud_groups.emulator.recorder import Report
    from rongcloud_groups.emulator.serve import Address

_EMULATOR: Final = ("--latency=0.02", "--latency-tail=0.005", "--unknown=0.05", f"--limit={RATE}")


def demo(*, directory: Path = Path("demo"), debug: Flag = False) -> int:
    """Look up 20,000 lines of IDs against the emulator, in about five seconds; no account is needed.

    It writes the file of IDs, with duplicates, unknown and invalid ones, and the file of the profiles.
    The exit code is 0 only if every ID is accounted for and the emulator counted no second with more than
    100 requests.

    Args:
        directory: Where the two files go.
        debug: Log what happens, and show the traceback of an error.
    """
    return run_command(lambda interruption: _demo(directory, interruption), debug=debug)


def _demo(directory: Path, interruption: Interruption) -> int:
    outcome = _outcome_in(directory, interruption)
    from rongcloud_groups.cli.demo_display import print_summary

    print_summary(outcome)
    sys.stdout.flush()
    contradictions = outcome.contradictions(invalid=INVALID)
    for contradiction in contradictions:
        print_error(contradiction)
    return ExitCode.ERROR if contradictions else ExitCode.DONE


def _outcome_in(directory: Path, interruption: Interruption) -> Outcome:
    directory.mkdir(parents=True, exist_ok=True)
    ids_file = directory / "group-ids.txt"
    ids_file.write_text("".join(f"{line}\n" for line in demo_ids()), encoding="utf-8", newline="\n")
    lines = ids_file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    with emulator_process(*_EMULATOR) as address:
        return interruption.run(_look_all_up(address, ids_file, lines, directory / "profiles.jsonl"))


async def _look_all_up(address: "Address", ids_file: Path, lines: list[str], profiles_file: Path) -> Outcome:
    distinct = len(set(lines))
    found = missing = 0
    seconds = 0.0
    failed: dict[str, RongCloudError] = {}
    tls = ssl.create_default_context(cafile=address.ca_file)
    # The guard holds the promise on a busy machine as well, where the emulator's process may be late to read.
    client = GroupClient(address.app_key, address.app_secret, base_urls=address.url, verify=tls, guard=True)
    encode_lines = msgspec.json.Encoder().encode_lines
    from rongcloud_groups.cli.demo_display import display

    with _replacing(profiles_file) as profiles, display(distinct) as show:
        started = time.monotonic()
        async with client, client.stream(lines) as parts:
            async for part in parts:
                profiles.write(encode_lines(part.found.values()))
                found += len(part.found)
                missing += len(part.missing)
                failed |= part.failed
                seconds = time.monotonic() - started
                show(found + missing + len(failed), client.stats().requests, seconds)
    report = await _report_of(address, tls)
    return Outcome(
        ids_file=ids_file,
        lines=len(lines),
        distinct=distinct,
        profiles_file=profiles_file,
        written=_group_ids_in(profiles_file),
        found=found,
        missing=missing,
        failed=failed,
        requests=report.batch_requests,
        connections=client.stats().connections,
        worst_second=report.worst_second,
        seconds=seconds,
    )


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of the one at this path once it is complete."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        yield file
    partial.replace(path)


async def _report_of(address: "Address", tls: ssl.SSLContext) -> "Report":
    import httpx

    from rongcloud_groups.emulator.recorder import Report

    async with httpx.AsyncClient(base_url=address.url, verify=tls, http2=True) as client:
        response = await client.get("/_emulator/report")
    return msgspec.json.decode(response.raise_for_status().content, type=Report)


def _group_ids_in(path: Path) -> Counter[str]:
    profiles = msgspec.json.Decoder(GroupProfile).decode_lines(path.read_bytes())
    return Counter(profile.group_id for profile in profiles)
