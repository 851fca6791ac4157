"""Bars, one a line, as SVG."""

from collections.abc import Mapping
from xml.sax.saxutils import escape

WIDTH, LABELS, LINE, MARGIN = 460, 260, 24, 14


def bar_plot(title: str, bars: Mapping[str, float]) -> str:
    """An SVG image.

    Args:
        title: what is drawn, with its unit.
        bars: the values by their names.
    """
    height = (len(bars) + 1) * LINE + 2 * MARGIN
    longest = max(bars.values())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABELS + WIDTH + 80}" height="{height}">',
        "<style>text { font: 12px sans-serif }</style>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{MARGIN}" y="{MARGIN + 10}">{escape(title)}</text>',
    ]
    for number, (name, value) in enumerate(bars.items(), start=1):
        top = MARGIN + number * LINE
        width = value / longest * WIDTH
        parts += [
            f'<text x="{LABELS - 8}" y="{top + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LABELS}" y="{top + 2}" width="{width:.1f}" height="{LINE - 6}" fill="#247"/>',
            f'<text x="{LABELS + width + 6:.1f}" y="{top + 14}">{value:.4g}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
