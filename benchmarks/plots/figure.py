"""The look of all plots: SVG with text as text, on a background of its own, in light or dark colours."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill, wrap
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

WIDTH = 6.0
"""Inches, at 72 points each."""
LINE = 0.36
"""Inches that a bar takes."""

# By role: the colour in light mode, as it is drawn, and in dark mode.
TEXT, MUTED, OURS, OTHER, LIMIT, PAPER = "#1f2328", "#59636e", "#0969da", "#afb8c1", "#cf222e", "#ffffff"
DARK = {TEXT: "#e6edf3", MUTED: "#9198a1", OURS: "#58a6ff", OTHER: "#484f58", LIMIT: "#ff7b72", PAPER: "#0d1117"}
NAMES = ("rongcloud-groups", "rongcloud_groups")
THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1000 else f"{value:g}")

SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rongcloud-groups",
    "font.family": "DejaVu Sans",  # the widest of the fonts that a browser takes for sans-serif, so nothing is clipped
    "font.size": 10.5,
    "text.color": TEXT,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": TEXT,
}


def draw(path: Path, height: float, title: str, note: str, paint: Callable[[Axes], None]) -> None:
    """Write one plot.

    Args:
        path: the SVG file.
        height: of the plot's axes, in inches.
        title: the finding.
        note: how it was measured, in smaller letters.
        paint: draws into the axes.
    """
    with rc_context(SETTINGS):
        title, note = _in_lines(title, 58), _in_lines(note, 81)
        head = 0.28 * len(title.splitlines()) + 0.2 * len(note.splitlines()) + 0.32
        total = head + height + 0.55
        figure = Figure(figsize=(WIDTH, total), facecolor=PAPER)
        axes = figure.add_subplot(facecolor=PAPER)
        paint(axes)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(OTHER)
        axes.tick_params(length=0)
        below = figure.text(0.02, 1 - 0.12 / total, title, size=12, weight="bold", va="top").get_window_extent().y0
        figure.text(0.02, below / figure.bbox.height - 0.09 / total, note, color=MUTED, size=10, va="top")
        figure.subplots_adjust(left=_label_share(axes), right=0.92, top=1 - head / total, bottom=0.55 / total)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    path.write_text(_with_modes(path.read_text(encoding="utf-8")), encoding="utf-8")


def bars(
    path: Path,
    values: Mapping[str, float],
    *,
    title: str,
    note: str,
    unit: str,
    limit: float | None = None,
    decimals: int = 0,
    all_ours: bool = False,
    higher_is_better: bool = False,
) -> None:
    """Bars, the best first; those of this library in its colour, and those over the limit in that of the limit.

    Args:
        path: the SVG file.
        values: by their names.
        title: the finding.
        note: how it was measured.
        unit: of the values, for the axis.
        limit: drawn as a line.
        decimals: digits that the values are shown with.
        all_ours: whether all bars are this library's, and not only those with its name.
        higher_is_better: which bars come first.
    """
    names = sorted(values, key=values.__getitem__, reverse=higher_is_better)[::-1]  # from the bottom to the top

    def paint(axes: Axes) -> None:
        colours = [
            LIMIT
            if limit is not None and values[name] > limit
            else OURS
            if all_ours or name.startswith(NAMES)
            else OTHER
            for name in names
        ]
        painted = axes.barh(names, [values[name] for name in names], height=0.68, color=colours)
        labels = [f"{values[name]:,.{decimals}f}" for name in names]
        axes.bar_label(painted, labels, padding=4, color=TEXT)
        axes.set_xlabel(unit)
        axes.set_xlim(0, 1.08 * max([limit or 0, *values.values()]))
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.xaxis.set_major_formatter(THOUSANDS)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        if limit is not None:
            axes.axvline(limit, color=LIMIT, linewidth=1.2, linestyle=(0, (4, 3)))
            axes.text(limit, len(names) - 0.35, f"limit: {limit:g}", color=LIMIT, ha="center", va="bottom", size=9)

    draw(path, LINE * len(names), title, note, paint)


Line = Sequence[tuple[float, float]]


def lines(path: Path, values: Mapping[str, Line], *, title: str, note: str, units: tuple[str, str]) -> None:
    """Lines on logarithmic axes, each with its name at its end; the first one in this library's colour.

    Args:
        path: the SVG file.
        values: the points by the name of the line.
        title: the finding.
        note: how it was measured.
        units: of both axes.
    """

    def paint(axes: Axes) -> None:
        for number, (name, line) in enumerate(values.items()):
            colour = MUTED if number else OURS
            axes.loglog(*zip(*line, strict=True), color=colour, marker="o", markersize=4)
            x, y = line[-1]
            axes.annotate(f"{y:,.0f}", (x, y), (7, 0), textcoords="offset points", color=colour, va="center")
            x, y = line[len(line) // 2]
            axes.annotate(name, (x, y), (0, 9), textcoords="offset points", color=colour, ha="right", weight="bold")
        axes.set_xlabel(units[0])
        axes.set_ylabel(units[1])
        axes.set_ylim(10)
        axes.minorticks_off()
        axes.grid(axis="y", color=OTHER, linewidth=0.4)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(THOUSANDS)

    draw(path, 3.2, title, note, paint)


def _in_lines(text: str, width: int) -> str:
    """The text in as few lines as fit, of about the same length: no last line has one word."""
    count = len(wrap(text, width))
    return next(fill(text, each) for each in range(len(text) // count, width + 1) if len(wrap(text, each)) == count)


def _label_share(axes: Axes) -> float:
    """The part of the width that the labels of the vertical axis take."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    widest = max(label.get_window_extent().width for label in axes.get_yticklabels())
    return float(widest / figure.dpi + 0.25) / WIDTH


def _with_modes(svg: str) -> str:
    light = "".join(f"--c{number}:{colour};" for number, colour in enumerate(DARK))
    dark = "".join(f"--c{number}:{colour};" for number, colour in enumerate(DARK.values()))
    for number, colour in enumerate(DARK):
        svg = svg.replace(colour, f"var(--c{number})")
    style = f"svg{{{light}}} @media (prefers-color-scheme: dark) {{svg{{{dark}}}}} text{{font-family:sans-serif}}"
    svg = re.sub(r"(<svg [^>]*>)", rf"\1\n <style>{style}</style>", svg, count=1)
    return svg.replace("'DejaVu Sans'", "'DejaVu Sans', system-ui, sans-serif")
