"""One client against a server, with what disturbs them."""

import asyncio
import os
import signal
import ssl
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from benchmarks.clients.shared_budget_workers import block_the_loop
from benchmarks.measuring.budget_run import LEAST_SUSTAINED, Answers, Run
from benchmarks.servers.child_processes import emulator_process, proxied, seen, trusting
from benchmarks.servers.gateways import GATEWAYS, gateway

from rongcloud_groups import GroupClient
from rongcloud_groups.emulator.program import Address

LATENCY = ("--latency", "0.015", "--latency-tail", "0.002")
AWAY = ("--delay", "0.005")
STALLS = (*AWAY, "--stall", "0.3", "--stall-at", "1.5", "--stall-at", "3.5")


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
        stopped: seconds for which the server is stopped (SIGSTOP), twice.
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
    Scenario(name="calm", seconds=15, least=LEAST_SUSTAINED),
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
        Scenario(name=f"{gateway}, {what}", seconds=seconds, gateway=gateway, blocked=blocked, most_refused=refused)
        for gateway in GATEWAYS
        for what, seconds, blocked, refused in (
            ("calm", 31, 0.0, 0.0),
            ("event loop blocked 10 ms of 15", 16, 0.01, 0.003),
        )
    ),
    Scenario(name="5 ms away, jitter 0-50 ms, guard", proxy=[*AWAY, "--jitter", "0.05"], guard=True),
    Scenario(name="5 ms away, stalled 2 times 300 ms", proxy=STALLS, within_limit=False),
    Scenario(name="5 ms away, stalled 2 times 300 ms, guard", proxy=STALLS, guard=True),
    *(
        Scenario(
            name=f"server stopped for {seconds:g} s, guard{', deadlines of 0.15 s' if deadline else ''}",
            seconds=5 + 2 * seconds,
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
    done.promise(share <= scenario.most_refused, f"{share:.2%} of the requests refused")
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
    for _ in range(2):
        await asyncio.sleep(1.5)
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
