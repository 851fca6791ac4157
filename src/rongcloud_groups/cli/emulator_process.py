"""The emulator as a separate process, so that it counts by a clock and an event loop that aren't the client's."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE
from typing import TYPE_CHECKING, Final

import msgspec

from rongcloud_groups.errors import RongCloudError

if TYPE_CHECKING:  # it imports packages of an extra
    from rongcloud_groups.emulator.program import Address

_TIME_TO_END: Final = 5.0  # seconds
_PROGRAM: Final = """
import os, signal, sys, threading
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for the parent, which ends this process
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()  # so does its death
from rongcloud_groups.emulator.__main__ import main
main()
"""


@contextmanager
def emulator_process(*options: str) -> Iterator["Address"]:
    """Run ``python -m rongcloud_groups.emulator`` while the context lasts, at most as long as this process."""
    command = [sys.executable, "-P", "-c", _PROGRAM, *options]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:  # noqa: S603  our own module
        try:
            assert process.stdout is not None  # noqa: S101  it is a pipe
            line = process.stdout.readline()
            if not line:
                _, words = process.communicate()
                raise RongCloudError(f"the emulator did not start: {words.decode(errors='replace')}")
            from rongcloud_groups.emulator.program import Address

            yield msgspec.json.decode(line, type=Address)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=_TIME_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
