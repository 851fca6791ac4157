"""Does the client use the whole budget, and never more, as the server counts it?

``python -m benchmarks budget [--quick] [--only WORD]`` prints one table, writes JSON and SVG into
``benchmarks/results``, and exits with status 1 where a promise is broken.
"""

import argparse
import asyncio
import gc
import os
import signal
import ssl
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count

from benchmarks.clients.shared_budget_workers import block_the_loop
from benchmarks.measuring.budget_run import LEAST_SUSTAINED, LIMIT, Answers, Run, between
from benchmarks.measuring.measured import print_table, write_results
from benchmarks.servers.child_processes import (
    directed_emulator,
    emulator,
    emulator_process,
    late_timers,
    proxied,
    seen,
    trusting,
)
from benchmarks.servers.gateways import GATEWAYS, gateway

from rongcloud_groups import GroupClient, Lookup
from rongcloud_groups.emulator import Universe
from rongcloud_groups.emulator.program import Address

LATENCY = ("--latency", "0.015", "--latency-tail", "0.002")
AWAY = ("--delay", "0.005")
STALLS = (*AWAY, "--stall", "0.3", "--stall-at", "1.5", "--stall-at", "3.5")
FAULTS = ("goaway", "rst", "drop", "error-500", "garbage", "hang")
FULL_RATE = 98


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One line of the table.

    Attributes:
        seconds: for how long IDs are asked for.
        server: options of the emulator.
        proxy: options of the proxy; without any there is none.
        guard: the client's option.
        requests_per_connection: the client's option.
        blocked_at: seconds after which the client's event loop is blocked for 300 ms.
        blocked: seconds for which the loop is blocked, again and again, with `FREE` seconds in between.
        stopped: seconds for which the server is stopped (SIGSTOP), three times.
        deadline: of single lookups that are made besides, in seconds.
        gateway: what stands in front of the emulator and limits requests in its own way.
        least: requests/s that are promised; none where it is 0.
        within_limit: whether the limit is promised to be kept.
        most_refused: the promised share of requests that are refused.
    """

    name: str
    seconds: float = 12
    server: Sequence[str] = ()
    proxy: Sequence[str] = ()
    guard: bool = False
    requests_per_connection: int = 80
    blocked_at: Sequence[float] = ()
    blocked: float = 0.0
    stopped: float = 0.0
    deadline: float = 0.0
    gateway: str = ""
    least: float = 0.0
    within_limit: bool = True
    most_refused: float = 0.0


SCENARIOS = (
    Scenario(name="calm", seconds=30, least=LEAST_SUSTAINED),
    Scenario(name="calm, guard", guard=True),
    Scenario(name="cold start, 300 ms handshakes", server=["--fault", "handshake=0.3"], least=LEAST_SUSTAINED),
    Scenario(name="GOAWAY every 100 requests", server=["--fault", "goaway=100"], least=LEAST_SUSTAINED),
    Scenario(name="GOAWAY every 50 requests", server=["--fault", "goaway=50"]),  # before the client retires by itself
    Scenario(
        name="GOAWAY every 100 requests, no retirement",
        server=["--fault", "goaway=100"],
        requests_per_connection=1_000_000,
    ),
    Scenario(name="event loop blocked 3 times 300 ms", blocked_at=(1.2, 2.4, 3.6)),
    Scenario(name="event loop blocked 10 ms of 15", blocked=0.01, least=95),
    Scenario(name="event loop blocked 20 ms of 25", blocked=0.02, least=92),
    Scenario(name="event loop blocked 50 ms of 55", blocked=0.05, least=85),
    *(
        Scenario(name=f"{gateway}, {what}", seconds=31, gateway=gateway, blocked=blocked, most_refused=most_refused)
        for gateway in GATEWAYS
        for what, blocked, most_refused in (("calm", 0.0, 0.0), ("event loop blocked 10 ms of 15", 0.01, 0.003))
    ),
    Scenario(name="5 ms away, jitter 0-50 ms, guard", proxy=[*AWAY, "--jitter", "0.05"], guard=True),
    Scenario(name="5 ms away, stalled 2 times 300 ms", proxy=STALLS, within_limit=False),
    Scenario(name="5 ms away, stalled 2 times 300 ms, guard", proxy=STALLS, guard=True),
    *(
        Scenario(
            name=f"server stopped for {seconds:g} s, guard{', deadlines of 0.15 s' if deadline else ''}",
            stopped=seconds,
            deadline=deadline,
            guard=True,
        )
        for seconds in (1.0, 2.6, 4.0)
        for deadline in (0.0, 0.15)
    ),
)


def run(scenario: Scenario, *, quick: bool) -> Run:
    seconds = 5 if quick else scenario.seconds
    answers = Answers()
    with served(scenario) as (address, url, verify, pid):
        client = GroupClient(
            address.app_key,
            address.app_secret,
            base_urls=url,
            verify=verify,
            guard=scenario.guard,
            requests_per_connection=scenario.requests_per_connection,
            max_attempts=20 if scenario.stopped else 5,
            hooks=[answers],
        )
        failed = asyncio.run(look_up(client, seconds, scenario, pid))
        times, report = seen(address)
    done = Run(scenario=scenario.name, arrivals=times, report=report, failed=failed)
    if scenario.within_limit:
        done.promise_limit()
    if scenario.least:
        done.promise_sustained(scenario.least)
    refused = len(answers.refused)
    if scenario.gateway:
        done.notes = f"{refused} refused by {scenario.gateway}"
    share = refused / (len(answers.good) + refused)
    done.promise(share <= scenario.most_refused, f"{share:.1%} of the requests refused")
    return done


@contextmanager
def served(scenario: Scenario) -> Iterator[tuple[Address, str, ssl.SSLContext, int]]:
    """The emulator, the URL to ask and what to trust there, and the emulator's process."""
    if scenario.gateway:
        with (
            emulator_process("--no-tls", "--rate", "0", *LATENCY, *scenario.server) as (address, pid),
            gateway(scenario.gateway, address.url) as (url, verify),
        ):
            yield address, url, verify, pid
    else:
        with emulator_process(*LATENCY, *scenario.server) as (address, pid), proxied(address, scenario.proxy) as url:
            yield address, url, trusting(address), pid


async def look_up(client: GroupClient, seconds: float, scenario: Scenario | None = None, pid: int = 0) -> int:
    """Look up new IDs for so many seconds, while it happens what the scenario has; return how many failed."""
    failed = 0
    async with asyncio.TaskGroup() as disturbances, client, client.stream(ids_for(seconds)) as parts:
        tasks = [] if scenario is None else [disturbances.create_task(each) for each in troubles(client, scenario, pid)]
        async for part in parts:
            failed += len(part.failed)
        for task in tasks:
            task.cancel()
    return failed


def troubles(client: GroupClient, scenario: Scenario, pid: int) -> Iterator[Coroutine[None, None, None]]:
    """What disturbs the client and the server."""
    for at in scenario.blocked_at:
        asyncio.get_running_loop().call_later(at, time.sleep, 0.3)
    if scenario.blocked:
        yield block_the_loop(scenario.blocked)
    if scenario.stopped:
        yield stop_and_continue(pid, scenario.stopped)
    if scenario.deadline:
        yield single_lookups(client, scenario.deadline)


async def stop_and_continue(pid: int, seconds: float) -> None:
    for _ in range(3):
        await asyncio.sleep(2.0)
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)


async def single_lookups(client: GroupClient, deadline: float) -> None:
    for number in count():
        await client.get_many([f"single-{number}"], deadline=deadline)


def ids_for(seconds: float) -> Iterator[str]:
    """New group IDs until so many seconds have passed."""
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        yield f"g{number}"
        number += 1


def run_rates(name: str, clients: int, rate: float, most: int, *, quick: bool) -> Run:
    """Clients that each have a limiter of their own, in one process; their rates may have fractions."""
    seconds = 4 if quick else 10

    async def look_up_with_all(address: Address) -> int:
        all_clients = [
            GroupClient(address.app_key, address.app_secret, base_urls=address.url, verify=trusting(address), rate=rate)
            for _ in range(clients)
        ]
        return sum(await asyncio.gather(*(look_up(client, seconds) for client in all_clients)))

    with emulator(*LATENCY) as address:
        failed = asyncio.run(look_up_with_all(address))
        times, report = seen(address)
    done = Run(scenario=name, arrivals=times, report=report, failed=failed)
    done.promise(done.worst_second <= most, f"{done.worst_second} requests in one second, not {most}")
    return done


def run_beside_another(name: str, *server: str, quick: bool) -> Run:
    """Another consumer of the App Key takes 30 of the 100 requests/s for a while."""
    begins, lasts, after = (2.0, 4.0, 12.0) if quick else (3.0, 10.0, 13.0)
    other = ("--other", "30", "--other-begins", str(begins), "--other-lasts", str(lasts))
    answers = Answers()
    with directed_emulator("--latency", "0.015", *other, *server) as address:
        failed = asyncio.run(look_up(watched_client(address, answers), begins + lasts + after))
        times, report = seen(address)
    done = Run(scenario=name, arrivals=times, report=report, failed=failed)
    begin = done.arrivals[0] + begins
    end = begin + lasts
    good = between(answers.good, begin, end) / lasts
    refused = between(answers.refused, begin, end) / lasts
    full = (at - end for at in answers.good if at >= end and between(answers.good, at, at + 1) >= FULL_RATE)
    full_after = next(full, float("inf"))
    done.notes = f"beside it {good:.1f} good/s and {refused:.1f} refused/s; full rate {full_after:.1f} s after"
    done.promise(good >= 55, f"{good:.1f} good answers/s beside another consumer")
    done.promise(refused <= 3, f"{refused:.1f} refusals/s beside another consumer")
    done.promise(full_after <= 10, f"full rate {full_after:.1f} s after another consumer left")
    done.promise_limit()
    return done


def run_fault_mix(name: str, *, quick: bool) -> Run:
    """Every twentieth request meets a fault; every ID ends where the universe has it."""
    faults = [option for fault in FAULTS for option in ("--fault", f"{fault}={0.05 / len(FAULTS):.5f}")]
    group_ids = [f"g{number}" for number in range(20_000 if quick else 100_000)]
    answers = Answers()
    with emulator(*LATENCY, *faults) as address:
        client = watched_client(address, answers, attempt_timeout=1.0)
        lookup = asyncio.run(look_up_all(client, group_ids))
        times, report = seen(address)
    done = Run(scenario=name, arrivals=times, report=report, failed=len(lookup.failed))
    universe = Universe()
    there = {group_id: universe.knows(group_id) for group_id in group_ids}
    again = client.stats().group_ids_sent - len(group_ids)
    done.notes = (
        f"{sum(done.report.faults.values())} faults, {answers.lost_requests} requests lost to them with "
        f"{answers.lost_ids / len(group_ids):.1%} of the IDs; {again / len(group_ids):.1%} asked again"
    )
    done.promise(list(lookup.found) == [each for each in group_ids if there[each]], "found is not what there is")
    done.promise(lookup.missing == [each for each in group_ids if not there[each]], "missing is not what is not there")
    done.promise(again <= answers.lost_ids, f"{again} IDs asked again, {answers.lost_ids} lost to faults")
    done.promise_limit()
    return done


async def look_up_all(client: GroupClient, group_ids: Sequence[str]) -> Lookup:
    async with client:
        return await client.get_many(group_ids)


def watched_client(address: Address, answers: Answers, *, attempt_timeout: float = 5.0) -> GroupClient:
    return GroupClient(
        address.app_key,
        address.app_secret,
        base_urls=address.url,
        verify=trusting(address),
        attempt_timeout=attempt_timeout,
        hooks=[answers],
    )


def benchmarks() -> dict[str, Callable[..., Run]]:
    """What there is to run, by name; each takes ``quick``."""
    runs: dict[str, Callable[..., Run]] = {scenario.name: partial(run, scenario) for scenario in SCENARIOS}
    for rate in (12.5, 7.5, 1.08, 3.33):
        name = f"a rate of {rate:g}"
        runs[name] = partial(run_rates, name, 1, rate, int(rate))
    for clients in (8, 30, 70):
        name = f"{clients} clients share 100"
        runs[name] = partial(run_rates, name, clients, LIMIT / clients, LIMIT)
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
        for promise in done.broken:
            print(f"BROKEN  {done.scenario}: {promise}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds each")
    parser.add_argument("--only", default="", metavar="WORD", help="scenarios whose name has it; nothing is written")
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
    if not options.only:
        write_results("budget", [done.figures() for done in runs], quick=options.quick)
    return 1 if any(done.broken for done in runs) else 0


if __name__ == "__main__":
    gc.freeze()  # as a service does once it has started: a full collection of all that is imported takes 30 ms
    sys.exit(main())
