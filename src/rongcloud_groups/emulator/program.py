"""The emulator as a program: it runs until SIGINT or SIGTERM."""

import gc
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import anyio
import msgspec

from rongcloud_groups.emulator.faults import Faults
from rongcloud_groups.emulator.groups import Universe
from rongcloud_groups.emulator.options import EmulatorOptions
from rongcloud_groups.emulator.rate_limit import OtherConsumer
from rongcloud_groups.emulator.server import Emulator, Report


class Address(msgspec.Struct, frozen=True):
    """The address of a running emulator, and the credentials it takes."""

    url: str
    app_key: str
    app_secret: str
    ca_file: str | None  # the certificate of the authority to trust; None without TLS


def build(options: EmulatorOptions) -> Emulator:
    """The emulator of these options.

    Raises:
        ValueError: a number is out of its range, or a fault or the file of groups cannot be read.
        OSError: the file of groups cannot be opened.
    """
    options.check()
    if options.groups is None:
        universe = Universe(options.seed, unknown_share=options.unknown, listed=options.listed)
    else:
        universe = Universe.from_jsonl(options.groups)
    same = ("host", "port", "tls", "http2", "window", "count_refused", "retry_after", "latency", "latency_tail", "seed")
    return Emulator(
        universe=universe,
        faults=Faults.parse(options.fault or (), seed=options.seed),
        limit=options.rate or None,
        other=OtherConsumer(rate=options.other) if options.other else None,
        **{name: getattr(options, name) for name in same},
    )


def announce(address: Address) -> None:
    sys.stdout.write(msgspec.json.encode(address).decode() + "\n")
    sys.stdout.flush()


async def serve(
    emulator: Emulator, *, ca_file: Path | None = None, started: Callable[[Address], None] = announce
) -> Report:
    """Run an emulator until SIGINT or SIGTERM; return its report, and print it to stderr as one line of JSON.

    Args:
        emulator: one that was not entered yet.
        ca_file: where to write the authority's certificate; None: a temporary file, removed at the end.
        started: called once it listens; by default `announce`.
    """
    with (
        anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals,
        tempfile.TemporaryDirectory(prefix="rongcloud-emulator-") as directory,
    ):
        path = anyio.Path(ca_file or f"{directory}/ca.pem") if emulator.ca_pem else None
        if path is not None:
            await path.write_bytes(emulator.ca_pem)
        async with emulator:
            gc.collect()
            gc.freeze()  # else each full collection looks through all that is imported, and arrivals are noted late
            started(Address(emulator.url, emulator.app_key, emulator.app_secret, str(path) if path else None))
            async for _ in signals:
                break
        report = emulator.report()
        sys.stderr.write(msgspec.json.encode(report).decode() + "\n")
        return report
