"""The queue of open IDs and the lanes in which they wait. No I/O, no clock.

Each open ID has one `PendingId`, however many waiters it has. It waits in a lane, is in flight in a `Batch`, or rests
between two attempts. It is closed when it is settled, or when its last waiter leaves. A caller that arrives after an
invalidation waits for a new request instead of joining the one in flight.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from msgspec import Struct, field

from rongcloud_groups._dispatch.retry import Attempts
from rongcloud_groups.errors import RongCloudError
from rongcloud_groups.lookup import Outcome

BULK_EVERY = 10
"""Every tenth batch is the bulk lane's, however much the interactive lane holds."""


class Waiter(Protocol):
    """Receives outcomes. Implementations must not raise."""

    def settle(self, group_id: str, outcome: Outcome) -> None:
        """One of its IDs has its outcome."""
        ...

    def flush(self) -> None:
        """Every ID that settles in this step has settled."""
        ...

    def abort(self, error: RongCloudError) -> None:
        """None of its open IDs will be settled."""
        ...


class PendingId(Struct, eq=False):
    """One open ID.

    Attributes:
        bulk: whether it waits in the bulk lane.
        waiters: get the outcome of the request in flight, or else of the next one.
        next_waiters: get the outcome of the request after the one in flight, which is stale.
        stale: the request in flight was sent before an invalidation.
        attempts: the requests that it lost; None before the first.
        batch: the request in flight.
        isolated: the half of a batch with which it waits to be sent alone.
    """

    group_id: str
    bulk: bool
    waiters: list[Waiter] = field(default_factory=list)
    next_waiters: list[Waiter] = field(default_factory=list)
    stale: bool = False
    attempts: Attempts | None = None
    batch: "Batch | None" = None
    isolated: "list[PendingId] | None" = None

    @property
    def wanted(self) -> bool:
        """Whether a waiter is left."""
        return bool(self.waiters or self.next_waiters)


class Batch(Struct, eq=False):
    """The IDs of one request in flight.

    Attributes:
        entries: in the order in which they are sent.
        cancel: called with the batch when no waiter is left for any of its IDs; they are no longer open by then.
        wanted: how many entries have a waiter.
    """

    entries: list[PendingId]
    cancel: "Callable[[Batch], object]"
    wanted: int = 0

    def __post_init__(self) -> None:
        self.wanted = len(self.entries)
        for entry in self.entries:
            entry.batch = self

    @property
    def group_ids(self) -> list[str]:
        """The IDs of the request."""
        return [entry.group_id for entry in self.entries]

    def __len__(self) -> int:
        return len(self.entries)


class _Lane(Struct, eq=False):
    """Entries in the order in which they leave; the isolated halves leave before the others, each alone."""

    entries: OrderedDict[str, PendingId] = field(default_factory=OrderedDict)
    isolated: deque[list[PendingId]] = field(default_factory=deque)

    def __bool__(self) -> bool:
        return bool(self.entries or self.isolated)


class PendingQueue:
    """The open IDs, and which of them go into the next request.

    Args:
        limit: the most IDs in a batch.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ids: dict[str, PendingId] = {}
        self._interactive = _Lane()
        self._bulk = _Lane()
        self._taken = 0
        self._waiting = 0
        self.found = self.missing = self.failed = 0

    def __len__(self) -> int:
        """How many IDs wait for a request now."""
        return self._waiting

    def begins(self, group_id: str) -> bool:
        """Whether adding a waiter for this ID would cause a new request."""
        entry = self._ids.get(group_id)
        return entry is None or (entry.stale and not entry.next_waiters)

    @property
    def open(self) -> int:
        """How many IDs are open."""
        return len(self._ids)

    def add(self, group_id: str, waiter: Waiter, *, bulk: bool) -> None:
        """Let ``waiter`` wait for an ID; an open one is requested again only if the request in flight is stale."""
        entry = self._ids.get(group_id)
        if entry is None:
            entry = self._ids[group_id] = PendingId(group_id, bulk)
            self._lane_of(entry).entries[group_id] = entry
            self._waiting += 1
        else:
            if not entry.wanted and entry.batch is not None:
                entry.batch.wanted += 1
            if entry.bulk and not bulk:
                self._make_interactive(entry)
        (entry.next_waiters if entry.stale else entry.waiters).append(waiter)

    def leave(self, waiter: Waiter, group_ids: Iterable[str]) -> None:
        """``waiter`` no longer waits for these IDs; those without a waiter are dropped."""
        for group_id in group_ids:
            entry = self._ids.get(group_id)
            if entry is None:
                continue
            joined = next((those for those in (entry.waiters, entry.next_waiters) if waiter in those), None)
            if joined is None:
                continue
            joined.remove(waiter)
            if not entry.wanted:
                self._drop(entry)

    def mark_stale(self, group_ids: Iterable[str] | None = None) -> None:
        """No new waiter joins the requests in flight for these IDs, or for all."""
        for group_id in list(self._ids) if group_ids is None else group_ids:
            entry = self._ids.get(group_id)
            if entry is not None and entry.batch is not None:
                entry.stale = True

    def take(self, cancel: Callable[[Batch], object]) -> Batch | None:
        """The next batch, out of the lanes: interactive first, filled with bulk; None where nothing waits.

        Args:
            cancel: see `Batch`.
        """
        lanes = [self._interactive, self._bulk]
        if self._interactive and self._bulk:
            self._taken += 1
            if self._taken % BULK_EVERY == 0:
                lanes.reverse()
        first = next((lane for lane in lanes if lane), None)
        if first is None:
            return None
        if first.isolated:
            entries = first.isolated.popleft()
            for entry in entries:
                entry.isolated = None
        else:
            entries = []
            for lane in lanes:
                while lane.entries and len(entries) < self._limit:
                    entries.append(lane.entries.popitem(last=False)[1])
        self._waiting -= len(entries)
        return Batch(entries, cancel)

    def settle(self, outcomes: Iterable[tuple[PendingId, Outcome]]) -> None:
        """These entries have their outcome and are closed."""
        touched: dict[Waiter, None] = {}
        for entry, outcome in outcomes:
            if self._ids.get(entry.group_id) is not entry:
                continue
            self._forget(entry)
            if outcome is None:
                self.missing += 1
            elif isinstance(outcome, RongCloudError):
                self.failed += 1
            else:
                self.found += 1
            for waiter in entry.waiters:
                waiter.settle(entry.group_id, outcome)
                touched[waiter] = None
            for waiter in entry.next_waiters:
                self.add(entry.group_id, waiter, bulk=entry.bulk)
        for waiter in touched:
            waiter.flush()

    def rest(self, entries: Iterable[PendingId]) -> list[PendingId]:
        """Take entries out of flight, to be requeued later; those without a waiter are dropped."""
        resting = []
        for entry in entries:
            entry.batch = None
            if self._ids.get(entry.group_id) is not entry:
                continue
            entry.waiters += entry.next_waiters
            entry.next_waiters = []
            entry.stale = False
            if entry.waiters:
                resting.append(entry)
            else:
                del self._ids[entry.group_id]
        return resting

    def requeue(self, entries: Iterable[PendingId]) -> None:
        """Let resting entries wait again, at the front of their lane and in their old order."""
        for entry in reversed([entry for entry in entries if self._ids.get(entry.group_id) is entry]):
            lane = self._lane_of(entry)
            lane.entries[entry.group_id] = entry
            lane.entries.move_to_end(entry.group_id, last=False)
            self._waiting += 1

    def requeue_halves(self, entries: list[PendingId]) -> None:
        """Let resting entries wait again as two halves, each sent alone and before the rest of its lane."""
        entries = [entry for entry in entries if self._ids.get(entry.group_id) is entry]
        middle = (len(entries) + 1) // 2
        for half in (entries[middle:], entries[:middle]):
            if not half:
                continue
            bulk = all(entry.bulk for entry in half)
            for entry in half:
                entry.bulk = bulk
                entry.isolated = half
            (self._bulk if bulk else self._interactive).isolated.appendleft(half)
            self._waiting += len(half)

    def waiting(self) -> Iterator[PendingId]:
        """The entries that wait for a request."""
        for lane in (self._interactive, self._bulk):
            for half in lane.isolated:
                yield from half
            yield from lane.entries.values()

    def is_open(self, group_id: str) -> bool:
        """Whether an ID has no outcome yet."""
        return group_id in self._ids

    def in_flight(self, group_id: str) -> bool:
        """Whether a request for an ID is in flight."""
        entry = self._ids.get(group_id)
        return entry is not None and entry.batch is not None

    def waits(self, group_id: str) -> bool:
        """Whether an ID waits for a request now; False where it is in flight, rests, or is not open."""
        entry = self._ids.get(group_id)
        return entry is not None and (entry.isolated is not None or group_id in self._lane_of(entry).entries)

    def abort(self, error: RongCloudError) -> None:
        """Close every ID: each waiter gets the error."""
        waiters = dict.fromkeys(waiter for entry in self._ids.values() for waiter in entry.waiters + entry.next_waiters)
        for entry in list(self._ids.values()):
            self._forget(entry)
        for waiter in waiters:
            waiter.abort(error)

    def __repr__(self) -> str:
        return f"<PendingQueue: {self.open} IDs open, {len(self)} waiting>"

    def _lane_of(self, entry: PendingId) -> _Lane:
        return self._bulk if entry.bulk else self._interactive

    def _make_interactive(self, entry: PendingId) -> None:
        if entry.isolated is not None:
            half = entry.isolated
            self._bulk.isolated.remove(half)
            for each in half:
                each.bulk = False
            self._interactive.isolated.append(half)
        elif self._bulk.entries.pop(entry.group_id, None) is not None:
            self._interactive.entries[entry.group_id] = entry
        entry.bulk = False

    def _drop(self, entry: PendingId) -> None:
        if entry.batch is None:
            self._forget(entry)
            return
        entry.batch.wanted -= 1
        if not entry.batch.wanted:
            batch = entry.batch
            for each in batch.entries:
                self._ids.pop(each.group_id, None)
            batch.cancel(batch)

    def _forget(self, entry: PendingId) -> None:
        """Close it, and take it out of its batch or lane."""
        del self._ids[entry.group_id]
        if entry.batch is not None:
            entry.batch = None  # it refers to its entries: this leaves no cycle to the garbage collector
        elif entry.isolated is not None:
            entry.isolated.remove(entry)
            if not entry.isolated:
                self._lane_of(entry).isolated.remove(entry.isolated)
            entry.isolated = None
            self._waiting -= 1
        elif self._lane_of(entry).entries.pop(entry.group_id, None) is not None:
            self._waiting -= 1
