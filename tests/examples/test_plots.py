"""The plots in benchmarks/results show the figures beside them."""

import re
from pathlib import Path

from benchmarks.measuring.measured import RESULTS
from benchmarks.plots.tables import clients, connections, paced_cost
from support.pages import PAGES


def texts_of(plot: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", plot.read_text(encoding="utf-8"))


def test_each_plot_shows_its_figures(tmp_path: Path) -> None:
    from benchmarks.plots.findings import PLOTS, draw_all

    drawn = list(draw_all(tmp_path))
    assert {plot.stem for plot in drawn} >= PLOTS.keys() - {"paced_cost", "engine_cost"}  # newer than some figures
    for plot in drawn:
        assert texts_of(RESULTS / plot.name) == texts_of(plot), "draw it again: python -m benchmarks.plots"
    assert sorted(RESULTS.glob("*.svg")) == sorted(RESULTS / plot.name for plot in drawn)


def test_the_tables_of_the_pages_have_the_figures() -> None:
    for page, rows in (("README", clients()), ("architecture", connections())):
        lines = PAGES[page].read_text(encoding="utf-8").splitlines()
        assert [row for row in rows if row not in lines] == [], "write them again: python -m benchmarks.plots"
    assert paced_cost() in PAGES["README"].read_text(encoding="utf-8"), "write it again: python -m benchmarks.plots"


def test_plots_have_colours_for_light_and_dark_mode(tmp_path: Path) -> None:
    from benchmarks.plots.findings import draw_all

    for plot in draw_all(tmp_path):
        svg = plot.read_text(encoding="utf-8")
        assert "prefers-color-scheme: dark" in svg
        assert not re.findall(r"(?:fill|stroke): #\w+", svg), "each colour is a variable"
