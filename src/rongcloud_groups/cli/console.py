"""Messages on stderr. No command fails because they cannot be written."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from math import inf
from textwrap import TextWrapper
from typing import Any, Final, TextIO

from rongcloud_groups._tables.output import printable, write_all

_MAX_KEPT: Final = 100

Say = Callable[[str, dict[str, Any]], None]
"""Shows a message on stderr: its text, or where stderr is JSON lines, its fields."""


def say(text: str, fields: dict[str, Any], *, in_json: bool) -> None:
    if in_json:
        print_json(fields)
    else:
        tell(f"rongcloud-groups: {text}")


def tell(text: str) -> None:
    """Write lines to stderr."""
    write_stderr(f"{fitted(text, sys.stderr)}\n")


def print_json(fields: dict[str, Any]) -> None:
    """Write a line of JSON to stderr: in ASCII, which any stderr takes, with file names that are no Unicode text."""
    write_stderr(f"{json.dumps(fields)}\n")


def write_stderr(text: str) -> None:
    """Write text to stderr; if that is impossible, discard it and the text after it."""
    try:
        write_all(sys.stderr.fileno(), text.encode(sys.stderr.encoding, "replace"))
    except OSError:
        discard(sys.stderr.fileno())


def discard(descriptor: int) -> None:
    """Redirect an unwritable stream, and the rest of its buffer, to the null device."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def fitted(text: str, stream: TextIO, *, indent: int = 0) -> str:
    """The text, broken at spaces to fit if the stream is a terminal; IDs and file names stay whole, to be copied."""
    try:
        width = os.get_terminal_size(stream.fileno()).columns or sys.maxsize
    except OSError:
        return text
    longest = max(map(len, text.split()), default=0)
    wrapper = TextWrapper(width, subsequent_indent=" " * max(0, min(indent, width - longest)))
    wrapper.break_long_words = wrapper.break_on_hyphens = False
    return "\n".join(map(wrapper.fill, text.split("\n")))


def prompt_for_ids() -> None:
    """Say on a terminal that stdin is read, and how it ends."""
    if sys.stdin.isatty():
        tell("Group IDs, one a line; Ctrl-D ends them.")


class Warnings(logging.Handler):
    """Shows the warnings of the client and of its limiter, and keeps them for a report.

    Of one kind it shows the first at once, and those of the next ten seconds as one, with their number.

    Attributes:
        say: shows them; None only keeps them.
        kept: their texts, the first hundred.
    """

    def __init__(self, say: Say | None) -> None:
        super().__init__(logging.WARNING)
        self.say = say
        self.kept: list[str] = []
        self._kinds: dict[str, tuple[float, str, int]] = {}  # time of the last one shown; last one held back; how many

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno != logging.WARNING:  # an error ends the command, which reports it
            return
        now, message = time.monotonic(), one_line(record.getMessage())
        shown_at, _, count = self._kinds.pop(record.msg, (-inf, "", 0))
        if now < shown_at + 10:
            self._kinds[record.msg] = shown_at, message, count + 1
        else:
            self._kinds[record.msg] = now, "", 0
            self._show(message, more=count)

    def show_held_back(self) -> None:
        """Show the warnings that are held back, because the command ends."""
        while self._kinds:
            _, (_, message, count) = self._kinds.popitem()
            if count:
                self._show(message, more=count - 1)

    def _show(self, message: str, *, more: int) -> None:
        if more:
            message = f"{message} (and {more:,} more of these)"
        if len(self.kept) < _MAX_KEPT:
            self.kept.append(message)
        if self.say is not None:
            self.say(f"warning: {message}", {"message_type": "warning", "message": message})
