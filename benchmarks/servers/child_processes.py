"""The servers that the benchmarks measure against, each in a process of its own."""

import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import httpx
import msgspec

from rongcloud_groups.emulator import Report
from rongcloud_groups.emulator.program import Address


class ProxyAddress(msgspec.Struct, frozen=True):
    url: str


@contextmanager
def emulator(*options: str) -> Iterator[Address]:
    """The emulator, with the options of its command line."""
    with emulator_process(*options) as (address, _):
        yield address


@contextmanager
def emulator_process(*options: str) -> Iterator[tuple[Address, int]]:
    """The emulator, and the ID of its process, which may be stopped and continued."""
    with _child("-m", "rongcloud_groups.emulator", *options) as (line, pid):
        yield msgspec.json.decode(line, type=Address), pid


@contextmanager
def directed_emulator(*options: str) -> Iterator[Address]:
    """The emulator of `directed_emulator.py`."""
    with _child("-m", "benchmarks.servers.directed_emulator", *options) as (line, _):
        yield msgspec.json.decode(line, type=Address)


@contextmanager
def raw_server() -> Iterator[Address]:
    """The server of `raw_server.py`."""
    with _child("-m", "benchmarks.servers.raw_server") as (line, _):
        yield msgspec.json.decode(line, type=Address)


@contextmanager
def proxied(address: Address, options: Sequence[str]) -> Iterator[str]:
    """The URL to ask at: through `delaying_proxy.py`, or straight where it has no options."""
    if not options:
        yield address.url
        return
    with _child("-m", "benchmarks.servers.delaying_proxy", address.url, *options) as (line, _):
        yield msgspec.json.decode(line, type=ProxyAddress).url


@contextmanager
def far(url: str, seconds: float) -> Iterator[str]:
    """The URL of a server that is so many seconds away, there and back."""
    with _child("-m", "benchmarks.servers.delaying_proxy", url, "--delay", str(seconds / 2)) as (line, _):
        yield msgspec.json.decode(line, type=ProxyAddress).url


class Reachable:
    """The way to an emulator, through a proxy that can be stopped: connections are refused then."""

    def __init__(self, address: Address) -> None:
        self._target = address.url
        self._proxy = ExitStack()
        self.url = ""
        self.start()

    def start(self) -> None:
        port = httpx.URL(self.url).port or 0
        child = _child("-m", "benchmarks.servers.delaying_proxy", self._target, "--port", str(port))
        line, _ = self._proxy.enter_context(child)
        self.url = msgspec.json.decode(line, type=ProxyAddress).url

    def stop(self) -> None:
        self._proxy.close()


@contextmanager
def reachable(address: Address) -> Iterator[Reachable]:
    server = Reachable(address)
    try:
        yield server
    finally:
        server.stop()


def trusting(address: Address) -> ssl.SSLContext:
    """A new context that trusts this emulator."""
    return ssl.create_default_context(cafile=address.ca_file)


def seen(address: Address) -> tuple[list[float], Report]:
    """When the headers of each request came, on `time.monotonic` and in order, and what the server counted.

    It asks over one more connection, which is left out of the count.
    """
    with httpx.Client(base_url=address.url, verify=trusting(address), trust_env=False) as client:
        arrivals = client.get("/_emulator/arrivals").raise_for_status().content
        report = client.get("/_emulator/report").raise_for_status().content
    counted = msgspec.json.decode(report, type=Report)
    return (
        sorted(msgspec.json.decode(arrivals, type=list[float])),
        msgspec.structs.replace(counted, connections=counted.connections - 1),
    )


@contextmanager
def late_timers(late: list[float]) -> Iterator[None]:
    """Append to `late` what `machine_jitter.py` finds in the time of the context."""
    command = [sys.executable, "-m", "benchmarks.measuring.machine_jitter"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  our own program
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.terminate()
            late.append(float(process.stdout.read()))


@contextmanager
def _child(*arguments: str) -> Iterator[tuple[bytes, int]]:
    """A Python process: the line with which it says that it is ready, and its ID."""
    with tempfile.TemporaryFile() as errors:
        command = [sys.executable, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)  # noqa: S603  our own programs
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                process.wait()
                errors.seek(0)
                raise RuntimeError(f"{' '.join(arguments)} did not start: {errors.read().decode()}")
            yield line, process.pid
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()
