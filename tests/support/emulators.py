"""Emulators in processes of their own, so that they count by a clock and an event loop that are not the client's."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from support.command_server import SERVER

from rongcloud_groups.emulator.program import Address


@contextmanager
def emulator_process(*options: str) -> Iterator[Address]:
    """As `_emulator_process` of the command's demo, but forked from a process that has imported the emulator."""
    (stdin_reader, stdin_writer), (stdout_reader, stdout_writer) = os.pipe(), os.pipe()
    with Path(os.devnull).open("wb") as stderr:
        process = SERVER.start(options, (stdin_reader, stdout_writer, stderr.fileno()), os.environ, None, "emulator")
    os.close(stdin_reader)
    os.close(stdout_writer)
    try:
        with os.fdopen(stdout_reader, "rb") as stdout:
            yield msgspec.json.decode(stdout.readline(), type=Address)
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait()
        os.close(stdin_writer)
