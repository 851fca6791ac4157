"""Draws the plots again from the figures in ``results``: ``python -m benchmarks.plots [--quick] [FOLDER]``."""

import sys
from pathlib import Path

from benchmarks.measuring.measured import RESULTS
from benchmarks.plots.findings import draw_all

if __name__ == "__main__":
    folders = [argument for argument in sys.argv[1:] if argument != "--quick"]
    for path in draw_all(Path(folders[0]) if folders else RESULTS, quick="--quick" in sys.argv):
        print(path)
