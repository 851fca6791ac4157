"""Messages on stderr, which harm no job when nothing takes them."""

import json
import logging
import os
import sys
import time
from textwrap import TextWrapper
from typing import Any, Final, Protocol, TextIO

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


def fitted(text: str, stream: TextIO, *, indent: int = 0) -> str:
    """The text, broken at spaces where the stream is a terminal; IDs and file names stay whole, to be copied."""
    try:
        width = os.get_terminal_size(stream.fileno()).columns
    except OSError:
        width = 0
    if not width:
        return text
    longest = max(map(len, text.split()), default=0)
    wrapper = TextWrapper(width, subsequent_indent=" " * max(0, min(indent, width - longest)))
    wrapper.break_long_words = wrapper.break_on_hyphens = False
    return "\n".join(map(wrapper.fill, text.split("\n")))


def tell(text: str) -> None:
    """Write lines to stderr."""
    write_stderr(f"{fitted(text, sys.stderr)}\n")


def print_json(message: dict[str, Any]) -> None:
    """Write a line of JSON to stderr: in ASCII, which any stderr takes, with file names that are no Unicode text."""
    write_stderr(f"{json.dumps(message)}\n")


def prompt_for_ids() -> None:
    """Say on a terminal that stdin is read, and how it ends."""
    if sys.stdin.isatty():
        tell("Group IDs, one a line; Ctrl-D ends them.")


def discard(descriptor: int) -> None:
    """Redirect an unwritable stream, and the rest of its buffer, to the null device."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


class Speaker(Protocol):
    """Shows messages on stderr."""

    def say(self, text: str, fields: dict[str, Any]) -> None:
        """Show a message: its text, or where stderr is JSON lines, its fields."""


class Messages:
    """Messages as lines on stderr, or as JSON lines."""

    def __init__(self, *, in_json: bool) -> None:
        self._in_json = in_json

    def say(self, text: str, fields: dict[str, Any]) -> None:
        if self._in_json:
            print_json(fields)
        else:
            tell(f"rongcloud-groups: {text}")


class Warnings(logging.Handler):
    """Shows the warnings of the client and of its limiter, and keeps them for a report.

    Of one kind it shows the first at once, and those of the next ten seconds as one, with their number.

    Attributes:
        speaker: shows them; None only keeps them.
        kept: their texts, the first hundred.
    """

    def __init__(self, speaker: Speaker | None) -> None:
        super().__init__(logging.WARNING)
        self.speaker = speaker
        self.kept: list[str] = []
        self._shown_at: dict[str, float] = {}
        self._held_back: dict[str, tuple[str, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno != logging.WARNING:  # the command reports errors itself
            return
        now = time.monotonic()
        kind, message = record.msg, one_line(record.getMessage())
        _, count = self._held_back.pop(kind, ("", 0))
        if now < self._shown_at.get(kind, -_QUIET_SECONDS) + _QUIET_SECONDS:
            self._held_back[kind] = message, count + 1
        else:
            self._shown_at[kind] = now
            self._show(message, more=count)

    def show_held_back(self) -> None:
        """Show the warnings still held back: the command ends."""
        while self._held_back:
            _, (message, count) = self._held_back.popitem()
            self._show(message, more=count - 1)

    def _show(self, message: str, *, more: int) -> None:
        if more:
            message = f"{message} (and {more:,} more of these)"
        if len(self.kept) < _MAX_KEPT:
            self.kept.append(message)
        if self.speaker is not None:
            self.speaker.say(f"warning: {message}", {"message_type": "warning", "message": message})
