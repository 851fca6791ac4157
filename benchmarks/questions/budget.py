"""Does the client use the whole budget, and never more, as the server counts it?

``python -m benchmarks budget [--quick] [--only WORD]`` prints one table and a line for each scenario that says whether
its promises hold, writes JSON into ``benchmarks/results``, and exits with status 1 where a promise is broken. With
``--only`` the rows of these scenarios are written in place of their earlier ones.
"""

import argparse
import gc
import sys
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.measuring.budget_cases import run_beside_another, run_fault_mix, run_outage, run_rates
from benchmarks.measuring.budget_run import LIMIT, Run
from benchmarks.measuring.budget_scenarios import SCENARIOS, run
from benchmarks.measuring.measured import print_table, write_results
from benchmarks.servers.child_processes import late_timers


def benchmarks() -> dict[str, Callable[..., Run]]:
    """What there is to run, by name; each takes ``quick``."""
    runs: dict[str, Callable[..., Run]] = {scenario.name: partial(run, scenario) for scenario in SCENARIOS}
    for rate in (12.5, 7.5, 1.08, 3.33):
        name = f"a rate of {rate:g}"
        runs[name] = partial(run_rates, name, 1, rate, int(rate))
    for clients in (8, 30, 70):
        name = f"{clients} clients share 100"
        runs[name] = partial(run_rates, name, clients, LIMIT / clients, LIMIT)
    for clients in (60, 100):
        name = f"{clients} clients without their Redis share 100"
        limiter = f"redis://127.0.0.1:1/0?share={1 / clients}"  # nothing listens there
        runs[name] = partial(run_rates, name, clients, LIMIT, LIMIT, limiter)
    for seconds in (3, 20):
        name = f"outage of {seconds} s in the middle of 20,000 IDs"
        runs[name] = partial(run_outage, name, seconds)
    name = "another consumer takes 30/s"
    runs[name] = partial(run_beside_another, name)
    name = "another consumer takes 30/s, refusals count"
    runs[name] = partial(run_beside_another, name, "--count-refused")
    name = "faults on 5 % of requests"
    runs[name] = partial(run_fault_mix, name)
    return runs


def show(runs: Sequence[Run]) -> None:
    columns = {
        "scenario": "scenario",
        "seconds": "seconds",
        "requests": "requests",
        "sustained": "sustained/s",
        "worst_second": "worst second",
        "refused": "refused",
        "failed": "failed IDs",
        "late_timers_percent": "late timers, %",
        "notes": "notes",
    }
    print_table(list(columns.values()), [[str(done.figures()[key]) for key in columns] for done in runs])
    for done in runs:
        print(f"BROKEN  {done.scenario}: {'; '.join(done.broken)}" if done.broken else f"HOLDS   {done.scenario}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds each")
    parser.add_argument("--only", default="", metavar="WORD", help="scenarios whose name has it")
    options = parser.parse_args()
    runs = []
    for name, benchmark in benchmarks().items():
        if options.only in name:
            print(f"{name} …", file=sys.stderr, flush=True)
            late: list[float] = []
            with late_timers(late):
                runs.append(benchmark(quick=options.quick))
            runs[-1].late_timers = late[0]
    show(runs)
    write_results("budget", [done.figures() for done in runs], quick=options.quick, part=bool(options.only))
    return 1 if any(done.broken for done in runs) else 0


if __name__ == "__main__":
    gc.freeze()  # as a service does once it has started: a full collection of all that is imported takes 30 ms
    sys.exit(main())
