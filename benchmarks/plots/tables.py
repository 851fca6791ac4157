"""The tables of README.md and docs/architecture.md that have figures from ``results``."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.measuring.measured import RESULTS

ROOT = Path(__file__).parents[2]
CLIENTS = {
    "rongcloud-groups": "**rongcloud-groups**",
    "httpx recipe": "httpx over HTTP/2 with `AsyncLimiter(100, 1)`",
    "aiohttp recipe": "aiohttp with `AsyncLimiter(100, 1)`",
    "MCP base client": "base client of `rongcloud-server-mcp-python`",
    "ncsdk, v4": "`ncsdk` (synchronous, v4)",
}


def write_tables() -> None:
    """Put the figures into the pages."""
    _replace(ROOT / "README.md", "| client | worst second |", clients())
    _replace(ROOT / "docs" / "architecture.md", "| case | httpx |", connections())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (ROOT / "README.md").write_text(
        re.sub("At 100 requests/s this client takes .*", paced_cost(), readme), encoding="utf-8"
    )


def paced_cost() -> str:
    """The sentence on the processor time at the rate limit."""
    ours = next(row for row in _rows("batch_cost") if row["client"] == "rongcloud-groups")
    part, share = ours["paced"] / 10, ours["paced_of_the_recipe"]
    recipe = "httpx with `AsyncLimiter`"
    return f"At 100 requests/s this client takes {part:.1f} % of a processor, {share:.2f} of what {recipe} takes."


def clients() -> Iterator[str]:
    """The rows of the table of clients."""
    budget = {row["client"]: row for row in _rows("field_budget") if row["scenario"] == "calm"}
    cost = {row["client"]: row["processor_ms"] for row in _rows("batch_cost")}
    for name, words in CLIENTS.items():
        cells = [f"{budget[name][key]:,}" for key in ("worst_second", "refused", "lost")] + [f"{cost[name]:.2f}"]
        marks = "**" if words.startswith("**") else ""
        yield f"| {words} | {' | '.join(f'{marks}{cell}{marks}' for cell in cells)} |"


def connections() -> Iterator[str]:
    """The rows of the table of connections: what became of the requests, without the kinds of their errors."""
    for case, clients in _rows("links").items():
        texts = [re.sub(r": [A-Z].*?(?=; |$)", "", clients[name]["text"]) for name in ("httpx", "rongcloud_groups")]
        yield f"| {case} | {texts[0]} | {texts[1]} |"


def _rows(question: str) -> Any:
    return msgspec.json.decode((RESULTS / f"{question}.json").read_bytes())["rows"]


def _replace(page: Path, heading: str, rows: Iterable[str]) -> None:
    """Replace the rows under the table's heading and its rule."""
    text = page.read_text(encoding="utf-8")
    pattern = rf"({re.escape(heading)}[^\n]*\n[^\n]*\n)(?:\|[^\n]*\n)*"
    lines = "".join(f"{row}\n" for row in rows)
    page.write_text(re.sub(pattern, lambda found: found[1] + lines, text), encoding="utf-8")
