"""The slots of one process: reserved in Redis ahead of their time, used, and reported back."""

from asyncio import Future, TimerHandle, get_running_loop, sleep, wait
from collections import deque
from contextlib import suppress
from itertools import chain
from logging import getLogger
from math import inf
from operator import attrgetter
from random import random
from time import monotonic
from typing import NamedTuple

from redis.exceptions import RedisError

from rongcloud_groups.limiters.redis_claims import Claims, Slot
from rongcloud_groups.limiters.redis_connection import CLOCK_STEP, REFUSED, RESERVE, RedisClock, RedisConnection, Reply
from rongcloud_groups.limiters.schedule import MAX_LATE, MAX_PAUSE, PAUSE_JITTER, QUIET_PERIOD, WAKE_UP_SLACK

MAX_CALL_TIME = 3.0  # seconds after which a call counts as lost, whatever holds it up: a name server, the thread
IDLE_AFTER = 0.01  # seconds after a request, beyond the loop's lateness, after which a process gives up its slots
MARGIN = 0.01
"""Seconds by which slots are wanted to be reserved further ahead than a reply takes, besides 15 % of these."""
WAY_BACK = 0.75  # part of a call's time that its reply may take to the event loop
MAX_SLOTS = 250  # slots that a process reserves with one call
LATENESS_KEPT = 0.98  # part of the event loop's greatest lateness that is remembered from one slot to the next
MAX_LATENESS = 10.0  # seconds; an event loop that comes round less often gets no slot
logger = getLogger(__name__)


class _Report(NamedTuple):
    """The use of a slot: when its request left, or its time below 0 where it was not used, and the lateness."""

    name: int
    left_at: float
    late: float


class RedisSlots:
    """The slots that this process has reserved in one budget; one task at a time acquires them.

    A process that sends one request after the other asks for the next slots while it waits for those it has. All
    processes together want slots to be reserved a little further ahead than a call takes. Each wants one slot more than
    its part of these, so their parts become equal (as for flows in TCP Vegas), but no more than it uses. Slots of
    a process that becomes idle go to the others. Redis counts a slot as used at the last moment at which it may be,
    until its report says otherwise; so slots may be used as late as this event loop needs.

    Raises, wherever it waits for Redis:
        RedisError, OSError: Redis does not answer, or refuses.
    """

    def __init__(self, connection: RedisConnection, key: str, limit: float) -> None:
        self.rate = self._limit = limit
        self._connection = connection
        self._keys = [key, f"{key}:sent", f"{key}:free", f"{key}:claimed"]
        self._claims = Claims(limit)
        self._reply: Future[Reply] | None = None  # of the call that is under way
        self._lead = 0.0  # seconds that its reply was expected to take
        self._pause = 0.0  # seconds from one request until the next one wants a slot, lately
        self._idle: TimerHandle | None = None
        self._late = 0.0  # seconds by which the event loop was late lately
        self._quiet_until = -inf
        self._limits_seen = {limit}
        self.forget()

    def forget(self) -> None:
        """Start over, with no slot and a clock not yet known. Redis takes unreported slots for used."""
        self._slots: deque[Slot] = deque()
        self._claims.clear()
        self._reports: list[_Report] = []
        self._paused_until = 0.0  # on Redis's clock
        self._clock = RedisClock()
        self._call_time = 0.0  # seconds until the event loop has the reply of a call
        self._wanted = 1.0  # slots in hand and asked for
        self._active = False  # whether it sends one request after the other
        self._waited = False  # whether it was active and had to wait for a slot, since the last reply with some
        self._acquired_at = -inf

    async def connect(self) -> None:
        """Open the connection with one call, whose time tells nothing, and read Redis's clock with a second one."""
        for _ in range(2):
            self.forget()
            self._reports += [_Report(0, 0.0, 0.0), _Report(0, -1.0, 0.0)]  # of no slot: they check the permissions
            self.start_call(0)
            await self._finish_call()

    @property
    def has_reply(self) -> bool:
        """Whether a call was answered, or failed."""
        return self._reply is not None and self._reply.done()

    async def acquire(self) -> None:
        """Wait until one request may leave."""
        self._stop_timer()
        self._pause = 0.8 * self._pause + 0.2 * min(monotonic() - self._acquired_at, self._call_time)
        try:
            while not await self._take():
                pass
            self._acquired_at, self._active = monotonic(), True
        finally:
            self._start_timer()

    def sent(self) -> None:
        """The request for which `acquire` returned last has left."""
        now = self._clock.now()
        if self._reports and now - self._reports[-1].left_at > WAKE_UP_SLACK:
            name, left_at, late = self._reports[-1]
            self._reports[-1] = _Report(name, now, late + now - left_at)

    async def _take(self) -> bool:
        """Wait for a slot; False where it came too late."""
        if (quiet := self._quiet_until - monotonic()) > 0:
            await sleep(quiet)
        waiting_since = await self._reserve()
        # A slot whose wait was cancelled is still here for the next caller.
        while (early := self._slots[0].time - self._clock.now()) > 0:  # a timer may be early
            self._waited = self._active
            await sleep(early)
        return self._use(self._slots.popleft(), waiting_since)

    async def report_refusal(self, retry_after: float | None, age: float) -> float:
        """Pause all processes, see `Limiter.throttle`."""
        wait = -1 if retry_after is None else min(retry_after, MAX_PAUSE)
        arguments = [self._limit, age, random() * PAUSE_JITTER, wait]
        reply = self._connection.run(REFUSED, self._keys, arguments)
        await _wait_for(reply)
        _, _, (paused_until, pause, self.rate) = reply.result()
        self._paused_until = max(self._paused_until, paused_until)
        return pause

    def pause(self, seconds: float) -> None:
        """Use no slot of so many seconds from now."""
        self._paused_until = max(self._paused_until, self._clock.now() + seconds)

    def abandon_call(self) -> None:
        """Do not wait for the call that is under way: its event loop has ended."""
        self._reply = self._idle = None

    async def aclose(self) -> None:
        """Give up the slots that will not be used, so that other processes may use them."""
        self._stop_timer()
        with suppress(RedisError, OSError):
            if self._reply is not None:
                await self._finish_call()
            self._give_back()

    def _give_back(self) -> None:
        while self._slots:
            self._give_up()
        if self._reports:
            self.start_call(0)

    def start_call(self, wanted: int) -> None:
        """Report the use of the slots so far, and ask for more, unless a call is under way."""
        if self._reply is not None:
            return
        reports, self._reports = self._reports, []
        self._lead = min(WAY_BACK * self._call_time, MAX_LATENESS)
        now = self._clock.now()
        late = self._late if self._active else MAX_LATE
        busy_until = self._slots[-1].time if self._slots else now
        claims = self._claims.confirm(busy_until, now, self._latency, late)
        arguments = [self._limit, self._lead, MAX_LATE + 2 * self._late, wanted, *claims, *chain.from_iterable(reports)]
        called_at = monotonic()
        self._reply = self._connection.run(RESERVE, self._keys, arguments)
        self._reply.add_done_callback(lambda _: self._note_call_time(monotonic() - called_at))

    async def _reserve(self) -> float:
        """See to it that there is a slot, and soon the next ones; return the time from which it could be used."""
        if self.has_reply:
            await self._finish_call()
        now = self._clock.now()
        while self._slots and (self._slots[0].usable_until < now or self._slots[0].time < self._paused_until):
            self._give_up()
            self._wanted = max(1.0, self._wanted - 1)
        waiting_since = now
        while not self._slots:
            self._waited = self._active
            await sleep(max(0.0, self._claims.due_in(self._clock.now(), self._latency)))
            self.start_call(self._more_than(0) if self._active or not self._claims else 0)
            waiting_since = self._clock.at(await self._finish_call())
        more = self._more_than(len(self._slots) + len(self._claims))
        soon = now + 2 * self._call_time + self._late + MARGIN
        others_wait = bool(self._reports) and self._slots[0].time > now + MAX_LATE  # for the reports
        claim_lapses = bool(self._claims) and self._claims.due_in(self._slots[-1].time, self._latency) <= 0
        if others_wait or claim_lapses or (more and self._slots[-1].time <= soon):
            self.start_call(more)
        return waiting_since

    def _more_than(self, in_hand: int) -> int:
        """Slots to ask for. Of two in a row that a killed process had claimed, the others can use only the second one.

        So it asks for one at a time, unless others would pass during a call.
        """
        at_once = 1 + int(2 * self._call_time * self.rate)
        return max(0, min(int(self._wanted + random()) - in_hand, at_once))

    @property
    def _latency(self) -> float:
        """Seconds from the wish to call Redis until the reply is taken in, at most."""
        return self._call_time + self._late + WAKE_UP_SLACK

    def _start_timer(self) -> None:
        """Notice that the process becomes idle: a pause is one that is long for it, and longer than a call."""
        pause = min(2 * self._pause, self._call_time)
        self._idle = get_running_loop().call_later(IDLE_AFTER + pause + self._late, self._on_idle)

    def _stop_timer(self) -> None:
        if self._idle is not None:
            self._idle.cancel()

    def _on_idle(self) -> None:
        if self._reply is not None:
            if not self._reply.done():
                self._start_timer()
                return
            if self._reply.exception() is not None:
                return  # the next caller will find out
            self._take_in_reply()
        self._wanted, self._active, self._waited = 1.0, False, False
        if self._slots:
            self._give_back()

    def _note_call_time(self, seconds: float) -> None:
        self._call_time = max(seconds, 0.8 * self._call_time + 0.2 * seconds)

    async def _finish_call(self) -> float:
        """Wait for the call that is under way, and take in its reply; return when that came, on `time.monotonic`."""
        assert self._reply is not None  # noqa: S101
        await _wait_for(self._reply)
        return self._take_in_reply()

    def _take_in_reply(self) -> float:
        assert self._reply is not None  # noqa: S101
        reply, self._reply = self._reply, None
        sent_at, received_at, values = reply.result()
        now, paused_until, self.rate, limit_before, is_new, set_back, queue, confirmed, *rest = values
        step = self._clock.note(sent_at, received_at, now)
        self._check_budget(limit_before, is_new=bool(is_new), clock_step=step if abs(step) > CLOCK_STEP else -set_back)
        self._paused_until = max(self._paused_until, paused_until)
        names, slots = rest[: int(confirmed)], rest[int(confirmed) :]
        reserved = [Slot(int(name), *times) for name, *times in zip(slots[::3], slots[1::3], slots[2::3], strict=True)]
        firm = self._claims.settle(now, names, reserved)
        self._slots = deque(sorted([*self._slots, *firm], key=attrgetter("time")))
        if reserved:
            self._wanted = self._next_wanted(queue, self._lead)
        return received_at

    def _next_wanted(self, reserved: float, lead: float) -> float:
        """Slots wanted, where others are reserved for so many seconds ahead and a reply takes so many."""
        ahead, asking = 1.15 * lead + MARGIN, 2 * lead  # wanted; from the wish for a slot until Redis has it
        aim = self._wanted * (ahead + asking) / (reserved + asking)
        aim = aim + 1 if self._waited else min(aim, self._wanted)
        self._waited = False
        return max(1.0, min((self._wanted + aim) / 2, MAX_SLOTS))

    def _check_budget(self, limit_before: float, *, is_new: bool, clock_step: float) -> None:
        """Log irregularities since the last call, and start over after a pause."""
        name = self._connection.name
        if abs(clock_step) > CLOCK_STEP:
            self._slots.clear()
            self._claims.clear()
            self._reports.clear()
            self._paused_until = 0.0
            self._quiet_until = monotonic() + QUIET_PERIOD
            logger.warning(
                "the clock of Redis at %s was set by %+.1f s: pausing for %g s", name, clock_step, QUIET_PERIOD
            )
        elif is_new and self._acquired_at > -inf:
            self._slots.clear()
            self._claims.clear()
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
        self._reports.append(_Report(slot.name, now, late) if in_time else _Report(slot.name, -slot.time, 0.0))
        return in_time

    def _give_up(self) -> None:
        slot = self._slots.popleft()
        self._reports.append(_Report(slot.name, -slot.time, 0.0))


async def _wait_for(reply: "Future[Reply]") -> None:
    if not reply.done():  # or a whole turn of the event loop would pass
        await wait([reply], timeout=MAX_CALL_TIME)
    if not reply.done():
        raise TimeoutError(f"no reply within {MAX_CALL_TIME:g} s")
