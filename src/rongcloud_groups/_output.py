"""Write to a file descriptor that may take a part, be full, or have a slow reader."""

import os
import select
import stat
from threading import Event
from typing import Final

_PIECE: Final = 4096
"""Bytes that a pipe takes without blocking once it is writable (PIPE_BUF on Linux; POSIX asks for 512)."""
_POLL_MS: Final = 100


class WriteCancelled(Exception):  # noqa: N818  a way to end, not an error
    """`write_all` ended before all was written, because its caller asked for that."""


def write_all(descriptor: int, content: bytes, cancelled: Event | None = None) -> None:
    """Write all of ``content``, and wait where the reader is slow.

    Args:
        descriptor: of a file, pipe, socket or terminal, blocking or not.
        content: the bytes.
        cancelled: another thread sets it to end a wait within a tenth of a second.

    Raises:
        WriteCancelled: ``cancelled`` was set.
        BrokenPipeError: the reader has gone.
        OSError: the file takes no more.
    """
    rest = memoryview(content)
    if not hasattr(select, "poll") or stat.S_ISREG(os.fstat(descriptor).st_mode):
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        return
    writable = select.poll()
    writable.register(descriptor, select.POLLOUT)
    while rest:
        if cancelled is not None and cancelled.is_set():
            raise WriteCancelled
        if writable.poll(_POLL_MS):
            try:
                rest = rest[os.write(descriptor, rest[:_PIECE]) :]
            except BlockingIOError:  # another process filled the pipe first
                continue
