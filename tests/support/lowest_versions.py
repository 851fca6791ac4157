"""Print the lowest version that ``pyproject.toml`` allows of each dependency, as requirements, for CI."""

import re
import sys
import tomllib
from pathlib import Path

EXTRAS = ("cache", "cli", "emulator", "otel", "parquet", "redis")

if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    for requirement in wanted:
        lowest = re.match(r"([\w.-]+(?:\[[\w,]+\])?)>=([\d.]+)", requirement)
        if lowest is None:
            sys.exit(f"{requirement} has no lower bound")
        sys.stdout.write(f"{lowest[1]}=={lowest[2]}\n")
