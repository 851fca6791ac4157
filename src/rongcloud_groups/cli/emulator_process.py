"""The emulator as a separate process, so that it counts by a clock and an event loop that aren't the client's."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE, Popen, TimeoutExpired
from typing import Final

import msgspec

from rongcloud_groups.emulator.program import Address
from rongcloud_groups.errors import RongCloudError

_PROGRAM: Final = """
import os, signal, sys, threading
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for the parent, which ends this process
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()  # so does its death
from rongcloud_groups.emulator.__main__ import main
main()
"""


@contextmanager
def emulator_process(*options: str) -> Iterator[Address]:
    """Run ``python -m rongcloud_groups.emulator`` while the context lasts, at most as long as this process."""
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
