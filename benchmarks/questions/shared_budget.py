"""Do processes that share a budget use the whole of it, and never more, as the server counts it?

``python -m benchmarks shared_budget [--quick] [--only WORD]`` prints one table and a line for each scenario that says
whether its promises hold, writes JSON into ``benchmarks/results``, and exits with status 1 where a promise is broken.
With ``--only`` the rows of these scenarios are written in place of their earlier ones. It needs ``redis-server``.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.clients.shared_budget_workers import Order, Worker, WorkerReport
from benchmarks.measuring.measured import print_table, write_results
from benchmarks.servers.child_processes import emulator, far, seen
from benchmarks.servers.redis_process import RedisProcess

from rongcloud_groups.emulator import worst_second
from rongcloud_groups.emulator.program import Address

LIMIT = 100
LEAST_TOGETHER = 98.5
MOST_UNEVEN = 0.1
MOST_REDIS_CALLS = 1.1
LATENCY = ("--latency", "0.015", "--latency-tail", "0.002")
WORKERS = 4
BLOCKED = {10: (92, 90), 20: (88, 85), 50: (80, 75)}
"""Milliseconds out of 5 more for which event loops are blocked, and requests/s promised of a file and of Redis."""
START_UP = 4.0
"""Seconds that the workers have to start, all of them at once on few processors."""
SETTLED = 2.0
"""Seconds after which the silence before the first request of a new budget is over."""
FAR = (0.06, 0.09, 0.16)
"""Seconds that a far Redis is away, there and back."""
LEAST_FAR = 95
FAR_SETTLED = 6.0
"""Seconds after which each process has found its part of a far Redis's slots."""
MOST_UNEVEN_FAR = 0.2
BACK_WITHIN = 5.0
"""Seconds in which the full rate is promised after Redis's return."""


Scenario = Callable[..., "Run"]


@dataclass(kw_only=True)
class Run:
    """One line of the table.

    Attributes:
        begin: when the workers began, on `time.monotonic`, as all times here.
        end: when they stopped asking for new IDs.
        arrivals: when the headers of each request came.
        refused: requests that the server refused.
        workers: what those said that lived to the end.
        settled: seconds after which their use counts.
        redis_calls: scripts that Redis ran; None where there is no Redis.
        notes: figures that this scenario alone has.
        broken: promises that did not hold.
    """

    scenario: str
    begin: float
    end: float
    arrivals: list[float]
    refused: int
    workers: list[WorkerReport]
    settled: float = SETTLED
    redis_calls: int | None = None
    notes: str = ""
    broken: list[str] = field(default_factory=list)

    def together(self) -> float:
        """Requests/s of all workers, once they have settled."""
        start = self.begin + self.settled
        return sum(start <= time < self.end for time in self.arrivals) / (self.end - start)

    @property
    def uneven(self) -> float:
        """How far the worker that is farthest from the mean is from it, as a part of it."""
        counts = [sum(self.begin + self.settled <= sent < self.end for sent in worker.sent) for worker in self.workers]
        mean = sum(counts) / len(counts)
        return max(abs(count - mean) for count in counts) / mean

    @property
    def calls_a_request(self) -> float | None:
        return None if self.redis_calls is None else self.redis_calls / len(self.arrivals)

    def promise(self, holds: bool, otherwise: str) -> None:  # noqa: FBT001  it reads as a condition
        if not holds:
            self.broken.append(otherwise)

    def figures(self) -> dict[str, object]:
        return {
            "scenario": self.scenario,
            "seconds": round(self.end - self.begin, 1),
            "requests": len(self.arrivals),
            "together": round(self.together(), 2),
            "worst_second": worst_second(self.arrivals),
            "worst_second_sent": worst_second(sent for worker in self.workers for sent in worker.sent),
            "refused": self.refused,
            "failed": sum(worker.failed for worker in self.workers),
            "lost": sum(worker.lost for worker in self.workers),
            "uneven": round(self.uneven, 3),
            "calls_a_request": None if self.calls_a_request is None else round(self.calls_a_request, 3),
            "notes": self.notes,
            "broken": self.broken,
        }


class Bench:
    """An emulator and the workers that ask it."""

    def __init__(self, address: Address, limiter: str, seconds: float) -> None:
        self.begin = time.monotonic() + START_UP
        self.end = self.begin + seconds
        self._address = address
        self._limiter = limiter
        self._workers: list[Worker] = []
        self.killed = 0

    def start(self, count: int = 1, *, blocked: float = 0.0) -> None:
        for _ in range(count):
            order = Order(self._address, self._limiter, self.begin, self.end, blocked)
            self._workers.append(Worker.started(order))

    def kill_last(self) -> None:
        """SIGKILL to the worker that was started last."""
        self._workers.pop().kill()
        self.killed += 1

    def finish(self, scenario: str, settled: float = SETTLED) -> Run:
        workers = [worker.report() for worker in self._workers]
        arrivals, report = seen(self._address)
        run = Run(
            scenario=scenario,
            begin=self.begin,
            end=self.end,
            arrivals=arrivals,
            refused=report.refused,
            workers=workers,
            settled=settled,
        )
        run.promise(worst_second(arrivals) <= LIMIT, f"{worst_second(arrivals)} requests in one second")
        for worker in workers:
            run.promise(worker.failed == 0 and worker.lost == 0, f"{worker.failed} IDs failed, {worker.lost} lost")
        return run


def steady(limiter: str, redis: RedisProcess | None, *, quick: bool) -> Run:
    """All workers are saturated."""
    with emulator(*LATENCY) as address:
        bench = Bench(address, limiter, 6 if quick else 12)
        bench.start(WORKERS)
        run = bench.finish(f"{name_of(limiter)}, {WORKERS} processes")
    promise_full_use(run, redis)
    return run


def blocked(limiter: str, redis: RedisProcess | None, *, milliseconds: int, quick: bool) -> Run:
    """All workers are saturated, and their event loops blocked most of the time."""
    with emulator(*LATENCY) as address:
        bench = Bench(address, limiter, 6 if quick else 10)
        bench.start(WORKERS, blocked=milliseconds / 1000)
        run = bench.finish(f"{name_of(limiter)}, loops blocked {milliseconds} ms of {milliseconds + 5}")
    if redis is not None:
        run.redis_calls = redis.script_calls()
    together, least = run.together(), BLOCKED[milliseconds][redis is not None]
    run.promise(together >= least, f"{together:.2f} requests/s together, not {least}")
    return run


def far_redis(limiter: str, redis: RedisProcess, *, seconds: float, workers: int, quick: bool) -> Run:
    """Redis takes a while to answer, and all workers are saturated."""
    with emulator(*LATENCY) as address, far(redis.url, seconds) as url:
        bench = Bench(address, limiter.replace(redis.url, url), FAR_SETTLED + (4 if quick else 6))
        bench.start(workers)
        run = bench.finish(f"far Redis, {1000 * seconds:.0f} ms, {workers} processes", FAR_SETTLED)
    run.redis_calls = redis.script_calls()
    run.promise(run.together() >= LEAST_FAR, f"{run.together():.2f} requests/s together, not {LEAST_FAR}")
    run.promise(run.uneven <= MOST_UNEVEN_FAR, f"shares differ by {run.uneven:.0%}")
    return run


def dying(limiter: str, redis: RedisProcess | None, *, quick: bool) -> Run:
    """Beside the saturated workers, others start and are killed in the middle of their work."""
    with emulator(*LATENCY) as address:
        bench = Bench(address, limiter, 6 if quick else 12)
        bench.start(WORKERS)
        bench.start()
        for nth in range(1 if quick else 3):
            sleep_until(bench.begin + SETTLED + 1.0 + 3 * nth)
            bench.kill_last()
            bench.start()
        sleep_until(bench.end - 0.5)
        bench.kill_last()
        run = bench.finish(f"{name_of(limiter)}, {WORKERS} and a fifth that dies")
    run.notes = f"{bench.killed} killed"
    promise_full_use(run, redis)
    return run


def without_redis(limiter: str, redis: RedisProcess, *, how: str, quick: bool) -> Run:
    """Redis is away for some seconds in the middle."""
    away = 3.0 if quick else 5.0
    with emulator(*LATENCY) as address:
        bench = Bench(address, limiter, SETTLED + 2 + away + BACK_WITHIN + (1 if quick else 4))
        bench.start(WORKERS)
        sleep_until(bench.begin + SETTLED + 2)
        with redis.away(how):
            sleep_until(bench.begin + SETTLED + 2 + away)
        back = time.monotonic()
        run = bench.finish(f"{name_of(limiter)} away for {away:.0f} s ({how})")
    run.redis_calls = redis.script_calls()
    meanwhile = sum(back - away + 2 <= time < back for time in run.arrivals) / (away - 2)
    after = next((start - back for start in run.arrivals if start > back and full(run.arrivals, start)), float("inf"))
    run.notes = f"{meanwhile:.0f}/s meanwhile, full rate {after:.1f} s after its return"
    run.promise(after <= BACK_WITHIN, f"full rate only {after:.1f} s after Redis's return")
    return run


def full(arrivals: Sequence[float], start: float) -> bool:
    """Whether the second from then on is used."""
    return sum(start <= time < start + 1 for time in arrivals) >= LIMIT - 2


def promise_full_use(run: Run, redis: RedisProcess | None) -> None:
    together = run.together()
    run.promise(together >= LEAST_TOGETHER, f"{together:.2f} requests/s together")
    run.promise(run.uneven <= MOST_UNEVEN, f"shares differ by {run.uneven:.0%}")
    if redis is not None:
        run.redis_calls = redis.script_calls()
        calls = run.calls_a_request
        run.promise(calls is not None and calls <= MOST_REDIS_CALLS, f"{calls:.2f} Redis calls a request")


def benchmarks() -> dict[str, Scenario]:
    """The scenarios, by the words of ``--only``; each takes ``quick``."""
    runs: dict[str, Scenario] = {}
    for where, on in (("file", on_file), ("redis", on_redis)):
        runs[f"{where} steady"] = partial(on, steady)
        runs[f"{where} dying"] = partial(on, dying)
        for milliseconds in BLOCKED:
            runs[f"{where} blocked {milliseconds}"] = partial(on, partial(blocked, milliseconds=milliseconds))
    for seconds in FAR:
        for who, workers in (("alone", 1), ("together", WORKERS)):
            scenario = partial(far_redis, seconds=seconds, workers=workers)
            runs[f"far redis {1000 * seconds:.0f} {who}"] = partial(on_redis, scenario)
    for how in ("SIGSTOP", "SIGKILL"):
        runs[f"redis away {how}"] = partial(on_redis, partial(without_redis, how=how))
    return runs


def on_file(scenario: Scenario, *, quick: bool) -> Run:
    with tempfile.TemporaryDirectory() as directory:
        run: Run = scenario(f"file:{directory}/budget", None, quick=quick)
    return run


def on_redis(scenario: Scenario, *, quick: bool) -> Run:
    with tempfile.TemporaryDirectory() as directory, RedisProcess(Path(directory)) as redis:
        run: Run = scenario(words(redis), redis, quick=quick)
    return run


def words(redis: RedisProcess) -> str:
    return f"{redis.url}?share={1 / WORKERS}"


def name_of(limiter: str) -> str:
    return "HostLimiter" if limiter.startswith("file:") else "RedisLimiter"


def sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds each")
    parser.add_argument("--only", default="", metavar="WORD", help="the scenarios with this in their name")
    options = parser.parse_args()
    chosen = [benchmark for name, benchmark in benchmarks().items() if options.only in name]
    if not chosen:
        parser.error(f"no scenario has {options.only!r} in its name: {', '.join(benchmarks())}")
    done = []
    for benchmark in chosen:
        run = benchmark(quick=options.quick)
        done.append(run.figures())
        verdict = f"BROKEN  {run.scenario}: {'; '.join(run.broken)}" if run.broken else f"HOLDS   {run.scenario}"
        print(verdict, file=sys.stderr, flush=True)
    headings = list(done[0])
    print_table(headings, [[str(cell) for cell in row.values()] for row in done])
    write_results("shared_budget", done, quick=options.quick, part=bool(options.only))
    sys.exit(any(row["broken"] for row in done))


if __name__ == "__main__":
    main()
