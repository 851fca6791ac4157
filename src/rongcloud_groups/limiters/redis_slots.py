"""The slots of one process: reserved in Redis ahead of their time, used, and reported back."""

from asyncio import Future, sleep, wait
from collections import deque
from dataclasses import dataclass
from logging import getLogger
from math import ceil, inf
from random import random
from time import monotonic
from typing import NamedTuple

from rongcloud_groups.limiters.redis_clock import RedisClock
from rongcloud_groups.limiters.redis_connection import RedisConnection, Reply
from rongcloud_groups.limiters.schedule import MAX_LATE, QUIET_PERIOD, WAKE_UP_SLACK
from rongcloud_groups.limiters.scripts import CLOCK_STEP, REFUSED, RESERVE
from rongcloud_groups.limiters.throttle import MAX_PAUSE, PAUSE_JITTER

MAX_CALL_TIME = 3.0
"""Seconds after which a call counts as lost, whatever holds it up: a name server, the thread."""
BUSY_WITHIN = 0.01
"""Seconds after a request within which a busy process wants the next slot."""
MAX_SLOTS = 250
"""Slots that a process reserves with one call."""
LATENESS_KEPT = 0.98
"""Part of the event loop's greatest lateness that is remembered from one slot to the next."""
MAX_LATENESS = 10.0
"""Seconds; an event loop that comes round less often gets no slot."""
UNUSED = -1.0
"""Reported instead of a send time when a slot was not used."""

logger = getLogger(__name__)


class Slot(NamedTuple):
    """A reserved send time, on Redis's clock, and until when it may be used."""

    name: int
    time: float
    usable_until: float


@dataclass(slots=True)
class _Call:
    """A call for slots that is under way."""

    reply: "Future[Reply]"
    lead: float
    usable_for: float
    busy: bool


class RedisSlots:
    """The slots that this process has reserved in one budget; one task at a time acquires them.

    A process that sends one request after the other asks for the next slots while it waits for those it has: as early
    as its calls take time, and for as many as come due meanwhile. Redis counts a slot as used at the last moment at
    which it may be, until its report says otherwise; so slots may be used as late as this event loop needs.

    Args:
        connection: to Redis.
        key: where Redis keeps the budget; a second key begins with it.
        limit: requests/s that the service allows to all processes together.

    Attributes:
        rate: requests/s that all processes together may send now.
    """

    def __init__(self, connection: RedisConnection, key: str, limit: float) -> None:
        self.rate = self._limit = limit
        self._connection = connection
        self._keys = [key, f"{key}:sent"]
        self._clock = RedisClock()
        self._call: _Call | None = None
        self._call_time = 0.0  # seconds until the event loop has the reply
        self._slots: deque[Slot] = deque()
        self._reports: list[tuple[int, float, float]] = []  # of slots: name, when its request left, how late
        self._slots_wanted = 1
        self._late = 0.0  # seconds by which the event loop was late lately
        self._paused_until = 0.0  # on Redis's clock
        self._quiet_until = self._acquired_at = -inf
        self._limits_seen = {limit}

    async def connect(self) -> None:
        """Open the connection with one call, whose time tells nothing, and read Redis's clock with a second one.

        Raises:
            RedisError, OSError: Redis does not answer, or refuses.
        """
        for _ in range(2):
            self.forget()
            self._reports += [(0, 0.0, 0.0), (0, UNUSED, 0.0)]  # no slot has this name: it checks the permissions
            self.start_call(0)
            await self._finish_call()

    @property
    def has_reply(self) -> bool:
        """Whether a call was answered, or failed."""
        return self._call is not None and self._call.reply.done()

    async def acquire(self) -> None:
        """Wait until one request may leave.

        Raises:
            RedisError, OSError: Redis does not answer, or refuses.
        """
        busy = monotonic() - self._acquired_at <= BUSY_WITHIN + self._late
        while True:
            if (quiet := self._quiet_until - monotonic()) > 0:
                await sleep(quiet)
            waiting_since = self._clock.now()
            await self._reserve(waiting_since, busy=busy)
            # A slot whose wait was cancelled is still here for the next caller.
            while (early := self._slots[0].time - self._clock.now()) > 0:  # noqa: ASYNC110  a timer may be early
                await sleep(early)
            if self._use(self._slots.popleft(), waiting_since):
                self._acquired_at = monotonic()
                return

    async def report_refusal(self, retry_after: float | None, age: float) -> float:
        """Pause all processes, see `Limiter.throttle`.

        Raises:
            RedisError, OSError: Redis does not answer, or refuses.
        """
        wait = -1 if retry_after is None else min(retry_after, MAX_PAUSE)
        arguments = [self._limit, age, random() * PAUSE_JITTER, wait]
        reply = self._connection.run(REFUSED, self._keys, arguments)
        await _wait_for(reply)
        paused_until, pause, self.rate = reply.result().values
        self._paused_until = max(self._paused_until, paused_until)
        return pause

    def pause(self, seconds: float) -> None:
        """Use no slot of so many seconds from now."""
        self._paused_until = max(self._paused_until, self._clock.now() + seconds)

    def forget(self) -> None:
        """Start over, with no slot and a clock not yet known. Redis takes unreported slots for used."""
        self._slots.clear()
        self._reports.clear()
        self._paused_until = 0.0
        self._clock = RedisClock()
        self._call_time = 0.0
        self._acquired_at = -inf

    def abandon_call(self) -> None:
        """Do not wait for the call that is under way: its event loop has ended."""
        self._call = None

    def give_back(self) -> None:
        """Report the slots that will not be used."""
        while self._slots:
            self._give_up(self._slots.popleft())
        if self._reports:
            self.start_call(0)

    def start_call(self, wanted: int, *, busy: bool = False) -> None:
        """Report what became of the slots so far, and ask for more, unless a call is under way."""
        if self._call is not None:
            return
        reports, self._reports = self._reports, []
        lead = min(self._call_time, MAX_LATENESS)
        usable_for = MAX_LATE + 2 * self._late
        called_at = monotonic()
        reply = self._connection.run(
            RESERVE,
            self._keys,
            [self._limit, lead, usable_for, wanted]
            + [value for name, left_at, late in reports for value in (name, left_at, late)],
        )
        reply.add_done_callback(lambda _: self._note_call_time(monotonic() - called_at))
        self._call = _Call(reply, lead, usable_for, busy)

    async def _reserve(self, now: float, *, busy: bool) -> None:
        """See to it that there is a slot, and soon another one where the process is busy."""
        while self._slots and (self._slots[0].usable_until < now or self._slots[0].time < self._paused_until):
            self._give_up(self._slots.popleft())
        if self.has_reply:
            await self._finish_call()
        while not self._slots:
            self.start_call(self._wanted(busy=busy), busy=busy)
            await self._finish_call()
        if busy and self._slots[-1].time < self._clock.now() + self._ahead():
            self.start_call(self._wanted(busy=busy), busy=busy)

    def _wanted(self, *, busy: bool) -> int:
        most = min(MAX_SLOTS, ceil(self._ahead() * self.rate) + 1)
        self._slots_wanted = min(self._slots_wanted, most) if busy else 1
        return self._slots_wanted

    def _ahead(self) -> float:
        """Seconds ahead of now until which a busy process wants to have slots."""
        return 2 * self._call_time + self._late + WAKE_UP_SLACK

    def _note_call_time(self, seconds: float) -> None:
        self._call_time = max(seconds, 0.8 * self._call_time + 0.2 * seconds)

    async def _finish_call(self) -> None:
        """Wait for the call that is under way, and take in its reply."""
        call = self._call
        assert call is not None  # noqa: S101
        await _wait_for(call.reply)
        self._call = None
        reply = call.reply.result()
        now, paused_until, self.rate, limit_before, is_new, set_back, first, *times = reply.values
        step = self._clock.note(reply.sent_at, reply.received_at, now)
        self._check_budget(limit_before, is_new=bool(is_new), clock_step=step if abs(step) > CLOCK_STEP else -set_back)
        self._paused_until = max(self._paused_until, paused_until)
        self._slots += [Slot(int(first) + n, time, time + call.usable_for) for n, time in enumerate(times)]
        if call.busy and times:
            if times[0] <= now + call.lead + WAKE_UP_SLACK:
                self._slots_wanted *= 2  # Redis had an earlier slot: the call came too late
            elif times[0] > now + self._ahead():
                self._slots_wanted = max(1, self._slots_wanted - 1)  # others wait as well: take turns

    def _check_budget(self, limit_before: float, *, is_new: bool, clock_step: float) -> None:
        """Log what should not have happened since the last call, and start over after a pause."""
        name = self._connection.name
        if abs(clock_step) > CLOCK_STEP:
            self._slots.clear()
            self._reports.clear()
            self._paused_until = 0.0
            self._quiet_until = monotonic() + QUIET_PERIOD
            logger.warning(
                "the clock of Redis at %s was set by %+.1f s: pausing for %g s", name, clock_step, QUIET_PERIOD
            )
        elif is_new and self._acquired_at > -inf:
            self._slots.clear()
            logger.warning("the budget in Redis at %s was lost: pausing for %g s", name, QUIET_PERIOD)
        if limit_before not in self._limits_seen:
            self._limits_seen.add(limit_before)
            logger.warning(
                "another process uses the budget in Redis at %s with a rate of %g requests/s, this one with %g: "
                "give all of them the same rate",
                name,
                limit_before,
                self._limit,
            )

    def _use(self, slot: Slot, waiting_since: float) -> bool:
        """Whether a request may leave now that has this slot; if not, it does not count."""
        now = self._clock.now()
        late = max(0.0, now - max(slot.time, waiting_since))
        self._late = min(MAX_LATENESS, max(late, LATENESS_KEPT * self._late))
        in_time = slot.time >= self._paused_until and now <= slot.usable_until
        self._reports.append((slot.name, now if in_time else UNUSED, late))
        return in_time

    def _give_up(self, slot: Slot) -> None:
        self._reports.append((slot.name, UNUSED, 0.0))


async def _wait_for(reply: "Future[Reply]") -> None:
    if not reply.done():  # or a whole turn of the event loop would pass
        await wait([reply], timeout=MAX_CALL_TIME)
    if not reply.done():
        raise TimeoutError(f"no reply within {MAX_CALL_TIME:g} s")
