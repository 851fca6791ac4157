"""The law of all limiters: how far apart requests leave, how late one may be, and the proof that this is enough.

A service that allows N requests in any W seconds sees no more than that if of any N + 1 requests the last one leaves
at least W + J after the first one, where J is the jitter of the path: on their way they come at most J closer together.

Slots. Each request has a slot, and leaves at its slot or, where its process is late, a moment after it. An event loop
that is busy is late again and again; it may catch up its lateness, as it was seen to be: L, which starts at 0,
rises to the lateness beyond S of each request that is later than S + L, and falls by the factor e in `LATENESS_DECAY`
seconds. S is the slack of every timer. From one slot to the next it is at least::

    gap = (W + J + S + 2 L) / N

and no slot lies more than S + L before the moment at which it is given out: lateness beyond that is lost.

Proof. Let a request leave l after its slot. By the rule for L, l <= S + L at that moment. The N-th slot after it is N
gaps later, and no request leaves before its slot, so the two are at least N gaps - l apart:
W + J + S + 2 (mean of L over the gaps) - l. L falls to 1/e within a second at most, and its mean over a second is
more than half its first value: so they are W + J apart, and while L is steady W + J + L. A process that is late to send
is often late to be read as well, which is the same as more jitter.

Evenness. In x seconds no more than (x + S + L) / gap + 1 requests leave: a token bucket of size 1 + (S + L) / gap that
is refilled at 1 / gap, which is how `LocalLimiter` keeps this law. It follows that counts over fixed seconds and the
mean of two of them, weighted by time (HAProxy's ``http_req_rate``), stay within N too, and that no request is more than
S + L + J early for a GCRA with the gap W / N (nginx's ``limit_req``, whose ``burst`` counts such gaps).

A request leaves when its bytes are written. Where a process is interrupted for longer than S between its right to send
and the write, that is noted: the time lost is not caught up. A process that shares a budget looks again at its slot,
before it sends, whether N others left within W + J after all.

Where several processes share a budget, slots are given out before it is known how late the earlier ones are used. There
a log of the latest send times is the proof (see `SlotSchedule`), and the gap keeps them even.
"""

from array import array
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from math import cbrt, ceil, exp, floor, inf
from random import random
from typing import NamedTuple, Self

from rongcloud_groups._validation import positive

PATH_JITTER = 0.007  #: seconds by which two requests may come closer together on their way than they left
SHARED_JITTER = 0.007  #: the same between machines that share a clock
HOST_JITTER = 0.008  #: the same between processes that compete for the same processors
WAKE_UP_SLACK = 0.002  #: seconds by which a timer of the event loop may wake late without costing throughput: S
MAX_LATE = 0.1  #: seconds after its slot at which a request may still leave; more is never caught up
LATENESS_DECAY = 1.0  #: seconds in which the lateness that was seen, L, falls by the factor e
MAX_HISTORY = 500  #: requests whose send times a shared budget remembers
MAX_RESERVED = 500  #: slots that are given out and not used yet; more processes than that wait without one
QUIET_PERIOD = 1.6  #: seconds without a request where it is not known what other processes sent in the last second
PAUSE = 0.2  # seconds without a request after a refusal that does not say how long to wait
PAUSE_JITTER = 0.05  # upper bound, in seconds, of the time added to a pause so that processes do not come back together
MAX_PAUSE = 60.0  # upper bound for ``Retry-After``, in seconds
DECREASE_FACTOR = 0.85  # the part of the rate that remains after a refusal
MIN_SHARE = 0.05  # the part of the limit that remains, however many refusals there are
RECOVERY_TIME = 4.0  # seconds that the climb back from a cut at the full limit takes
HORIZON = 1.0  # seconds ahead of now within which a process takes more than one slot in Redis
CALLS_AVERAGED = 3.0  # times to get to a process over which the slots reserved ahead are averaged
MICROSECOND = 1e-6


class Window(NamedTuple):
    """How the service counts: ``requests`` in any ``seconds``."""

    requests: int
    seconds: float

    @classmethod
    def of(cls, limit: float, max_requests: float = MAX_HISTORY) -> Self:
        """The window that keeps a limit in requests/s.

        It is a second with as many whole requests as fit, a part of one where that would be more than
        ``max_requests``, or the time of one request where the limit is less than one a second.

        Raises:
            ConfigError: the limit is not a positive number.
        """
        limit = positive("rate", limit)
        parts = max(1, ceil(limit / max_requests))
        return cls(max(1, floor(limit / parts)), max(1 / parts, 1 / limit))

    @property
    def rate(self) -> float:
        """Requests/s that it comes to: the limit without its fraction."""
        return self.requests / self.seconds


class Pacing:
    """How far apart requests leave and how late they may be, as lateness and refusals lower the limit.

    A refusal brings a pause, one cut for all requests that had left by then, and a cubic climb back. Times are seconds
    on one clock.
    """

    def __init__(
        self,
        window: Window,
        *,
        jitter: float,
        late: float = 0.0,
        late_at: float = 0.0,
        paused_until: float = 0.0,
        cut_at: float = -MAX_PAUSE,
        cut_from: float = 0.0,
    ) -> None:
        self.window = window
        self.jitter = jitter  # J
        self.late = late  # L, as it was seen last
        self.late_at = late_at  # when that was
        self.paused_until = paused_until  # the end of the last pause
        self.cut_at = cut_at  # when the rate was cut last
        self.cut_from = cut_from  # the rate, in requests/s, that the climb aims at first; 0 where there was no cut

    def rate(self, now: float) -> float:
        """Requests/s: rises fast after a cut, slowly near the rate that was refused, then ever faster."""
        limit = self.window.rate
        if not self.cut_from:
            return limit
        steepness = limit * (1 - DECREASE_FACTOR) / RECOVERY_TIME**3
        back = cbrt(self.cut_from * (1 - DECREASE_FACTOR) / steepness)
        rate = self.cut_from + steepness * (now - self.cut_at - back) ** 3
        return min(limit, max(rate, limit * MIN_SHARE))

    def refused(self, now: float, retry_after: float | None, age: float) -> None:
        """Take in a refusal; the arguments are as for `Limiter.throttle`."""
        if now - age >= self.cut_at:
            # Refused on the way back: the true share has shrunk, so aim lower (RFC 9438, section 4.7).
            rate = self.rate(now)
            self.cut_from = rate * (1 + DECREASE_FACTOR) / 2 if rate < self.cut_from else rate
            self.cut_at = now
            self.paused_until = max(self.paused_until, now + PAUSE + random() * PAUSE_JITTER)
        if retry_after is not None:
            end = now + min(retry_after, MAX_PAUSE)
            self.paused_until = max(self.paused_until, end + random() * PAUSE_JITTER)

    def lateness(self, now: float) -> float:
        """L: how late, beyond every timer's slack, a process was lately."""
        return self.late * exp(min(0.0, self.late_at - now) / LATENESS_DECAY)

    def gap(self, now: float) -> float:
        """Seconds from one slot to the next."""
        span = self.window.seconds + self.jitter + WAKE_UP_SLACK + 2 * self.lateness(now)
        return max(span / self.window.requests, 1 / self.rate(now))

    def catch_up(self, now: float) -> float:
        """Seconds by which a slot may lie before the moment at which it is given out."""
        return WAKE_UP_SLACK + self.lateness(now)

    def note_lateness(self, late: float, now: float) -> None:
        """A request leaves now, so many seconds after its slot."""
        late = min(late, MAX_LATE)
        if late > self.catch_up(now) + MICROSECOND:
            self.late, self.late_at = late - WAKE_UP_SLACK, now


class SlotSchedule(Pacing):
    """The slots of a budget that processes share, as pure arithmetic.

    A process reserves a slot, waits for it, and then asks whether it may use it. Of the N latest requests that left, or
    may still leave, the earliest is known, and a slot is at least W + J + L after it. That holds whenever the processes
    come, and if they never come: a slot that was not used counts until it is `MAX_LATE` old, and cannot be used then.

    Proof. Of N + 1 requests let X be the one whose slot was reserved last. At that moment each of the others had left,
    or is counted as leaving at the latest moment that is allowed to it. So X leaves at least W + J after the earliest
    of them, and the last of all does too.

    A slot whose process is gone is handed on as it is, which changes nothing that was counted on. Where that was wrong,
    `use` still lets one request leave with it.

    Args:
        limit: requests/s that the service allows; of a fraction only whole requests are used.
        next_slot: before it no more slots are given out.
        sent: when the latest requests left, in order.
        **pacing: see `Pacing`.

    Raises:
        ConfigError: the limit is not a positive number.
    """

    def __init__(self, limit: float, *, next_slot: float = 0.0, sent: Iterable[float] = (), **pacing: float) -> None:
        super().__init__(Window.of(limit), **pacing)
        self.next_slot = next_slot
        self.sent = array("d", sent)
        self.reserved = array("d")  # the slots that are not used yet, in order
        self.owners: dict[float, int] = {}  # the process of each of these

    def reserve(
        self, now: float, lead: float = 0.0, owner: int = 0, is_gone: Callable[[int], bool] = lambda _: False
    ) -> float:
        """Give out the next slot.

        Args:
            now: the time.
            lead: seconds that the slot takes to get to its process.
            owner: this process.
            is_gone: whether a process does not exist any more.
        """
        self.reserved = array("d", (slot for slot in self.reserved if now - slot <= MAX_LATE))
        earliest = max(now + lead - self.catch_up(now), self.paused_until)
        for slot in self.reserved[bisect_left(self.reserved, earliest) :]:
            if is_gone(self.owners.get(slot, 0)):
                self.owners[slot] = owner
                return slot
        slot = max(earliest, self.next_slot, self._window_opens(now))
        insort(self.reserved, slot)
        self.owners[slot] = owner
        del self.reserved[MAX_RESERVED:]
        self.next_slot = slot + self.gap(now)
        return slot

    def use(self, slot: float, now: float) -> bool:
        """Whether the request of this slot may leave now; if not, the slot no longer counts."""
        self.note_lateness(now - slot, now)
        try:
            self.reserved.remove(slot)
        except ValueError:  # it was too late, or is one of another budget
            return False
        in_time = slot >= self.paused_until and now - slot <= MAX_LATE and now >= self._opens(self.sent)
        if in_time:
            insort(self.sent, now)
            del self.sent[:-MAX_HISTORY]
        return in_time

    def left_later(self, slot: float, allowed_at: float, left_at: float) -> None:
        """The request of this slot left later than `use` allowed it to: its process was interrupted in between."""
        self.note_lateness(left_at - slot, left_at)
        if allowed_at in self.sent:
            self.sent.remove(allowed_at)
            insort(self.sent, left_at)

    def _window_opens(self, now: float) -> float:
        requests = self.window.requests
        latest = sorted([*self.sent[-requests:], *(slot + MAX_LATE for slot in self.reserved[-requests:])])
        return self._opens(latest) + self.lateness(now)

    def _opens(self, left_at: Sequence[float]) -> float:
        """When another request may leave after these, which are in order."""
        requests, seconds = self.window
        return left_at[-requests] + seconds + self.jitter if len(left_at) >= requests else -inf
