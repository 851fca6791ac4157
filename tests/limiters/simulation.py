"""Processes that share a schedule, in virtual time, and the ways in which a service may count what arrives.

No loop runs and nothing waits: a process is a function of time that says when it can next run.
"""

import heapq
from bisect import bisect_left
from collections.abc import Callable, Sequence
from math import inf
from random import Random
from typing import NamedTuple

from rongcloud_groups.limiters.schedule import WAKE_UP_SLACK, SlotSchedule, Window

SEND_TIME = 0.0001
"""Seconds of a process's time that one request takes."""

FreeAt = Callable[[float], float]
"""The first moment, not before the given one, at which a process can run."""


def blocked(seconds: float, free: float = 0.005, phase: float = 0.0) -> FreeAt:
    """The event loop is blocked for so many seconds again and again, and free for a while in between."""
    period = seconds + free

    def free_at(now: float) -> float:
        into = (now - phase) % period
        return now if into >= seconds else now + seconds - into

    return free_at


def stopped(pauses: Sequence[tuple[float, float]], free_at: FreeAt = lambda now: now) -> FreeAt:
    """Nothing runs from each of some moments on, for so many seconds: garbage collection, SIGSTOP, a suspended VM."""

    def next_free(now: float) -> float:
        for start, seconds in sorted(pauses):
            if start <= now < start + seconds:
                now = start + seconds
        return free_at(now)

    return next_free


def late_timers(random: Random, most: float) -> FreeAt:
    """Each timer wakes the process up to so many seconds late."""
    return lambda now: now + random.uniform(0.0, most)


def send_times(
    schedule: SlotSchedule, processes: Sequence[FreeAt], seconds: float, interrupted: Callable[[], float] = lambda: 0.0
) -> list[float]:
    """When the requests leave of processes that always have one waiting.

    Args:
        schedule: what they share.
        processes: when each of them can run.
        seconds: for how long.
        interrupted: for how long a process is interrupted between its right to send and the write.
    """
    sent = []
    late_writes: dict[int, tuple[float, float]] = {}
    queue: list[tuple[float, int, float | None]] = [
        (free_at(0.0), number, None) for number, free_at in enumerate(processes)
    ]
    heapq.heapify(queue)
    while queue[0][0] < seconds:
        now, number, slot = heapq.heappop(queue)
        if number in late_writes:
            schedule.left_later(*late_writes.pop(number), now)
        slot = schedule.reserve(now) if slot is None else slot
        if slot > now:
            heapq.heappush(queue, (processes[number](slot), number, slot))
            continue
        if schedule.use(slot, now):
            if (late := interrupted()) > WAKE_UP_SLACK:
                late_writes[number] = slot, now
                heapq.heappush(queue, (now + late, number, None))
                sent.append(now + late)
                continue
            sent.append(now)
            now += SEND_TIME
        heapq.heappush(queue, (processes[number](now), number, None))
    return sorted(sent)


def arrivals(sent: Sequence[float], jitter: float, random: Random) -> list[float]:
    """When requests arrive whose way takes up to so many seconds longer for one than for another."""
    return sorted(time + random.uniform(0.0, jitter) for time in sent)


class Counts(NamedTuple):
    """What five ways of counting make of the same arrivals.

    Attributes:
        sliding: the most in any window.
        fixed: the most in any whole window of the clock, wherever the clock begins.
        estimated: the most by HAProxy's ``http_req_rate``: this window's, and of the last one's the part that is left.
        bucket: the size, in requests, of a token bucket, refilled at the limit, that lets all through.
        early: the tolerance, in seconds, with which a GCRA with the limit's own gap lets all through.
    """

    sliding: int
    fixed: int
    estimated: int
    bucket: float
    early: float


def counted(times: Sequence[float], window: Window) -> Counts:
    requests, seconds = window
    estimates = [_estimates(times, seconds, phase / 20 * seconds) for phase in range(20)]
    early = _gcra_tolerance(times, seconds / requests)
    return Counts(
        sliding=max(number - bisect_left(times, time - seconds + 1e-9) + 1 for number, time in enumerate(times)),
        fixed=max(fixed for fixed, _ in estimates),
        estimated=max(estimated for _, estimated in estimates),
        bucket=early * requests / seconds + 1,
        early=early,
    )


def _estimates(times: Sequence[float], window: float, phase: float) -> tuple[int, int]:
    most_fixed = most_estimated = before = count = 0
    current = -1
    for time in times:
        period = int((time - phase) // window)
        if period != current:
            before, count, current = (count if period == current + 1 else 0), 0, period
        count += 1
        left = 1 - ((time - phase) / window - period)
        most_fixed = max(most_fixed, count)
        most_estimated = max(most_estimated, int(count + before * left))
    return most_fixed, most_estimated


def _gcra_tolerance(times: Sequence[float], gap: float) -> float:
    due, tolerance = -inf, 0.0
    for time in times:
        tolerance = max(tolerance, due - time)
        due = max(due, time) + gap
    return tolerance
