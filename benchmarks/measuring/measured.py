"""How the figures of the benchmarks are shown and kept."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

RESULTS = Path(__file__).parents[1] / "results"


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings: the first and the last column to the left, what is between them to the right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    last = len(headings) - 1
    for row in [headings, ["-" * width for width in widths], *rows]:
        cells = [
            cell.ljust(width) if column in (0, last) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def write_results(
    name: str, rows: object, *, quick: bool, packages: Mapping[str, str] | None = None, part: bool = False
) -> Path:
    """Write what was measured, and with what, as JSON, and draw it; a quick run does not replace a full one.

    Args:
        name: the question's.
        rows: the figures.
        quick: whether the run was.
        packages: the packages that were measured and their versions; those of the client by default.
        part: whether these are some of its scenarios, whose rows replace those of the same scenarios.
    """
    path = result_path(name, "json", quick=quick)
    if part and path.exists():
        rows = _merged(msgspec.json.decode(path.read_bytes())["rows"], rows)
    ours = ("httpx", "httpcore", "h2", "anyio", "aiolimiter", "msgspec")
    content = {
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "packages": packages or {package: version(package) for package in ours},
        "quick": quick,
        "rows": rows,
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
    from benchmarks.plots.findings import redraw  # it reads what this module writes

    if not (quick and part):  # plots need all rows
        redraw(quick=quick)
    return path


def _merged(before: list[dict[str, object]], rows: Any) -> list[dict[str, object]]:
    """The rows in the order in which their scenarios came first, each as it was measured last."""
    return list({row["scenario"]: row for row in [*before, *rows]}.values())


def result_path(name: str, suffix: str, *, quick: bool) -> Path:
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{name}{'-quick' if quick else ''}.{suffix}"
