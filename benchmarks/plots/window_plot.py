"""The requests in the last second, over time, as SVG: one panel for each scenario."""

from collections.abc import Iterable, Mapping
from xml.sax.saxutils import escape

WIDTH, PANEL, MARGIN, TITLE = 720, 90, 40, 18
STEP = 0.05
"""Seconds that share one point of the line, which shows the worst of them."""
TOP = 140
"""Requests a second at the upper edge of a panel."""


def arrivals_plot(runs: Mapping[str, list[float]], limit: int) -> str:
    """An SVG image.

    Args:
        runs: when requests arrived at the server, in seconds and in order, by the name of the scenario.
        limit: requests/s, drawn as a line.
    """
    height = len(runs) * (PANEL + TITLE) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + 2 * MARGIN}" height="{height}">',
        "<style>text { font: 11px sans-serif }</style>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (name, arrivals) in enumerate(runs.items()):
        top = number * (PANEL + TITLE) + TITLE
        parts += [f'<g transform="translate({MARGIN} {top})">', *_panel(name, arrivals, limit), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def sliding_counts(arrivals: list[float]) -> Iterable[tuple[float, int]]:
    """At each arrival, how many came in the second that ends with it."""
    first = 0
    for number, arrival in enumerate(arrivals):
        while arrival - arrivals[first] >= 1:
            first += 1
        yield arrival, number - first + 1


def _panel(name: str, arrivals: list[float], limit: int) -> list[str]:
    start = arrivals[0]
    seconds = max(arrivals[-1] - start, 1.0)
    worst: dict[int, int] = {}
    for arrival, count in sliding_counts(arrivals):
        step = int((arrival - start) / STEP)
        worst[step] = max(worst.get(step, 0), count)
    points = " ".join(f"{step * STEP / seconds * WIDTH:.1f},{_height(count):.1f}" for step, count in worst.items())
    return [
        f'<text x="0" y="-4">{escape(name)}, worst second {max(worst.values())}</text>',
        f'<rect width="{WIDTH}" height="{PANEL - 8}" fill="#f6f6f6"/>',
        f'<line x2="{WIDTH}" y1="{_height(limit):.1f}" y2="{_height(limit):.1f}" stroke="#c33"/>',
        f'<text x="-28" y="{_height(limit) + 4:.1f}" fill="#c33">{limit}</text>',
        f'<text x="{WIDTH}" y="{PANEL + 2}" text-anchor="end">{seconds:.0f} s</text>',
        f'<polyline points="{points}" fill="none" stroke="#247" stroke-width="1.2"/>',
    ]


def _height(count: int) -> float:
    return (PANEL - 8) * (1 - min(count, TOP) / TOP)
