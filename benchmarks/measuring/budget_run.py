"""What one scenario of the budget came to."""

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from rongcloud_groups import Event, RateLimited
from rongcloud_groups.emulator import Report, worst_second
from rongcloud_groups.events import BatchAnswered, BatchFailed

LIMIT = 100
"""Requests that no second at the server may exceed."""
LEAST_SUSTAINED = 98.9
"""The least requests/s that are used while there is work."""


@dataclass(kw_only=True)
class Run:
    """One scenario, as the server saw it.

    Attributes:
        arrivals: when the headers of each request came, in order, in seconds.
        report: the server's counters.
        failed: IDs that failed.
        late_timers: the share of timers that the machine woke more than 2 ms late, for a process that was idle.
        notes: figures that this scenario alone has.
        broken: promises that did not hold.
    """

    scenario: str
    arrivals: list[float]
    report: Report
    failed: int
    late_timers: float = 0.0
    notes: str = ""
    broken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.promise(self.failed == 0, f"{self.failed} IDs failed")

    @property
    def sustained(self) -> float:
        """Requests/s from the end of the first second on."""
        start = self.arrivals[0] + 1
        seconds = self.arrivals[-1] - start
        return between(self.arrivals, start, float("inf")) / seconds if seconds > 0 else 0.0

    @property
    def worst_second(self) -> int:
        return worst_second(self.arrivals)

    def promise(self, holds: bool, otherwise: str) -> None:  # noqa: FBT001  it reads as a condition
        if not holds:
            self.broken.append(otherwise)

    def promise_limit(self) -> None:
        self.promise(self.worst_second <= LIMIT, f"{self.worst_second} requests in one second")

    def promise_sustained(self, least: float = LEAST_SUSTAINED) -> None:
        self.promise(self.sustained >= least, f"{self.sustained:.2f} requests/s sustained, not {least:g}")

    def figures(self) -> dict[str, object]:
        return {
            "scenario": self.scenario,
            "seconds": round(self.arrivals[-1] - self.arrivals[0], 2),
            "requests": len(self.arrivals),
            "sustained": round(self.sustained, 2),
            "worst_second": self.worst_second,
            "refused": self.report.refused,
            "failed": self.failed,
            "late_timers_percent": round(100 * self.late_timers, 1),
            "connections": self.report.connections,
            "notes": self.notes,
            "broken": self.broken,
        }


class Answers:
    """A hook that notes when answers came, and what was lost."""

    def __init__(self) -> None:
        self.good: list[float] = []
        self.refused: list[float] = []
        self.lost_requests = 0
        self.lost_ids = 0

    def __call__(self, event: Event) -> None:
        match event:
            case BatchAnswered():
                self.good.append(time.monotonic())
            case BatchFailed(error=RateLimited()):
                self.refused.append(time.monotonic())
            case BatchFailed():
                self.lost_requests += 1
                self.lost_ids += event.id_count
            case _:
                pass


def between(times: Sequence[float], start: float, end: float) -> int:
    """How many of these times, which are in order, lie in [start, end)."""
    return bisect_left(times, end) - bisect_left(times, start)
