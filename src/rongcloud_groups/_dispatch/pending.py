"""The queue of open IDs. No I/O, no clock.

Each open ID is known once, however many waiters it has. It waits in a lane, is in flight in a batch, or rests between
two attempts. It is closed when it is settled, or when its last waiter leaves. A caller that arrives after an
invalidation waits for a new request instead of joining the one in flight.

Nearly every ID has one waiter and is settled by its first request. While such an ID waits, the queue knows it by its
waiter, and in flight by its batch; so whole batches are added, taken and settled in a few steps. An ID has a
`PendingId` only once more happens to it: it is shared, retried, bisected, or left in flight.
"""

from asyncio import Event
from collections import deque
from collections.abc import Callable, Collection, Iterable

from rongcloud_groups._dispatch.lanes import Batch, Lane, PendingId, Waiter
from rongcloud_groups._dispatch.waiters import are_get_waiters, settle_gets
from rongcloud_groups.errors import RongCloudError
from rongcloud_groups.lookup import Outcome
from rongcloud_groups.models import GroupProfile

BULK_EVERY = 10
"""Every tenth batch is the bulk lane's, however much the interactive lane holds."""


class PendingQueue:
    """The open IDs, and which of them go into the next request.

    Args:
        limit: the most IDs in a batch.

    Attributes:
        changed: set when an ID comes to wait for a request.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ids: dict[str, Waiter | Batch | PendingId] = {}
        self._interactive, self._bulk = Lane(self._place), Lane(self._place)
        self._contested = 0
        self.changed = Event()
        self.found = self.missing = self.failed = 0

    def __len__(self) -> int:
        """How many IDs wait for a request now."""
        return len(self._interactive) + len(self._bulk)

    def __bool__(self) -> bool:
        return bool(self._interactive or self._bulk)

    def starts_request(self, group_id: str) -> bool:
        """Whether adding a waiter for this ID would cause a new request."""
        known = self._ids.get(group_id)
        return known is None or (isinstance(known, PendingId) and known.stale and not known.next_waiters)

    @property
    def open(self) -> int:
        return len(self._ids)

    def add(self, group_id: str, waiter: Waiter) -> None:
        """Let ``waiter`` wait for an ID; an open one is requested again only if the request in flight is stale."""
        self.changed.set()
        if group_id not in self._ids:
            self._ids[group_id] = waiter
            (self._bulk if waiter.bulk else self._interactive).group_ids.append(group_id)
            return
        entry = self._entry(group_id)
        if isinstance(entry.place, Batch) and not entry.wanted:
            entry.place.wanted += 1
        if entry.bulk and not waiter.bulk:
            self._make_interactive(entry)
        (entry.next_waiters if entry.stale else entry.waiters)[waiter] = None

    def add_all(self, group_ids: Collection[str], waiter: Waiter) -> None:
        """Let ``waiter`` wait for several IDs, each given once."""
        self.changed.set()
        if self._ids.keys().isdisjoint(group_ids):
            for group_id in group_ids:
                self._ids[group_id] = waiter
            self._lane(bulk=waiter.bulk).group_ids.extend(group_ids)
            return
        for group_id in group_ids:
            self.add(group_id, waiter)

    def leave(self, waiter: Waiter, group_ids: Iterable[str]) -> None:
        """``waiter`` no longer waits for these IDs; those without a waiter are dropped."""
        for group_id in group_ids:
            known = self._ids.get(group_id)
            if known is waiter:
                del self._ids[group_id]
                self._lane(bulk=waiter.bulk).left()
            elif known is not None:
                entry = self._entry(group_id)
                for joined in (entry.waiters, entry.next_waiters):
                    if waiter in joined:
                        del joined[waiter]
                        if not entry.wanted:
                            self._drop(entry)

    def mark_stale(self, group_ids: Iterable[str] | None = None) -> None:
        """No new waiter joins the requests in flight for these IDs, or for all."""
        for group_id in list(self._ids) if group_ids is None else group_ids:
            if self.in_flight(group_id):
                self._entry(group_id).stale = True

    def take(self, cancel: Callable[[Batch], object]) -> Batch | None:
        """The next batch, out of the lanes: interactive first, filled with bulk; None where nothing waits."""
        first, second = self._interactive, self._bulk
        if first and second:
            self._contested += 1
            if self._contested % BULK_EVERY == 0:
                first, second = second, first
        elif second:
            first, second = second, first
        if first.isolated:
            group_ids = [entry.group_id for entry in first.isolated.popleft()]
        else:
            group_ids = first.take(self._limit)
            if len(group_ids) < self._limit:
                group_ids += second.take(self._limit - len(group_ids))
        return self._batch(group_ids, cancel) if group_ids else None

    def _batch(self, group_ids: list[str], cancel: Callable[[Batch], object]) -> Batch:
        waiters: list[Waiter | PendingId] = list(map(self._ids.__getitem__, group_ids))  # type: ignore[arg-type]  # those that wait are in no batch
        batch = Batch(group_ids, waiters, cancel, len(group_ids))
        self._ids.update(dict.fromkeys(group_ids, batch))
        if PendingId in set(map(type, waiters)):
            for waiter in waiters:
                if isinstance(waiter, PendingId):
                    waiter.place = batch
                    self._ids[waiter.group_id] = waiter
        return batch

    def settle_batch(self, batch: Batch, found: dict[str, GroupProfile]) -> None:
        """A batch has its response: of its IDs, those that are not ``found`` are missing. The dict is the queue's."""
        if not batch.wanted:
            return
        batch.wanted = 0
        group_ids, waiters = batch.group_ids, batch.waiters
        settled: dict[Waiter, dict[str, Outcome]] = {}
        waiter = waiters[0]
        if are_get_waiters(waiters):
            self._close_all(group_ids, found)
            settle_gets(waiters, map(found.get, group_ids), batch.request_id)
        elif not isinstance(waiter, PendingId) and waiters.count(waiter) == len(waiters):
            self._close_all(group_ids, found)
            settled[waiter] = dict.fromkeys(group_ids) | found if len(found) < len(group_ids) else {**found}
        else:
            for group_id, waiter in zip(group_ids, waiters, strict=True):
                profile = found.get(group_id)
                if isinstance(waiter, PendingId):
                    self._close(waiter, profile, settled)
                else:
                    del self._ids[group_id]
                    self._count(profile)
                    settled.setdefault(waiter, {})[group_id] = profile
        for waiter, outcomes in settled.items():
            waiter.settle(outcomes, batch.request_id)

    def settle(self, outcomes: Iterable[tuple[PendingId, Outcome]], request_id: str | None = None) -> None:
        """These entries have their outcome and are closed; the request served them, if one is given."""
        settled: dict[Waiter, dict[str, Outcome]] = {}
        for entry, outcome in outcomes:
            self._close(entry, outcome, settled)
        for waiter, those in settled.items():
            waiter.settle(those, request_id)

    def _close(self, entry: PendingId, outcome: Outcome, settled: dict[Waiter, dict[str, Outcome]]) -> None:
        group_id = entry.group_id
        if self._ids.get(group_id) is not entry:
            return
        self._forget(entry)
        self._count(outcome)
        for waiter in entry.waiters:
            settled.setdefault(waiter, {})[group_id] = outcome
        for waiter in entry.next_waiters:
            self.add(group_id, waiter)

    def _close_all(self, group_ids: list[str], found: dict[str, GroupProfile]) -> None:
        deque(map(self._ids.pop, group_ids), maxlen=0)
        self.found += len(found)
        self.missing += len(group_ids) - len(found)

    def _count(self, outcome: Outcome) -> None:
        if outcome is None:
            self.missing += 1
        elif isinstance(outcome, RongCloudError):
            self.failed += 1
        else:
            self.found += 1

    def entries(self, batch: Batch) -> list[PendingId]:
        """The IDs of a batch in flight that are still open."""
        entries = [self._entry(group_id) for group_id in batch.group_ids if group_id in self._ids]
        return [entry for entry in entries if entry.place is batch]

    def withdraw(self, entries: Iterable[PendingId]) -> list[PendingId]:
        """Take entries out of flight, to be requeued later; those without a waiter are dropped."""
        resting = []
        for entry in entries:
            entry.place = None
            if self._ids.get(entry.group_id) is not entry:
                continue
            entry.waiters |= entry.next_waiters
            entry.next_waiters = {}
            entry.stale = False
            if entry.waiters:
                resting.append(entry)
            else:
                del self._ids[entry.group_id]
        return resting

    def requeue(self, entries: Iterable[PendingId]) -> None:
        """Let resting entries wait again, at the front of their lane and in their old order."""
        self.changed.set()
        for entry in reversed([entry for entry in entries if self._ids.get(entry.group_id) is entry]):
            entry.place = lane = self._lane(bulk=entry.bulk)
            lane.group_ids.appendleft(entry.group_id)

    def requeue_halves(self, entries: list[PendingId]) -> None:
        """Let resting entries wait again as two halves, each sent alone and before the rest of its lane."""
        self.changed.set()
        entries = [entry for entry in entries if self._ids.get(entry.group_id) is entry]
        middle = (len(entries) + 1) // 2
        for half in (entries[middle:], entries[:middle]):
            if not half:
                continue
            bulk = all(entry.bulk for entry in half)
            for entry in half:
                entry.bulk = bulk
                entry.place = half
            self._lane(bulk=bulk).isolated.appendleft(half)

    def waiting(self) -> list[PendingId]:
        """The entries that wait for a request."""
        return [self._entry(group_id) for group_id in list(self._ids) if self.is_queued(group_id)]

    def is_open(self, group_id: str) -> bool:
        return group_id in self._ids

    def in_flight(self, group_id: str) -> bool:
        """Whether a request for an ID is in flight."""
        return isinstance(self._place(group_id), Batch)

    def is_queued(self, group_id: str) -> bool:
        """Whether an ID waits for a request now; False where it is in flight, rests, or is not open."""
        return isinstance(self._place(group_id), Lane | list)

    def abort(self, error: RongCloudError) -> None:
        """Close every ID: each waiter gets the error."""
        waiters: dict[Waiter, None] = {}
        for known in dict.fromkeys(self._ids.values()):
            if isinstance(known, PendingId):
                waiters |= known.waiters | known.next_waiters
                known.place = None  # a batch refers to its entries: this leaves no cycle to the garbage collector
            elif isinstance(known, Batch):
                waiters |= {each: None for each in known.waiters if not isinstance(each, PendingId)}
                known.wanted = 0
            else:
                waiters[known] = None
        self._ids.clear()
        self._interactive, self._bulk = Lane(self._place), Lane(self._place)
        for waiter in waiters:
            waiter.abort(error)

    def __repr__(self) -> str:
        return (
            f"<PendingQueue: {self.open} IDs open, {len(self._interactive)} waiting in the interactive lane, "
            f"{len(self._bulk)} in the bulk lane>"
        )

    def _lane(self, *, bulk: bool) -> Lane:
        return self._bulk if bulk else self._interactive

    def _place(self, group_id: str) -> "Lane | list[PendingId] | Batch | None":
        """Where an ID is; None where it rests or is not open."""
        known = self._ids.get(group_id)
        if known is None or isinstance(known, Batch):
            return known
        return known.place if isinstance(known, PendingId) else self._lane(bulk=known.bulk)

    def _entry(self, group_id: str) -> PendingId:
        """The entry of an open ID, which has one from now on."""
        known = self._ids[group_id]
        if isinstance(known, PendingId):
            return known
        if isinstance(known, Batch):
            index = known.group_ids.index(group_id)
            waiter = known.waiters[index]
            assert not isinstance(waiter, PendingId)  # noqa: S101  an invariant
            entry = known.waiters[index] = PendingId(group_id, waiter.bulk, {waiter: None}, place=known)
        else:
            entry = PendingId(group_id, known.bulk, {known: None}, place=self._lane(bulk=known.bulk))
        self._ids[group_id] = entry
        return entry

    def _make_interactive(self, entry: PendingId) -> None:
        place = entry.place
        entry.bulk = False
        if isinstance(place, list):
            self._bulk.isolated.remove(place)
            for each in place:
                each.bulk = False
            self._interactive.isolated.append(place)
        elif place is self._bulk:
            entry.place = self._interactive
            self._interactive.group_ids.append(entry.group_id)
            self._bulk.left()

    def _drop(self, entry: PendingId) -> None:
        batch = entry.place
        if not isinstance(batch, Batch):
            self._forget(entry)
            return
        batch.wanted -= 1
        if not batch.wanted:
            for each in self.entries(batch):
                self._forget(each)
            batch.cancel(batch)

    def _forget(self, entry: PendingId) -> None:
        """Close it, and take it out of its batch or lane."""
        place, entry.place = entry.place, None  # a batch refers to its entries: this leaves no cycle
        del self._ids[entry.group_id]
        if isinstance(place, Lane):
            place.left()
        elif isinstance(place, list):
            place.remove(entry)
            if not place:
                self._lane(bulk=entry.bulk).isolated.remove(place)
