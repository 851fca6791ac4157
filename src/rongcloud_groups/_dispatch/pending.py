"""The book of open IDs and the lanes in which they wait. No I/O, no clock.

Each ID that anybody waits for has one `PendingId`, whoever asked and however often. It waits in a lane, or is in
flight in a `Batch`, or rests between two attempts; it leaves the book when it is settled, or when nobody waits
for it any more. Whoever comes when the answer in flight is outdated waits for the next request of its ID.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from rongcloud_groups.errors import RongCloudError
from rongcloud_groups.lookup import Outcome

BULK_EVERY = 10
"""Every tenth batch is the bulk lane's, however much the interactive lane holds."""


class Waiter(Protocol):
    """Somebody who waits for IDs. Its methods must not raise."""

    def settle(self, group_id: str, outcome: Outcome) -> None:
        """One of its IDs has its outcome."""
        ...

    def flush(self) -> None:
        """All that settles in this step has settled."""
        ...

    def abort(self, error: RongCloudError) -> None:
        """None of its open IDs will be settled any more."""
        ...


class PendingId:
    """One open ID.

    Attributes:
        waiters: who gets the answer of the request in flight or the next one.
        next_waiters: who gets the answer of the request after the one in flight, which is outdated.
        attempts: requests that were lost on it so far.
        unprocessed: requests with it that the server did not begin.
        outdated: the answer in flight is.
    """

    __slots__ = ("attempts", "batch", "bulk", "group_id", "isolated", "next_waiters", "stale", "unprocessed", "waiters")

    def __init__(self, group_id: str, *, bulk: bool) -> None:
        self.group_id = group_id
        self.bulk = bulk
        self.waiters: list[Waiter] = []
        self.next_waiters: list[Waiter] = []
        self.stale = False
        self.attempts = 0
        self.unprocessed = 0
        self.batch: Batch | None = None
        self.isolated: list[PendingId] | None = None

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for it."""
        return bool(self.waiters or self.next_waiters)


class Batch:
    """The entries of one request in flight.

    Attributes:
        entries: in the order in which they are asked.
        abandoned: called when nobody waits for any of them any more; they are out of the book by then.
    """

    __slots__ = ("abandoned", "entries", "wanted")

    def __init__(self, entries: list[PendingId]) -> None:
        self.entries = entries
        self.wanted = len(entries)
        self.abandoned: Callable[[], object] = _nothing
        for entry in entries:
            entry.batch = self

    @property
    def group_ids(self) -> list[str]:
        """The IDs to ask for."""
        return [entry.group_id for entry in self.entries]

    def __len__(self) -> int:
        return len(self.entries)


class _Lane:
    """Entries in the order in which they leave; sealed groups leave before the others, each by itself."""

    __slots__ = ("entries", "isolated")

    def __init__(self) -> None:
        self.entries: OrderedDict[str, PendingId] = OrderedDict()
        self.isolated: deque[list[PendingId]] = deque()

    def __bool__(self) -> bool:
        return bool(self.entries or self.isolated)


class PendingQueue:
    """Who waits for what.

    Args:
        limit: IDs in a batch at the most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._book: dict[str, PendingId] = {}
        self._interactive = _Lane()
        self._bulk = _Lane()
        self._taken = 0
        self._waiting = 0
        self.found = self.missing = self.failed = 0

    def __len__(self) -> int:
        """How many IDs wait for a request now."""
        return self._waiting

    def begins(self, group_id: str) -> bool:
        """Whether the next to wait for an ID begins a request of it, and does not join somebody else's."""
        entry = self._book.get(group_id)
        return entry is None or (entry.stale and not entry.next_waiters)

    @property
    def open(self) -> int:
        """How many IDs are in the book."""
        return len(self._book)

    def add(self, group_id: str, waiter: Waiter, *, bulk: bool) -> None:
        """Let ``waiter`` wait for an ID; one that is open already is asked for again only if it is outdated."""
        entry = self._book.get(group_id)
        if entry is None:
            entry = self._book[group_id] = PendingId(group_id, bulk=bulk)
            self._lane_of(entry).entries[group_id] = entry
            self._waiting += 1
        else:
            if not entry.wanted and entry.batch is not None:
                entry.batch.wanted += 1
            if entry.bulk and not bulk:
                self._make_interactive(entry)
        (entry.next_waiters if entry.stale else entry.waiters).append(waiter)

    def leave(self, waiter: Waiter, group_ids: Iterable[str]) -> None:
        """``waiter`` no longer waits for these IDs; what nobody waits for is dropped."""
        for group_id in group_ids:
            entry = self._book.get(group_id)
            if entry is None:
                continue
            joined = next((those for those in (entry.waiters, entry.next_waiters) if waiter in those), None)
            if joined is None:
                continue
            joined.remove(waiter)
            if not entry.wanted:
                self._drop(entry)

    def mark_stale(self, group_ids: Iterable[str] | None = None) -> None:
        """What is in flight for these IDs, or for all, is too old for whoever comes from now on."""
        for group_id in list(self._book) if group_ids is None else group_ids:
            entry = self._book.get(group_id)
            if entry is not None and entry.batch is not None:
                entry.stale = True

    def take(self) -> Batch | None:
        """The next batch, out of the lanes: interactive first, filled with bulk; None where nothing waits."""
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
        return Batch(entries)

    def settle(self, outcomes: Iterable[tuple[PendingId, Outcome]]) -> None:
        """These entries have their outcome and leave the book."""
        touched: dict[Waiter, None] = {}
        for entry, outcome in outcomes:
            if self._book.get(entry.group_id) is not entry:
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
        """Take entries out of flight, to be put back later; those that nobody waits for are dropped."""
        resting = []
        for entry in entries:
            entry.batch = None
            if self._book.get(entry.group_id) is not entry:
                continue
            entry.waiters += entry.next_waiters
            entry.next_waiters = []
            entry.stale = False
            if entry.waiters:
                resting.append(entry)
            else:
                del self._book[entry.group_id]
        return resting

    def requeue(self, entries: Iterable[PendingId]) -> None:
        """Let resting entries wait again, at the front of their lane and in their old order."""
        for entry in reversed([entry for entry in entries if self._book.get(entry.group_id) is entry]):
            lane = self._lane_of(entry)
            lane.entries[entry.group_id] = entry
            lane.entries.move_to_end(entry.group_id, last=False)
            self._waiting += 1

    def requeue_halves(self, entries: list[PendingId]) -> None:
        """Let resting entries wait again as two halves that go by themselves, before anything else of their lane."""
        entries = [entry for entry in entries if self._book.get(entry.group_id) is entry]
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

    def waits(self, group_id: str) -> bool:
        """Whether an ID waits for a request now; False where it is in flight, rests, or is not open."""
        entry = self._book.get(group_id)
        return entry is not None and (entry.isolated is not None or group_id in self._lane_of(entry).entries)

    def abort(self, error: RongCloudError) -> None:
        """Empty the book: everybody who waits gets the error."""
        waiters = dict.fromkeys(
            waiter for entry in self._book.values() for waiter in entry.waiters + entry.next_waiters
        )
        for entry in list(self._book.values()):
            self._forget(entry)
        for waiter in waiters:
            waiter.abort(error)

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
                self._book.pop(each.group_id, None)
            batch.abandoned()

    def _forget(self, entry: PendingId) -> None:
        """Out of the book, and out of the batch or the lane that it is in."""
        del self._book[entry.group_id]
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


def _nothing() -> None: ...
