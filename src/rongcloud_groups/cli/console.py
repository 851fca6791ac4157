"""Messages on stderr, which harm no job when nothing takes them."""

import logging
import os
import sys
import time
from typing import Any, Final, Protocol

import msgspec

from rongcloud_groups._tables.output import printable, write_all

_QUIET_SECONDS: Final = 10.0
"""A warning is repeated after this time at the earliest."""
_MAX_KEPT: Final = 100


def one_line(text: str) -> str:
    """The text in one line, and `printable`."""
    return printable(" ".join(text.split()))


def write_stderr(text: str) -> None:
    """Write text to stderr, if that is possible: no command fails because its messages are lost."""
    try:
        write_all(sys.stderr.fileno(), text.encode(sys.stderr.encoding, "replace"))
    except OSError:
        discard(sys.stderr.fileno())


def tell(line: str) -> None:
    """Write a line to stderr."""
    write_stderr(f"{line}\n")


def print_json(message: dict[str, Any]) -> None:
    """Write a line of JSON to stderr."""
    tell(msgspec.json.encode(message).decode())


def discard(descriptor: int) -> None:
    """Let a stream that cannot be written lead nowhere, with what its buffer still holds."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


class Speaker(Protocol):
    """Shows messages on stderr."""

    def say(self, text: str, fields: dict[str, Any]) -> None:
        """Show a message: its text, or where stderr is JSON lines, its fields."""
        ...


class Messages:
    """Messages as lines on stderr.

    Args:
        in_json: whether they are JSON lines.
    """

    def __init__(self, *, in_json: bool) -> None:
        self._in_json = in_json

    def say(self, text: str, fields: dict[str, Any]) -> None:
        """Write a line."""
        if self._in_json:
            print_json(fields)
        else:
            tell(f"rongcloud-groups: {text}")


class Warnings(logging.Handler):
    """Shows the warnings of the client and of its limiter, and keeps them for a report.

    Attributes:
        speaker: shows them; None only keeps them.
        kept: their texts, the first hundred.
    """

    def __init__(self, speaker: Speaker | None) -> None:
        super().__init__(logging.WARNING)
        self.speaker = speaker
        self.kept: list[str] = []
        self._shown_at: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Show a warning; the command reports errors itself."""
        now = time.monotonic()
        if record.levelno != logging.WARNING or now < self._shown_at.get(record.msg, 0.0) + _QUIET_SECONDS:
            return
        self._shown_at[record.msg] = now
        message = one_line(record.getMessage())
        if len(self.kept) < _MAX_KEPT:
            self.kept.append(message)
        if self.speaker is not None:
            self.speaker.say(f"warning: {message}", {"message_type": "warning", "message": message})
