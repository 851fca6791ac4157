"""(a) What does a batch of 50 IDs cost, the rate limit lifted?

``python -m benchmarks batch_cost [--quick]``: processor time of the client process and wall time, medians of rounds
in which every client has its turn, each time in a process of its own, against `raw_server.py`.
"""

import argparse
import sys
from statistics import median

from benchmarks.clients.field_worker import CLIENTS, Order, Took, measured
from benchmarks.measuring.measured import print_table, write_results
from benchmarks.servers.child_processes import raw_server

IN_FLIGHT = 20
OURS, RECIPE = "rongcloud-groups", "httpx recipe"
MOST_OF_THE_RECIPE = 0.45


def run(*, quick: bool) -> dict[str, list[Took]]:
    batches, rounds = (200, 3) if quick else (1000, 9)
    took: dict[str, list[Took]] = {client: [] for client in CLIENTS}
    with raw_server() as address:
        for number in range(rounds):
            print(f"round {number + 1} of {rounds} …", file=sys.stderr, flush=True)
            for client, runs in took.items():
                order = Order(
                    client=client, address=address, warm_up=20, batches=batches, rate=1e6, in_flight=IN_FLIGHT
                )
                runs.append(measured(order))
    return took


def figures(took: dict[str, list[Took]]) -> list[dict[str, object]]:
    """Milliseconds a batch of each client, as medians, and the least of its rounds."""
    processor = {client: [run.processor * 1000 / (run.asked / 50) for run in runs] for client, runs in took.items()}
    recipe = median(processor[RECIPE])
    return [
        {
            "client": client,
            "processor_ms": round(median(processor[client]), 3),
            "least_processor_ms": round(min(processor[client]), 3),
            "of_the_recipe": round(median(processor[client]) / recipe, 3),
            "clock_ms": round(median(run.clock * 1000 / (run.asked / 50) for run in runs), 3),
            "lost": sum(run.asked - run.found for run in runs),
        }
        for client, runs in took.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer batches and rounds")
    options = parser.parse_args()
    rows = figures(run(quick=options.quick))
    headings = ["client", "processor, ms a batch", "least", "x the recipe", "clock, ms a batch", "lost IDs"]
    print_table(headings, [[str(cell) for cell in row.values()] for row in rows])
    write_results("batch_cost", rows, quick=options.quick)
    share = next(float(str(row["of_the_recipe"])) for row in rows if row["client"] == OURS)
    if share > MOST_OF_THE_RECIPE:
        print(f"BROKEN  {share} x the recipe's processor time")
    return 1 if share > MOST_OF_THE_RECIPE else 0


if __name__ == "__main__":
    sys.exit(main())
