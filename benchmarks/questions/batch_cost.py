"""(a) What does a batch of 50 IDs cost: as fast as it goes, in instructions, and at the pace of 100 requests/s?

``python -m benchmarks batch_cost [--quick] [--only WORD]``: processor time of the client process, medians of rounds in
which every client has its turn, each time in a process of its own, against `raw_server.py`. Instructions are counted in
callgrind, where valgrind is installed.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from statistics import median

import msgspec
from benchmarks.clients.field_environment import versions
from benchmarks.clients.field_worker import CLIENTS, ENGINES, UNPACED, Order, Took, measured
from benchmarks.measuring.measured import print_table, write_results
from benchmarks.servers.child_processes import raw_server

from rongcloud_groups.emulator.program import Address

IN_FLIGHT = 20
PACE = 100.0
OURS, RECIPE, FLOOR = "rongcloud-groups", "httpx recipe", "floor"
MOST_OF_THE_RECIPE = 0.45
MOST_OF_THE_RECIPE_PACED = 0.45


class Row(msgspec.Struct):
    """The figures of one client; None where there is none.

    Attributes:
        client: its name.
        processor_ms: milliseconds a batch, as fast as it goes.
        least_processor_ms: the least of the rounds.
        of_the_recipe: times the httpx recipe's.
        clock_ms: milliseconds a batch by the clock.
        instructions: thousands a batch.
        of_the_floor: times the floor's.
        paced: milliseconds of a processor that each second takes at 100 requests/s.
        paced_of_the_recipe: times the httpx recipe's.
        lost: IDs that were not found in any of the runs.
    """

    client: str
    processor_ms: float
    least_processor_ms: float
    of_the_recipe: float | None
    clock_ms: float
    instructions: int | None
    of_the_floor: float | None
    paced: float | None
    paced_of_the_recipe: float | None
    lost: int


def rounds(name: str, count: int, clients: Sequence[str], order: Callable[[str], Order]) -> dict[str, list[Took]]:
    """What each client took in each round; without those that are not installed."""
    took: dict[str, list[Took]] = {client: [] for client in clients}
    for number in range(count):
        print(f"{name}, round {number + 1} of {count} …", file=sys.stderr, flush=True)
        for client in list(took):
            run = measured(order(client))
            if run is None:
                del took[client]
            else:
                took[client].append(run)
    return took


def run(clients: Sequence[str], *, quick: bool) -> list[Row]:
    with raw_server() as address:
        batches, paced_batches, counted_batches = (200, 200, 50) if quick else (1000, 300, 100)
        fast = rounds("as fast as it goes", 3 if quick else 7, clients, _order(address, batches))
        there = list(fast)
        paced_clients = [client for client in there if client not in UNPACED]
        paced = rounds("paced", 1 if quick else 3, paced_clients, _order(address, paced_batches, rate=PACE))
        counted: dict[str, list[Took]] = {}
        if shutil.which("valgrind"):
            counted = rounds("instructions", 1, there, _order(address, counted_batches, count_instructions=True))
        else:
            print("valgrind is not installed: no instructions", file=sys.stderr)
    return figures(fast, paced, counted)


def _order(
    address: Address, batches: int, *, rate: float = 1e6, count_instructions: bool = False
) -> Callable[[str], Order]:
    return lambda client: Order(
        client=client,
        address=address,
        warm_up=20,
        batches=batches,
        rate=rate,
        in_flight=IN_FLIGHT,
        count_instructions=count_instructions,
    )


def figures(fast: dict[str, list[Took]], paced: dict[str, list[Took]], counted: dict[str, list[Took]]) -> list[Row]:
    def each(runs: list[Took], value: Callable[[Took], float]) -> list[float]:
        return [value(run) * 50 / run.asked for run in runs]

    processor = {client: each(runs, lambda run: run.processor * 1000) for client, runs in fast.items()}
    instructions = {client: median(each(runs, lambda run: run.instructions / 1000)) for client, runs in counted.items()}
    seconds = {client: median(run.processor / run.clock * 1000 for run in runs) for client, runs in paced.items()}
    medians = {client: median(times) for client, times in processor.items()}
    return [
        Row(
            client=client,
            processor_ms=round(medians[client], 3),
            least_processor_ms=round(min(processor[client]), 3),
            of_the_recipe=_share(medians, client, RECIPE),
            clock_ms=round(median(each(runs, lambda run: run.clock * 1000)), 3),
            instructions=round(instructions[client]) if client in instructions else None,
            of_the_floor=_share(instructions, client, FLOOR),
            paced=round(seconds[client], 1) if client in seconds else None,
            paced_of_the_recipe=_share(seconds, client, RECIPE),
            lost=sum(run.asked - run.found for run in [*runs, *paced.get(client, []), *counted.get(client, [])]),
        )
        for client, runs in fast.items()
    ]


def _share(values: dict[str, float], client: str, whole: str) -> float | None:
    return round(values[client] / values[whole], 3) if client in values and whole in values else None


def broken(rows: list[Row]) -> list[str]:
    """The promises that do not hold."""
    ours = next((row for row in rows if row.client == OURS), None)
    if ours is None:
        return []
    promises = [
        (ours.of_the_recipe, MOST_OF_THE_RECIPE, "processor time"),
        (ours.paced_of_the_recipe, MOST_OF_THE_RECIPE_PACED, "processor time at 100 requests/s"),
    ]
    return [f"{share} x the recipe's {name}" for share, most, name in promises if share is not None and share > most]


HEADINGS = [
    "client",
    "processor, ms a batch",
    "least",
    "x recipe",
    "clock",
    "k instructions",
    "x floor",
    "ms a second at 100/s",
    "x recipe",
    "lost IDs",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer batches and rounds")
    parser.add_argument("--only", metavar="WORD", action="append", help="the clients with it in their name")
    options = parser.parse_args()
    names = [*CLIENTS, *ENGINES]
    clients = [name for name in names if not options.only or any(word in name for word in options.only)]
    rows = run(clients, quick=options.quick)
    cells = [["-" if cell is None else str(cell) for cell in msgspec.structs.astuple(row)] for row in rows]
    print_table(HEADINGS, cells)
    if not options.only:
        write_results("batch_cost", rows, quick=options.quick, packages=versions())
    for promise in broken(rows):
        print(f"BROKEN  {promise}")
    return 1 if broken(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
