"""(c) What does it take to read a response with 50 profiles, everything nested decoded?

``python -m benchmarks decoding [--quick]``: the same answer read in several ways, in the field's environment, medians
over interleaved rounds of the best of a few dozen calls.
"""

import argparse
import subprocess
import sys
import timeit
from collections.abc import Callable
from statistics import median

import msgspec
from benchmarks.clients.field_environment import interpreter
from benchmarks.measuring.measured import print_table, write_results

OURS, TYPED, PYDANTIC = "rongcloud-groups", "json, dataclasses", "pydantic, models"
LEAST_OF_JSON, LEAST_OF_PYDANTIC = 3.5, 1.5


def measured(*, rounds: int) -> dict[str, list[float]]:
    """Milliseconds a response of each way, a value for each round; in the field's environment."""
    from benchmarks.clients.decoders import decoders

    ways = decoders()
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, read in ways.items():
            took[name].append(best(read))
    return took


def best(read: Callable[[], object]) -> float:
    return min(timeit.repeat(read, number=5, repeat=40)) / 5 * 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--measure", type=int, metavar="ROUNDS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(msgspec.json.encode(measured(rounds=options.measure)).decode())
        return 0
    command = [interpreter(), "-m", "benchmarks.questions.decoding", "--measure", "3" if options.quick else "15"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603  our own program
    took = {
        name: median(values) for name, values in msgspec.json.decode(done.stdout, type=dict[str, list[float]]).items()
    }
    return report(took, quick=options.quick)


def report(took: dict[str, float], *, quick: bool) -> int:
    rows = [{"way": name, "ms": round(ms, 4), "times_ours": round(ms / took[OURS], 2)} for name, ms in took.items()]
    print_table(["way", "ms a response", "x ours"], [[str(cell) for cell in row.values()] for row in rows])
    write_results("decoding", rows, quick=quick)
    broken = 0
    for other, least in ((TYPED, LEAST_OF_JSON), (PYDANTIC, LEAST_OF_PYDANTIC)):  # those that check as much
        times = took[other] / took[OURS]
        if times < least:
            broken = 1
            print(f"BROKEN  {times:.2f} times as fast as {other}, not {least}")
    return broken


if __name__ == "__main__":
    sys.exit(main())
