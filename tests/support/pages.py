"""The code that readers copy: the blocks of README.md, of the pages in docs, of examples, workflows and docstrings."""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = {path.stem: path for path in [*sorted((ROOT / "docs").glob("[!R]*.md")), ROOT / "README.md"]}
"""By their names; the one that lists the others, `docs/README.md`, has no code."""
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
WHOLE = {path.name: path for path in [ROOT / "examples" / "Dockerfile", *sorted((ROOT / ".github").glob("*/*.yml"))]}
"""Files that are a block as they are."""


@dataclass(eq=False)
class Block:
    """A fenced or indented block of code.

    Attributes:
        name: the page, the heading above it, its language, and its number if that heading has several of the language.
        language: the word after the fence; empty where there is none.
        file: the file name, in backticks, that the paragraph before it names; empty if there is none.
        is_read: whether a test has read its text.
    """

    name: str
    language: str
    file: str
    _text: str = field(repr=False)
    is_read: bool = False

    @property
    def text(self) -> str:
        self.is_read = True
        return self._text

    @property
    def commands(self) -> list[str]:
        """The lines of a console block, all of which are commands: no output is shown that no test compares."""
        lines = self.text.splitlines()
        if self.language == "console":
            assert all(line.startswith("$ ") for line in lines), self.name
        return [line.removeprefix("$ ") for line in lines]


def all_blocks() -> dict[str, Block]:
    """Every block, by its name."""
    blocks = [block for name, path in PAGES.items() for block in _in_markdown(name, path.read_text(encoding="utf-8"))]
    blocks += _in_markdown("CONTRIBUTING", CONTRIBUTING.read_text(encoding="utf-8"))
    blocks += [Block(name, path.suffix[1:], name, path.read_text(encoding="utf-8")) for name, path in WHOLE.items()]
    for path in [*sorted((ROOT / "examples").glob("*.py")), *sorted((ROOT / "src").rglob("*.py"))]:
        blocks += _in_docstrings(path)
    return {block.name: block for block in blocks}


def blocks_of(page: str, language: str = "") -> list[Block]:
    """The blocks of a page in their order, of one language if it is given."""
    blocks = _in_markdown(page, PAGES[page].read_text(encoding="utf-8"))
    return [block for block in blocks if language in {"", block.language}]


def _in_markdown(page: str, text: str) -> Iterator[Block]:
    heading, before, seen = "", "", dict[str, int]()
    tokens = MarkdownIt().parse(text)
    for opening, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "inline":
            heading = token.content if opening is not None and opening.type == "heading_open" else heading
            before = token.content
        elif token.type in {"fence", "code_block"}:
            name = "/".join(filter(None, (page, heading, token.info or "indented")))
            seen[name] = seen.get(name, 0) + 1
            file = "".join(re.findall(r"`(\w+\.(?:py|sh|sql|yml))`", before)[:1])
            yield Block(f"{name} {seen[name]}" if seen[name] > 1 else name, token.info, file, token.content)


def _in_docstrings(path: Path) -> Iterator[Block]:
    source = path.read_text(encoding="utf-8")
    if path.parent.name != "examples" and "::\n" not in source:
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            place = path.parent.name if path.stem == "__init__" else path.name
            name = place if isinstance(node, ast.Module) else f"{place}/{node.name}"
            text = inspect.cleandoc(ast.get_docstring(node) or "")
            if path.parent.name == "examples" or "::\n\n    " in text:
                yield from _in_markdown(name, text)
