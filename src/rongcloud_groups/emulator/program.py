"""The emulator as a program: it runs until SIGINT or SIGTERM."""

import gc
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import msgspec

from rongcloud_groups.emulator.server import Emulator, Report


class Address(msgspec.Struct, frozen=True):
    """The address of a running emulator, and the credentials it takes."""

    url: str
    app_key: str
    app_secret: str
    ca_file: str | None  # the certificate of the authority to trust; None without TLS


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
        _certificate(emulator.ca_pem, ca_file) as path,
    ):
        async with emulator:
            gc.collect()
            gc.freeze()  # else each full collection looks through all that is imported, and arrivals are noted late
            started(Address(emulator.url, emulator.app_key, emulator.app_secret, str(path) if path else None))
            async for _ in signals:
                break
        report = emulator.report()
        sys.stderr.write(msgspec.json.encode(report).decode() + "\n")
        return report


@contextmanager
def _certificate(pem: bytes, path: Path | None) -> Iterator[Path | None]:
    with tempfile.TemporaryDirectory(prefix="rongcloud-emulator-") as directory:
        path = path or Path(directory) / "ca.pem"
        if pem:
            path.write_bytes(pem)
        yield path if pem else None
