"""What becomes of requests when connections fail: httpx's own connections against this library's.

``python -m benchmarks links [--quick] [--only WORD]`` prints one table, writes JSON into ``benchmarks/results``, and
exits with status 1 where this library's side is not as promised. Both sides send the same requests with an
`httpx.AsyncClient` to a server in a process of its own.
"""

import argparse
import asyncio
import random
import resource
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

import anyio
import httpx
import msgspec
from benchmarks.clients.link_caller import Caller, Side, calling
from benchmarks.measuring.measured import print_table, write_results
from benchmarks.servers.child_processes import directed_emulator, emulator, proxied, seen

SIDES: Sequence[Side] = ("httpx", "rongcloud_groups")
NEVER = "3600"
LIMITLESS = ("--rate", "0")


class Outcome(msgspec.Struct, kw_only=True):
    """What one side came to in one case.

    Attributes:
        outcomes: requests by what became of them; those cut off are in none.
        value: what the case measures, in its own unit; None where it did not end in time.
        connections: that the server accepted, where the case asks for it.
        text: the cell of the table.
    """

    outcomes: dict[str, int]
    value: float | None
    connections: int | None
    text: str = ""

    @property
    def answered(self) -> int:
        return self.outcomes.get("answered", 0)

    @property
    def failed(self) -> int:
        return sum(self.outcomes.values()) - self.answered


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of the table.

    Attributes:
        drive: sends the requests and returns the case's value; takes ``quick``.
        text: what the table says of an outcome.
        holds: what is promised of this library's side.
        server: options of the emulator.
        directed: whether requests say when they are answered.
        proxy: options of the proxy; without any there is none.
        counts_connections: whether the server is asked how many it accepted.
        at_most: seconds after which `drive` is cut off: some of httpx's cases never end.
    """

    name: str
    drive: Callable[..., Awaitable[float]]
    text: Callable[[Outcome], str]
    holds: Callable[[Outcome], bool]
    server: Sequence[str] = ()
    directed: bool = False
    proxy: Sequence[str] = ()
    connect: float = 5.0
    read: float = 5.0
    counts_connections: bool = False
    at_most: float = 60.0


def failures(outcome: Outcome) -> str:
    kinds = [f"{name} {count}" for name, count in outcome.outcomes.items() if name != "answered"]
    total = sum(outcome.outcomes.values())
    unfinished = ", the rest never end" if outcome.value is None else ""
    return f"{outcome.failed} of {total} fail{unfinished}" + (f": {', '.join(kinds)}" if kinds else "")


def seconds(outcome: Outcome) -> str:
    return "never ends" if outcome.value is None else f"{outcome.value:.3f} s"


def none_fails(outcome: Outcome) -> bool:
    return outcome.value is not None and not outcome.failed


def within(limit: float, outcome: Outcome) -> bool:
    return outcome.value is not None and outcome.value <= limit


async def many(caller: Caller, *, quick: bool) -> float:
    await caller.ask_all(400 if quick else 2000, 20)
    return 0.0


async def fast_behind_slow(caller: Caller, *, quick: bool) -> float:  # noqa: ARG001  the signature of all cases
    await caller.ask()
    slow = [asyncio.create_task(caller.ask(answer_after=2.0)) for _ in range(5)]
    await anyio.sleep(0.2)
    took = await caller.ask(answer_after=0.05)
    await asyncio.wait(slow)
    return took


async def cancelled(caller: Caller, *, quick: bool) -> float:
    """In each round 8 of 30 requests are cancelled at some moment."""
    chance = random.Random(0)
    for _ in range(20 if quick else 100):
        tasks = [asyncio.create_task(caller.ask()) for _ in range(30)]
        for task in chance.sample(tasks, 8):
            asyncio.get_running_loop().call_later(chance.uniform(0, 0.03), task.cancel)
        await asyncio.wait(tasks)
    return 0.0


async def hung_and_cut_off(caller: Caller, *, quick: bool) -> float:  # noqa: ARG001  the signature of all cases
    """Requests that are never answered, cut off by their caller; then others."""

    async def hang() -> None:
        with anyio.move_on_after(0.5):
            await caller.ask(answer_after=float(NEVER))

    for _ in range(2):
        async with anyio.create_task_group() as tasks:
            for _ in range(65):
                tasks.start_soon(hang)
    caller.outcomes.clear()
    await caller.burst(20)
    return 0.0


async def hung_under_traffic(caller: Caller, *, quick: bool) -> float:
    """Seconds until the one that hangs ends; infinite where it outlasts the traffic."""
    took = inf
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(caller.ask_all, 100_000, 1)
        with anyio.move_on_after(5 if quick else 12):
            took = await caller.ask(answer_after=float(NEVER))
        tasks.cancel_scope.cancel()
    return took


async def into_black_hole(caller: Caller, *, quick: bool) -> float:  # noqa: ARG001  the signature of all cases
    await caller.ask()
    await anyio.sleep(1.2)
    return await caller.burst(20)


async def after_idle(caller: Caller, *, quick: bool) -> float:  # noqa: ARG001  the signature of all cases
    await caller.ask()
    await anyio.sleep(1.0)
    caller.outcomes.clear()
    return await caller.burst(20)


async def warm_burst(caller: Caller, *, quick: bool) -> float:  # noqa: ARG001  the signature of all cases
    await caller.ask()
    caller.outcomes.clear()
    return await caller.burst(40)


async def cold_burst(caller: Caller, *, quick: bool) -> float:
    return await caller.burst(5 if quick else 20)


async def processor_time(caller: Caller, *, quick: bool) -> float:
    """Milliseconds of this process for one request."""
    count = 400 if quick else 3000
    await caller.ask_all(100, 20)
    before = resource.getrusage(resource.RUSAGE_SELF)
    await caller.ask_all(count, 20)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / count


CASES = (
    Case(
        name="server closes each connection after 100 requests",
        drive=many,
        server=["--latency", "0.01", "--fault", "goaway=100"],
        text=failures,
        holds=none_fails,
    ),
    Case(
        name="50 ms response behind 5 of 2 s on the connection",
        drive=fast_behind_slow,
        directed=True,
        text=seconds,
        holds=partial(within, 0.2),
    ),
    Case(
        name="8 of 30 cancelled, again and again",
        drive=cancelled,
        server=["--latency", "0.02", "--latency-tail", "0.005"],
        text=lambda outcome: f"{failures(outcome)}; connections: {outcome.connections}",
        holds=lambda outcome: none_fails(outcome) and outcome.connections == 1,
        counts_connections=True,
    ),
    Case(
        name="20 requests after 130 hung ones were cut off",
        drive=hung_and_cut_off,
        directed=True,
        text=failures,
        holds=none_fails,
        at_most=15,
    ),
    Case(
        name="one hangs under traffic, read time-out 3 s",
        drive=hung_under_traffic,
        directed=True,
        server=["--latency", "0.01"],
        read=3.0,
        text=lambda outcome: f"{seconds(outcome)}; {outcome.failed} of {sum(outcome.outcomes.values())} fail",
        holds=lambda outcome: within(3.3, outcome) and outcome.failed == 1,
    ),
    Case(
        name="black hole under 20 requests, read time-out 5 s",
        drive=into_black_hole,
        proxy=["--stall", NEVER, "--stall-at", "1"],
        text=seconds,
        holds=partial(within, 2.5),
    ),
    Case(
        name="20 requests, connection closed while idle",
        drive=after_idle,
        server=["--latency", "0.01", "--fault", "idle=0.5"],
        text=failures,
        holds=none_fails,
    ),
    Case(
        name="server names no stream limit, 40 of 50 ms",
        drive=warm_burst,
        server=["--latency", "0.05", "--fault", "streams=none"],
        text=seconds,
        holds=partial(within, 0.5),
    ),
    Case(
        name="stream limit lowered from 100 to 2 under 40 requests",
        drive=warm_burst,
        server=["--latency", "0.05", "--fault", "streams-drop=2@20"],
        text=lambda outcome: f"{outcome.answered} of 40 get a response",
        holds=lambda outcome: outcome.answered == 40,
        at_most=10,
    ),
    Case(
        name="TLS handshake hangs, 20 requests, connect time-out 1 s",
        drive=cold_burst,
        server=["--fault", "handshake=60"],
        connect=1.0,
        text=seconds,
        holds=partial(within, 1.5),
    ),
    Case(
        name="processor time of a request",
        drive=processor_time,
        text=lambda outcome: f"{outcome.value:.2f} ms",
        holds=none_fails,
    ),
)


def measure(case: Case, side: Side, *, quick: bool) -> Outcome:
    start = directed_emulator if case.directed else emulator
    with start(*LIMITLESS, *case.server) as address, proxied(address, case.proxy) as url:

        async def go() -> tuple[Caller, float]:
            timeout = httpx.Timeout(5.0, connect=case.connect, read=case.read)
            value = inf
            async with calling(side, address, url, timeout) as caller:
                with anyio.move_on_after(case.at_most):
                    value = await case.drive(caller, quick=quick)
            return caller, value

        caller, value = asyncio.run(go())
        outcome = Outcome(
            outcomes=dict(caller.outcomes),
            value=None if value == inf else round(value, 4),
            connections=seen(address)[1].connections if case.counts_connections else None,
        )
    outcome.text = case.text(outcome)
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    parser.add_argument("--only", default="", metavar="WORD", help="cases whose name has it; nothing is written")
    options = parser.parse_args()
    results: dict[str, dict[str, Outcome]] = {}
    broken = []
    for case in CASES:
        if options.only not in case.name:
            continue
        print(f"{case.name} …", file=sys.stderr, flush=True)
        results[case.name] = {side: measure(case, side, quick=options.quick) for side in SIDES}
        if not case.holds(results[case.name]["rongcloud_groups"]):
            broken.append(case.name)
    print_table(("case", *SIDES), [[name, *(sides[side].text for side in SIDES)] for name, sides in results.items()])
    for name in broken:
        print(f"BROKEN  {name}")
    if not options.only:
        write_results("links", results, quick=options.quick)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
