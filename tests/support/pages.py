"""The code blocks of README.md and of the pages in docs."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = {path.stem: path for path in [*sorted((ROOT / "docs").glob("[!R]*.md")), ROOT / "README.md"]}
"""By their names; the one that lists the others, `docs/README.md`, has no code."""


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        language: the word after the fence.
        text: what is in it.
        file: the file name, in backticks, that the paragraph before it names; empty if there is none.
    """

    language: str
    text: str
    file: str


def blocks_of(page: str, language: str = "") -> list[Block]:
    """The blocks of a page, of one language if it is given."""
    text = PAGES[page].read_text(encoding="utf-8")
    found = re.finditer(
        r"(?P<before>(?:[^\n]+\n)+\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", text, re.MULTILINE | re.DOTALL
    )
    blocks = [
        Block(each["language"], each["text"], "".join(re.findall(r"`(\w+\.\w+)`", each["before"] or "")[:1]))
        for each in found
    ]
    return [block for block in blocks if language in {"", block.language}]


def commands_of(block: Block) -> list[str]:
    """The lines after the prompts of a console block."""
    return re.findall(r"^\$ (.+)$", block.text, re.MULTILINE)
