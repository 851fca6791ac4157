"""One plot for each question: its finding, from the figures in ``results``."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.measuring.measured import RESULTS
from benchmarks.plots.figure import bars, lines
from benchmarks.plots.tables import write_tables

LIMIT = 100
OURS = "rongcloud-groups"
PEERS = {
    "httpx recipe": "httpx + AsyncLimiter(100, 1)",
    "aiohttp recipe": "aiohttp + AsyncLimiter(100, 1)",
    "MCP base client": "rongcloud-server-mcp-python",
    "ncsdk, v4": "ncsdk (synchronous)",
    "rc-server-sdk": "rc-server-sdk (synchronous)",
}
"""What else one would use, by the names of the figures."""

Rows = Any  # as the JSON has them; each question has its own


def redraw(*, quick: bool) -> None:
    """Draw all plots where their figures are, and put the figures into the tables of the pages."""
    list(draw_all(RESULTS, quick=quick))
    if not quick:
        write_tables()


def draw_all(folder: Path, *, quick: bool = False) -> Iterator[Path]:
    """Draw what there are figures for; gives the SVG files."""
    suffix = "-quick" if quick else ""
    for plot, (question, paint) in PLOTS.items():
        figures = RESULTS / f"{question}{suffix}.json"
        if figures.exists():
            path = folder / f"{plot}{suffix}.svg"
            path.unlink(missing_ok=True)
            paint(path, msgspec.json.decode(figures.read_bytes())["rows"])
            if path.exists():
                yield path


def worst_second(path: Path, rows: Rows) -> None:
    values = _of_the_field(rows, "worst_second")
    ours, others = values[OURS], _others(values)
    bars(
        path,
        values,
        title=f"At most {ours} requests in any second; other clients send up to {max(others)}",
        note="100,000 IDs in batches of 50, as the server counts them. It refuses what is over the limit.",
        unit="requests in the worst second",
        limit=LIMIT,
    )


def lost_ids(path: Path, rows: Rows) -> None:
    values = _of_the_field(rows, "lost")
    ours, most = values[OURS], max(_others(values))
    bars(
        path,
        values,
        title=f"{f'{ours:,} IDs are' if ours else 'No ID is'} lost; other clients lose up to {most:,} of 100,000",
        note="Groups that exist and that the client did not return. Lower is better.",
        unit="IDs lost",
    )


def batch_cost(path: Path, rows: Rows) -> None:
    took = {row["client"]: row["processor_ms"] for row in rows if _is_client(row)}
    bars(
        path,
        {PEERS.get(name, name): ms for name, ms in took.items()},
        title=f"50 IDs take {took[OURS]:.2f} ms of processor time; httpx takes {took['httpx recipe']:.2f}",
        note="Request, response, decoding; the rate limit lifted. Median of rounds. Lower is better.",
        unit="processor time of a batch, ms",
        decimals=2,
    )


def paced_cost(path: Path, rows: Rows) -> None:
    took = {row["client"]: row["paced"] for row in rows if _is_client(row) and row.get("paced")}
    if OURS in took:
        ours, httpx = took[OURS] / 10, took["httpx recipe"] / 10
        bars(
            path,
            {PEERS.get(name, name): ms for name, ms in took.items()},
            title=f"100 requests/s take {ours:.0f} % of a processor; httpx takes {httpx:.0f} %",
            note="Processor time of the client in each second of a sync at the rate limit. Lower is better.",
            unit="processor time in a second, ms",
        )


def engine_cost(path: Path, rows: Rows) -> None:
    took = {row["client"]: row["processor_ms"] for row in rows if row["client"] == OURS or not _is_client(row)}
    others = [ms for name, ms in took.items() if name.endswith(", bare")]
    if others:
        bars(
            path,
            took,
            title=f"The client takes {took[OURS]:.2f} ms a batch; the best bare engine {min(others):.2f}",
            note="Bare engines sign and decode alike; the floor is asyncio's TLS alone. Lower is better.",
            unit="processor time of a batch, ms",
            decimals=2,
        )


def decoding(path: Path, rows: Rows) -> None:
    took = {row["way"]: row["ms"] for row in rows}
    bars(
        path,
        took,
        title=f"50 profiles are decoded in {took[OURS]:.2f} ms; pydantic takes {took['pydantic, models']:.2f}",
        note="A response of 30 kB with everything nested. Plain dicts are not checked. Lower is better.",
        unit="time to read a response, ms",
        decimals=2,
    )


def added_latency(path: Path, rows: Rows) -> None:
    idle = next(row for row in rows["rows"] if row["when"] == "idle")
    names = {"bare request": "bare", "rongcloud-groups get": "get"}
    bars(
        path,
        {
            f"{name}, {part}": idle[key][place]
            for name, key in names.items()
            for place, part in ((0, "p50"), (2, "p99"))
        },
        title=f"A get adds {idle['added']:.2f} ms to a bare request",
        note="The client is idle, and the server responds at once. Lower is better.",
        unit="latency, ms",
        decimals=2,
    )


def memory(path: Path, rows: Rows) -> None:
    def line(kind: str) -> list[tuple[float, float]]:
        return [(row["ids"], row["most"]) for row in rows if row["kind"] == kind]

    stream, get_many = line("stream"), line("get_many")
    (least_ids, least), (most_ids, most) = stream[0], stream[-1]
    lines(
        path,
        {"stream": stream, "get_many, which keeps all profiles": get_many},
        title=f"A stream of {most_ids:,} IDs takes {most:.0f}\N{NO-BREAK SPACE}MiB; one of {least_ids:,}, {least:.0f}",
        note="The most memory that the process had. Lower is better. Both axes are logarithmic.",
        units=("IDs", "MiB"),
    )


def import_time(path: Path, rows: Rows) -> None:
    took = {row["import"]: row["ms"] for row in rows["imports"]}
    ours, base = "rongcloud_groups", "httpx, msgspec, anyio"
    names = {
        "and what httpx brings, aiolimiter": f"{base}, h2, aiolimiter",
        "and a client opened": f"{ours}, and a client opened",
    }
    bars(
        path,
        {names.get(name, name): ms for name, ms in took.items()},
        title=f"The import takes {took[ours]:.0f} ms; httpx, msgspec and anyio take {took[base]:.0f} ms",
        note="Processor time, with bytecode in the cache. Median of rounds. Lower is better.",
        unit="processor time of the import, ms",
    )


def budget(path: Path, rows: Rows) -> None:
    values = {row["scenario"]: row["worst_second"] for row in rows}
    over = [name for name, worst in values.items() if worst > LIMIT]
    bars(
        path,
        values,
        title=f"At most {LIMIT} requests in any second in {len(values) - len(over)} of {len(values)} scenarios",
        note=f"As the server counts them. Over the limit: {over[0] if len(over) == 1 else len(over) or 'none'}.",
        unit="requests in the worst second",
        limit=LIMIT,
        all_ours=True,
    )


def budget_use(path: Path, rows: Rows) -> None:
    values = {
        row["scenario"]: row["sustained"] for row in rows if not row["scenario"].startswith(("a rate of", "outage"))
    }
    if "calm" in values:
        bars(
            path,
            values,
            title=f"{values['calm']:.1f} of {LIMIT} requests a second are used on a calm path",
            note="Requests that reached the server, in each scenario of the benchmark. Higher is better.",
            unit="requests/s, sustained",
            decimals=1,
            all_ours=True,
            higher_is_better=True,
        )


def _of_the_field(rows: Rows, key: str) -> dict[str, int]:
    calm = {row["client"]: row[key] for row in rows if row["scenario"] == "calm"}
    return {PEERS.get(name, name): calm[name] for name in (OURS, *PEERS)}


def _is_client(row: Rows) -> bool:
    return row["client"].startswith(OURS) or row["client"] in PEERS


def _others(values: dict[str, int]) -> list[int]:
    return [value for name, value in values.items() if name != OURS]


PLOTS: dict[str, tuple[str, Callable[[Path, Rows], None]]] = {
    "worst_second": ("field_budget", worst_second),
    "lost_ids": ("field_budget", lost_ids),
    "batch_cost": ("batch_cost", batch_cost),
    "paced_cost": ("batch_cost", paced_cost),
    "engine_cost": ("batch_cost", engine_cost),
    "decoding": ("decoding", decoding),
    "added_latency": ("added_latency", added_latency),
    "memory": ("memory", memory),
    "import_time": ("import_time", import_time),
    "budget": ("budget", budget),
    "budget_use": ("budget", budget_use),
}
"""By the plot's name: the question whose figures it shows, and its drawing."""
