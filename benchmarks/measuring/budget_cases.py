"""Scenarios of the budget that need more than one client, or another server."""

import asyncio
import logging
import random
import time
from collections.abc import Sequence

from benchmarks.measuring.budget_run import Answers, Run, between
from benchmarks.measuring.budget_scenarios import LATENCY, look_up
from benchmarks.servers.child_processes import Reachable, directed_emulator, emulator, reachable, seen, trusting

from rongcloud_groups import DeadlineExceeded, GroupClient, Lookup
from rongcloud_groups.emulator import Universe
from rongcloud_groups.emulator.program import Address

FAULTS = ("goaway", "rst", "drop", "error-500", "garbage", "hang")
FULL_RATE = 98


def run_rates(name: str, clients: int, rate: float, most: int, limiter: str | None = None, *, quick: bool) -> Run:
    """Clients that each have a limiter of their own, in one process; their rates may have fractions."""
    seconds = 4 if quick else 6

    async def look_up_with_all(address: Address) -> int:
        all_clients = [
            GroupClient(
                address.app_key,
                address.app_secret,
                base_urls=address.url,
                verify=trusting(address),
                rate=rate,
                limiter=limiter,
            )
            for _ in range(clients)
        ]
        return sum(await asyncio.gather(*(look_up_in_turn(client, seconds) for client in all_clients)))

    if limiter is not None:
        logging.getLogger("rongcloud_groups").setLevel(logging.ERROR)  # each of them says that its Redis is away

    with emulator(*LATENCY) as address:
        failed = asyncio.run(look_up_with_all(address))
        times, report = seen(address)
    done = Run(scenario=name, arrivals=times, report=report, failed=failed)
    done.promise(done.worst_second <= most, f"{done.worst_second} requests in one second, not {most}")
    return done


async def look_up_in_turn(client: GroupClient, seconds: float) -> int:
    """Send one request after the other for so many seconds; return how many IDs failed."""
    failed, end = 0, time.monotonic() + seconds
    await asyncio.sleep(random.random())  # clients of many processes do not begin in the same moment
    async with client:
        while time.monotonic() < end:
            lookup = await client.get_many(f"g{time.monotonic_ns()}-{number}" for number in range(50))
            failed += len(lookup.failed)
    return failed


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


def run_outage(name: str, seconds: float, *, quick: bool) -> Run:
    """Connections are refused for some seconds in the middle of a lookup; beside it a get has a deadline of 2 s."""
    group_ids = [f"g{number}" for number in range(10_000 if quick else 20_000)]

    async def look_up_through(server: Reachable, address: Address) -> tuple[Lookup, str]:
        client = GroupClient(address.app_key, address.app_secret, base_urls=server.url, verify=trusting(address))
        async with client:
            looking_up = asyncio.create_task(client.get_many(group_ids))
            await asyncio.sleep(1.5)
            server.stop()
            began = time.monotonic()
            phase = "no deadline"
            try:
                await client.get("with-a-deadline", deadline=2.0)
            except DeadlineExceeded as error:
                phase = str(error.phase)
            await asyncio.sleep(began + seconds - time.monotonic())
            server.start()
            return await looking_up, phase

    with emulator(*LATENCY) as address, reachable(address) as server:
        lookup, phase = asyncio.run(look_up_through(server, address))
        times, report = seen(address)
    done = Run(scenario=name, arrivals=times, report=report, failed=len(lookup.failed))
    settled = len(lookup.found) + len(lookup.missing)
    done.notes = f"{settled} of {len(group_ids)} IDs found or missing; the deadline names: {phase}"
    done.promise(settled == len(group_ids), f"{len(group_ids) - settled} IDs neither found nor missing")
    done.promise(phase == "connecting", f"the deadline names: {phase}")
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
