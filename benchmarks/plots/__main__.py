"""Draws the plots again, and fills the tables of the pages: ``python -m benchmarks.plots [--quick] [FOLDER]``.

The figures are those in ``results``. With a folder, the plots go there, and the pages stay as they are.
"""

import sys
from pathlib import Path

from benchmarks.measuring.measured import RESULTS
from benchmarks.plots.findings import draw_all
from benchmarks.plots.tables import write_tables

if __name__ == "__main__":
    folders = [argument for argument in sys.argv[1:] if argument != "--quick"]
    for path in draw_all(Path(folders[0]) if folders else RESULTS, quick="--quick" in sys.argv):
        print(path)
    if not folders and "--quick" not in sys.argv:
        write_tables()
