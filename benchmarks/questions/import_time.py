"""(f) What does ``import rongcloud_groups`` take, beside the import of what it is built on?

``python -m benchmarks import_time [--quick]``: processor time, medians of interleaved rounds, each import in a fresh
interpreter that measures it, with its bytecode in the cache and without the optional packages that httpx would
import as well (those of its command). The slowest modules of ours are shown as well, as ``-X importtime`` has them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.measuring.measured import print_table, write_results

STATEMENTS = {
    "httpx, msgspec, anyio": "import httpx, msgspec, anyio",
    "and what httpx brings, aiolimiter": "import httpx, msgspec, anyio, h2.connection, httpcore, aiolimiter",
    "rongcloud_groups": "import rongcloud_groups",
    "and a client opened": (
        "import asyncio, rongcloud_groups; client = rongcloud_groups.GroupClient('key', 'secret'); "
        "asyncio.run(client.__aenter__())"
    ),
    "httpx recipe": "import httpx, json, asyncio, aiolimiter, h2.connection",
}
BASE, OURS = "httpx, msgspec, anyio", "rongcloud_groups"
MOST = 0.85
WITHOUT_EXTRAS = "import sys; sys.modules['click'] = None"
SHOWN = 12
BYTECODE = str(Path(tempfile.gettempdir()) / "rongcloud-groups-benchmark-bytecode")


def seconds(statement: str) -> float:
    program = f"import time; started = time.process_time(); {statement}; print(time.process_time() - started)"
    return float(python("-c", f"{WITHOUT_EXTRAS}; {program}").stdout)


def slowest_modules() -> list[tuple[str, int]]:
    """Modules that our import adds to the base's, and the microseconds of each by itself."""
    lines = python(
        "-X", "importtime", "-c", f"{WITHOUT_EXTRAS}; {STATEMENTS[BASE]}; import rongcloud_groups"
    ).stderr.splitlines()
    own = [line.removeprefix("import time:").split("|") for line in lines[1:]]
    names = [parts[2].strip() for parts in own]
    start = names.index("anyio") + 1
    modules = [(name, int(parts[0])) for name, parts in zip(names[start:], own[start:], strict=True)]
    return sorted(modules, key=lambda each: -each[1])[:SHOWN]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": BYTECODE}
    return subprocess.run(  # noqa: S603  ours
        [sys.executable, *arguments], env=environment, check=True, capture_output=True, text=True
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    options = parser.parse_args()
    for statement in STATEMENTS.values():  # writes the bytecode
        seconds(statement)
    took: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(7 if options.quick else 31):
        for name, statement in STATEMENTS.items():
            took[name].append(seconds(statement) * 1000)
    base = median(took[BASE])
    rows = [
        {
            "import": name,
            "ms": round(median(each), 1),
            "least_ms": round(min(each), 1),
            "of_the_base": round(median(each) / base, 2),
        }
        for name, each in took.items()
    ]
    print_table(["import", "ms", "least", f"x {BASE}"], [[str(cell) for cell in row.values()] for row in rows])
    modules = slowest_modules()
    print(
        "\nadded by ours, ms each: " + ", ".join(f"{name} {microseconds / 1000:.1f}" for name, microseconds in modules)
    )
    write_results("import_time", {"imports": rows, "slowest_modules": dict(modules)}, quick=options.quick)
    share = median(took[OURS]) / base
    if share > MOST:
        print(f"BROKEN  {share:.2f} x the import of {BASE}")
    return 1 if share > MOST else 0


if __name__ == "__main__":
    sys.exit(main())
