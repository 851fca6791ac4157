"""(b) The budget, as the server sees it, with the field beside: worst second, use of it, IDs lost.

``python -m benchmarks field_budget [--quick]``: every client looks up the same IDs against the emulator, which allows
100 requests in any second and answers after 15 ms; calm, and with a GOAWAY (HTTP/1.1: the end of the connection)
every 100 requests. `budget.py` has more scenarios for the client alone.
"""

import argparse
import sys
from dataclasses import asdict, dataclass

from benchmarks.clients.field_worker import CLIENTS, Order, measured
from benchmarks.measuring.budget_run import LEAST_SUSTAINED, LIMIT, between
from benchmarks.measuring.measured import print_table, write_results
from benchmarks.servers.child_processes import emulator, seen

from rongcloud_groups.emulator import worst_second

LATENCY = ("--latency", "0.015", "--latency-tail", "0.002")
SCENARIOS = {"calm": (), "GOAWAY every 100": ("--fault", "goaway=100")}
OURS = ("rongcloud-groups", "rongcloud-groups, v4")
IN_FLIGHT = 64


@dataclass(kw_only=True)
class Run:
    """What one client came to in one scenario.

    Attributes:
        sustained: requests/s from one second after the first to the last.
        accepted: requests/s that were let in, over the whole run.
        lost: IDs of groups that exist and that it did not find.
    """

    scenario: str
    client: str
    requests: int
    worst_second: int
    sustained: float
    accepted: float
    refused: int
    lost: int
    connections: int


def run(scenario: str, client: str, batches: int) -> Run | None:
    with emulator(*LATENCY, "--unknown", "0", *SCENARIOS[scenario]) as address:
        order = Order(client=client, address=address, warm_up=0, batches=batches, rate=LIMIT, in_flight=IN_FLIGHT)
        if (took := measured(order)) is None:
            return None
        arrivals, report = seen(address)
    start = arrivals[0] + 1
    seconds = arrivals[-1] - start
    return Run(
        scenario=scenario,
        client=client,
        requests=len(arrivals),
        worst_second=worst_second(arrivals),
        sustained=round(between(arrivals, start, float("inf")) / seconds, 2) if seconds > 0 else 0.0,
        accepted=round((len(arrivals) - report.refused) / (arrivals[-1] - arrivals[0]), 2),
        refused=report.refused,
        lost=took.asked - took.found,
        connections=report.connections,
    )


def broken_promises(done: Run) -> list[str]:
    name = f"{done.client}, {done.scenario}"
    promises = {
        f"{done.worst_second} requests in one second": done.worst_second <= LIMIT,
        f"{done.sustained} requests/s sustained": done.sustained >= LEAST_SUSTAINED,
        f"{done.lost} IDs lost": done.lost == 0,
    }
    return [f"{name}: {text}" for text, holds in promises.items() if not holds]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds each")
    options = parser.parse_args()
    batches = 400 if options.quick else 2000
    runs = []
    for scenario in SCENARIOS:
        for client in CLIENTS:
            print(f"{scenario}: {client} …", file=sys.stderr, flush=True)
            if done := run(scenario, client, batches):
                runs.append(done)
    headings = ["scenario", "client", "requests", "worst second", "sustained/s", "accepted/s", "refused", "lost IDs"]
    print_table([*headings, "connections"], [[str(cell) for cell in asdict(done).values()] for done in runs])
    write_results("field_budget", runs, quick=options.quick)
    broken = [promise for done in runs if done.client in OURS for promise in broken_promises(done)]
    for promise in broken:
        print(f"BROKEN  {promise}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
