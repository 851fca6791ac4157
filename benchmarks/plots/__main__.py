"""Makes plots and tables of the pages again, from the figures in ``results``: ``python -m benchmarks.plots``."""

from benchmarks.plots.findings import redraw

if __name__ == "__main__":
    redraw(quick=False)
