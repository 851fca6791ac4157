"""Slots far ahead, which a process claims first and confirms shortly before their time."""

from operator import attrgetter
from typing import NamedTuple

from rongcloud_groups.limiters.schedule import WAKE_UP_SLACK, Window


class Slot(NamedTuple):
    """A reserved send time, on Redis's clock, and until when it may be used."""

    name: int
    time: float
    usable_until: float


class Claims:
    """The slots that are this process's only if it confirms them in time.

    A claim that is not confirmed lapses one request before its time, and goes to the process that calls Redis next:
    the one of the slot after it, which confirms that one then. So others use the slots of a process that was killed,
    all but those that it had confirmed. Claims cost no calls: the one that reserves the next slot confirms them. Where
    calls take long, or the event loop is late, slots come too near to be claimed first.

    Times are seconds of Redis's clock.
    """

    def __init__(self, limit: float) -> None:
        self._lapse = 1 / Window.of(limit).rate
        self.clear()

    def __len__(self) -> int:
        return len(self._claims)

    def clear(self) -> None:
        """Let all of them lapse."""
        self._claims: list[Slot] = []
        self._confirming: list[Slot] = []

    def due_in(self, now: float, latency: float) -> float:
        """Seconds until the first one must be confirmed by a call that takes so long; 0 where there is none."""
        return self._claims[0].time - self._lapse - latency - now if self._claims else 0.0

    def confirm(self, busy_until: float, now: float, latency: float, late: float) -> list[float]:
        """Confirm, with the call that starts now, each claim that would lapse before the next call.

        Args:
            busy_until: the last slot that the process has.
            now: the time.
            latency: seconds that the call may take, with the lateness of the event loop.
            late: seconds by which the event loop may be late for them.

        Returns:
            Arguments of the script.
        """
        self._confirming, busy_until = [], max(busy_until, now + latency)
        while self._claims and self._claims[0].time <= busy_until + self._lapse + latency:
            self._confirming.append(self._claims.pop(0))
            busy_until = self._confirming[-1].time
        self._firm_within = busy_until - now + self._lapse + 2 * latency
        self._usable_for = WAKE_UP_SLACK + 2 * late
        return [self._firm_within, self._usable_for, len(self._confirming), *(claim.name for claim in self._confirming)]

    def settle(self, now: float, confirmed: list[float], reserved: list[Slot]) -> list[Slot]:
        """Take in the names of the confirmed ones and new slots; return the slots that may be used."""
        firm = [slot for slot in reserved if slot.time <= now + self._firm_within]
        self._claims += (slot for slot in reserved if slot.time > now + self._firm_within)
        self._claims.sort(key=attrgetter("time"))
        for name, time, usable_until in self._confirming:
            if name in confirmed:
                firm.append(Slot(name, time, min(usable_until, time + self._usable_for)))
        return firm
