"""What the commands write: text that a terminal can show, and lines on stderr that harm no job."""

import os
import sys
from typing import Any

import msgspec

_JOINERS = {"\N{ZERO WIDTH JOINER}"}
"""Not printable by themselves, but inside an emoji."""


def printable(text: str) -> str:
    """The text with a replacement for each character that a terminal would obey instead of showing."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in _JOINERS else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )


def one_line(text: str) -> str:
    """The text in one line, and `printable`."""
    return printable(" ".join(text.split()))


def tell(line: str) -> None:
    """Print a line to stderr, if it can be written: no command fails because its messages are lost."""
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr.fileno())


def print_json(message: dict[str, Any]) -> None:
    """Print a line of JSON to stderr."""
    tell(msgspec.json.encode(message).decode())


def discard(descriptor: int) -> None:
    """Let a stream that cannot be written lead nowhere, with what its buffer still holds."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
