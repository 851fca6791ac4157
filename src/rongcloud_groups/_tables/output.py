"""Write to a file descriptor that may take a part, be full, have a slow reader, or be a terminal."""

import json
import os
import select
import stat
import sys
from threading import Event
from typing import Final

_PIECE: Final = 4096
"""Bytes that a pipe takes without blocking once it is writable (PIPE_BUF on Linux; POSIX asks for 512)."""
_POLL_MS: Final = 100
_JOINERS: Final = {"\N{ZERO WIDTH JOINER}"}
"""Not printable by themselves, but inside an emoji."""


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


def write_rows(content: bytes, cancelled: Event | None = None) -> None:
    """Write whole lines in UTF-8 to stdout, as `write_all`; a terminal gets nothing that it would obey."""
    if sys.stdout.isatty():
        rows = content.decode(errors="replace").split("\n")
        content = "\n".join(map(_printable_row, rows)).encode(sys.stdout.encoding, "replace")
    try:
        sys.stdout.flush()
        write_all(sys.stdout.fileno(), content, cancelled)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "stdout") from None


def printable(text: str) -> str:
    """The text with a replacement for each character that a terminal would obey instead of showing."""
    if text.isprintable():
        return text
    return "".join(char if _is_shown(char) else "\N{REPLACEMENT CHARACTER}" for char in text)


def _printable_row(row: str) -> str:
    """A row of JSON keeps its value: an escape stands for each such character."""
    if row.isprintable() or not row.startswith("{"):
        return printable(row)
    return "".join(char if _is_shown(char) else json.dumps(char)[1:-1].replace("\x7f", r"\u007f") for char in row)


def _is_shown(character: str) -> bool:
    return character.isprintable() or character in _JOINERS
