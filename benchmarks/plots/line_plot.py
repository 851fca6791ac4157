"""Lines over a number of IDs, one panel for each quantity, as SVG."""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, PANEL, MARGIN, TITLE = 560, 200, 70, 26
COLOURS = ("#247", "#c63", "#383")

Line = Sequence[tuple[float, float]]


def line_plot(panels: Mapping[str, Mapping[str, Line]]) -> str:
    """An SVG image.

    Args:
        panels: by the name of the quantity, the lines by their names; a point is a number of IDs and a value.
    """
    height = len(panels) * (PANEL + TITLE + 20) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + 2 * MARGIN}" height="{height}">',
        "<style>text { font: 12px sans-serif }</style>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (name, lines) in enumerate(panels.items()):
        top = number * (PANEL + TITLE + 20) + TITLE
        parts += [f'<g transform="translate({MARGIN} {top})">', *_panel(name, lines), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(name: str, lines: Mapping[str, Line]) -> list[str]:
    most_ids = max(ids for line in lines.values() for ids, _ in line)
    most = max(value for line in lines.values() for _, value in line)
    parts = [
        f'<text x="0" y="-8">{escape(name)}</text>',
        f'<rect width="{WIDTH}" height="{PANEL}" fill="#f6f6f6"/>',
        f'<text x="-8" y="12" text-anchor="end">{most:.4g}</text>',
        f'<text x="-8" y="{PANEL}" text-anchor="end">0</text>',
        f'<text x="{WIDTH}" y="{PANEL + 16}" text-anchor="end">{most_ids:,.0f} IDs</text>',
    ]
    for (label, line), colour in zip(lines.items(), COLOURS, strict=False):
        places = [(ids / most_ids * WIDTH, PANEL * (1 - value / most)) for ids, value in line]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in places]
        x, y = places[-1]
        parts.append(f'<text x="{x - 8:.1f}" y="{y - 6:.1f}" text-anchor="end" fill="{colour}">{escape(label)}</text>')
    return parts
