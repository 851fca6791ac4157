import asyncio
from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.virtual_time import settle, virtual_time

from rongcloud_groups import GroupProfile, RongCloudError
from rongcloud_groups._dispatch.pending import BULK_EVERY, Batch, PendingId, PendingQueue
from rongcloud_groups._dispatch.stream import Stream
from rongcloud_groups.lookup import Outcome

LIMIT = 4
GROUP_IDS = [f"g{number}" for number in range(7)]


class Recorder:
    """A waiter that holds the queue to its word: each ID it waits for is settled once, or aborted."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.late: set[str] = set()
        self.outcomes: list[tuple[str, Outcome]] = []
        self.unflushed = 0
        self.errors: list[RongCloudError] = []

    def settle(self, group_id: str, outcome: Outcome) -> None:
        self.open.remove(group_id)
        self.outcomes.append((group_id, outcome))
        self.unflushed += 1

    def flush(self) -> None:
        self.unflushed = 0

    def abort(self, error: RongCloudError) -> None:
        assert self.open
        self.open.clear()
        self.errors.append(error)


class InFlight:
    """A request whose batch may be cancelled."""

    def __init__(self, pending: PendingQueue) -> None:
        batch = pending.take(self.cancel)
        assert batch is not None
        self.batch = batch
        self.cancelled = 0

    def cancel(self, batch: Batch) -> None:
        assert batch is self.batch
        self.cancelled += 1


def uncancelled(batch: Batch) -> None:
    raise AssertionError(f"{batch} has waiters")


class Queue(RuleBasedStateMachine):
    """`PendingQueue` beside a model that knows for each open ID where it is, who wants it, and in which lane."""

    def __init__(self) -> None:
        super().__init__()
        self.pending = PendingQueue(LIMIT)
        self.waiters = [Recorder() for _ in range(3)]
        self.waits: set[str] = set()
        self.halves: list[list[str]] = []
        self.flying: dict[str, PendingId] = {}
        self.resting: dict[str, PendingId] = {}
        self.bulk: set[str] = set()
        self.invalidated: set[str] = set()
        self.flights: list[InFlight] = []
        self.groups: list[list[PendingId]] = []
        self.stale: list[InFlight] = []
        self.contested = 0
        self.found = self.missing = self.failed = 0

    def open_ids(self) -> set[str]:
        return self.waits | self.flying.keys() | self.resting.keys()

    def wanted(self, group_id: str) -> bool:
        return any(group_id in waiter.open for waiter in self.waiters)

    def forget(self, group_id: str) -> None:
        self.waits.discard(group_id)
        self.bulk.discard(group_id)
        self.none_is_late(group_id)
        self.flying.pop(group_id, None)
        self.resting.pop(group_id, None)
        self.halves = [kept for half in self.halves if (kept := [each for each in half if each != group_id])]

    def none_is_late(self, group_id: str) -> None:
        self.invalidated.discard(group_id)
        for waiter in self.waiters:
            waiter.late.discard(group_id)

    @rule(group_ids=st.sets(st.sampled_from(GROUP_IDS), min_size=1), waiter=st.integers(0, 2), bulk=st.booleans())
    def add(self, group_ids: set[str], waiter: int, *, bulk: bool) -> None:
        for group_id in sorted(group_ids - self.waiters[waiter].open):
            self.waiters[waiter].open.add(group_id)
            if group_id in self.invalidated:
                self.waiters[waiter].late.add(group_id)
            self.pending.add(group_id, self.waiters[waiter], bulk=bulk)
            if group_id not in self.open_ids():
                self.waits.add(group_id)
                if bulk:
                    self.bulk.add(group_id)
            elif not bulk:
                together = next((half for half in self.halves if group_id in half), [group_id])
                self.bulk.difference_update(together)

    @rule(group_ids=st.sets(st.sampled_from(GROUP_IDS), min_size=1, max_size=3), waiter=st.integers(0, 2))
    def leave(self, group_ids: set[str], waiter: int) -> None:
        self.waiters[waiter].open -= group_ids
        self.waiters[waiter].late -= group_ids
        self.pending.leave(self.waiters[waiter], group_ids)
        for group_id in (self.waits | self.resting.keys()) & group_ids:
            if not self.wanted(group_id):
                self.forget(group_id)
        for flight in list(self.flights):
            unwanted = not any(self.wanted(group_id) for group_id in flight.batch.group_ids)
            assert flight.cancelled == unwanted
            if unwanted:
                self.flights.remove(flight)
                self.stale.append(flight)
                for group_id in flight.batch.group_ids:
                    self.forget(group_id)

    @rule(group_ids=st.none() | st.sets(st.sampled_from(GROUP_IDS), min_size=1))
    def mark_stale(self, group_ids: set[str] | None) -> None:
        self.pending.mark_stale(group_ids)
        self.invalidated |= self.flying.keys() & (GROUP_IDS if group_ids is None else group_ids)

    @rule()
    def take(self) -> None:
        lanes = [self.waits - self.bulk, self.waits & self.bulk]
        if all(lanes):
            self.contested += 1
            if self.contested % BULK_EVERY == 0:
                lanes.reverse()
        if not self.waits:
            assert self.pending.take(uncancelled) is None
            return
        flight = InFlight(self.pending)
        batch = flight.batch
        assert set(batch.group_ids) <= self.waits
        assert len(batch) == len(set(batch.group_ids)) <= LIMIT
        first = lanes[0] or lanes[1]
        sealed = {group_id for half in self.halves for group_id in half}
        if first & sealed:
            assert batch.group_ids in [half for half in self.halves if set(half) <= first]
            self.halves.remove(batch.group_ids)
        else:
            assert not sealed & set(batch.group_ids)
            assert len(batch) == min(LIMIT, len(self.waits - sealed))
            of_the_first = min(LIMIT, len(first))
            assert set(batch.group_ids[:of_the_first]) <= first
        self.waits -= set(batch.group_ids)
        self.flying |= {entry.group_id: entry for entry in batch.entries}
        self.flights.append(flight)

    @precondition(lambda self: self.flights)
    @rule(
        data=st.data(),
        outcome=st.sampled_from([None, GroupProfile(group_id="any"), RongCloudError("no")]),
        after=st.sampled_from(["put back", "put back halves", "rest"]),
    )
    def answer(self, data: st.DataObject, outcome: Outcome, after: str) -> None:
        flight = self.flights.pop(data.draw(st.integers(0, len(self.flights) - 1)))
        readable = data.draw(st.integers(0, len(flight.batch)))
        self.settle(flight.batch.entries[:readable], outcome)
        rest = flight.batch.entries[readable:]
        for entry in rest:
            del self.flying[entry.group_id]
            self.none_is_late(entry.group_id)
            if self.wanted(entry.group_id):
                self.resting[entry.group_id] = entry
            else:
                self.forget(entry.group_id)
        group = self.pending.rest(rest)
        assert group == [entry for entry in rest if entry.group_id in self.resting]
        if after == "rest":
            self.groups.append(group)
        else:
            self.put(group, halves=after == "put back halves")

    def settle(self, entries: list[PendingId], outcome: Outcome) -> None:
        if outcome is None:
            self.missing += len(entries)
        elif isinstance(outcome, RongCloudError):
            self.failed += len(entries)
        else:
            self.found += len(entries)
        self.pending.settle((entry, outcome) for entry in entries)
        for group_id in [entry.group_id for entry in entries]:
            late, bulk = [waiter for waiter in self.waiters if group_id in waiter.late], group_id in self.bulk
            assert [waiter for waiter in self.waiters if group_id in waiter.open] == late
            self.forget(group_id)
            if late:
                self.waits.add(group_id)
                self.bulk |= {group_id} if bulk else set()

    @precondition(lambda self: self.groups)
    @rule(halves=st.booleans())
    def requeue(self, *, halves: bool) -> None:
        self.put(self.groups.pop(0), halves=halves)

    def put(self, group: list[PendingId], *, halves: bool) -> None:
        back = [entry.group_id for entry in group if self.resting.get(entry.group_id) is entry]
        if halves:
            self.pending.requeue_halves(group)
            middle = (len(back) + 1) // 2
            for half in (back[:middle], back[middle:]):
                if half:
                    self.halves.append(half)
                if any(group_id not in self.bulk for group_id in half):
                    self.bulk.difference_update(half)
        else:
            self.pending.requeue(group)
        for group_id in back:
            del self.resting[group_id]
            self.waits.add(group_id)

    @precondition(lambda self: self.stale)
    @rule(after=st.sampled_from(["settle", "put back", "put back halves"]))
    def answer_too_late(self, after: str) -> None:
        entries = self.stale.pop(0).batch.entries
        if after == "settle":
            self.pending.settle((entry, None) for entry in entries)
        elif after == "put back":
            self.pending.requeue(self.pending.rest(entries))
        else:
            self.pending.requeue_halves(self.pending.rest(entries))

    @precondition(lambda self: self.halves and len(self.waits) > LIMIT)
    @rule()
    def settle_what_waits(self) -> None:
        self.settle(list(self.pending.waiting()), RongCloudError("no host"))

    @precondition(lambda self: len(self.flights) > 1 and self.resting)
    @rule()
    def abort(self) -> None:
        error = RongCloudError("the end")
        waiting = [waiter for waiter in self.waiters if waiter.open]
        errors_before = [len(waiter.errors) for waiter in waiting]
        self.pending.abort(error)
        assert [len(waiter.errors) for waiter in waiting] == [count + 1 for count in errors_before]
        for group_id in self.open_ids():
            self.forget(group_id)
        self.stale += self.flights
        self.flights.clear()

    @invariant()
    def each_open_id_is_in_exactly_one_place(self) -> None:
        waiting = [entry.group_id for entry in self.pending.waiting()]
        assert sorted(waiting) == sorted(self.waits)
        assert len(self.pending) == len(self.waits)
        assert self.pending.open == len(self.open_ids())
        for group_id in GROUP_IDS:
            late = any(group_id in waiter.late for waiter in self.waiters)
            joins = group_id in self.open_ids() and (late or group_id not in self.invalidated)
            assert self.pending.begins(group_id) == (not joins)
            assert self.pending.waits(group_id) == (group_id in self.waits)

    @invariant()
    def waiters_wait_for_open_ids_alone(self) -> None:
        for waiter in self.waiters:
            assert waiter.open <= self.open_ids()
            assert waiter.unflushed == 0

    @invariant()
    def a_batch_is_abandoned_at_most_once(self) -> None:
        assert all(flight.cancelled == 0 for flight in self.flights)
        assert all(flight.cancelled <= 1 for flight in self.stale)

    @invariant()
    def the_counts_are_exact(self) -> None:
        assert (self.pending.found, self.pending.missing, self.pending.failed) == (
            self.found,
            self.missing,
            self.failed,
        )

    def teardown(self) -> None:
        while self.groups:
            self.put(self.groups.pop(), halves=False)
        while self.flights or self.waits:
            for flight in self.flights:
                self.settle(flight.batch.entries, None)
            self.flights.clear()
            self.take()
        assert not any(waiter.open for waiter in self.waiters)
        assert self.pending.open == len(self.pending) == 0
        assert self.pending.take(uncancelled) is None


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def queue(
    *, interactive: Iterable[str] = (), bulk: Iterable[str] = (), limit: int = LIMIT
) -> tuple[PendingQueue, Recorder]:
    pending, waiter = PendingQueue(limit), Recorder()
    for group_ids, is_bulk in ((interactive, False), (bulk, True)):
        for group_id in group_ids:
            waiter.open.add(group_id)
            pending.add(group_id, waiter, bulk=is_bulk)
    return pending, waiter


def taken(pending: PendingQueue) -> Batch:
    batch = pending.take(uncancelled)
    assert batch is not None
    return batch


def all_taken(pending: PendingQueue) -> list[str]:
    batches = []
    while (batch := pending.take(uncancelled)) is not None:
        batches.append("".join(batch.group_ids))
    return batches


def test_ids_leave_in_the_order_in_which_they_came_and_bulk_fills_the_batch() -> None:
    pending, _ = queue(interactive="abcdef", bulk="uvwxyz")
    assert all_taken(pending) == ["abcd", "efuv", "wxyz"]


def test_every_tenth_batch_is_the_bulk_lanes_while_both_lanes_hold_something() -> None:
    interactive, bulk = [f"i{number}" for number in range(40)], [f"b{number}" for number in range(40)]
    pending, _ = queue(interactive=interactive, bulk=bulk, limit=1)
    lanes = "".join(taken(pending).group_ids[0][0] for _ in range(80))
    assert lanes == "iiiiiiiiib" * 4 + "iiii" + "b" * 36


def test_what_is_requeued_goes_first_and_in_its_old_order() -> None:
    pending, _ = queue(interactive="abcdef")
    pending.requeue(pending.rest(taken(pending).entries))
    assert all_taken(pending) == ["abcd", "ef"]


def test_halves_go_by_themselves_and_before_the_rest_of_their_lane() -> None:
    pending, _ = queue(interactive="abcdef", bulk="z")
    pending.requeue_halves(pending.rest(taken(pending).entries))
    assert all_taken(pending) == ["ab", "cd", "efz"]


def test_halving_again_ends_in_single_ids_before_the_other_half() -> None:
    pending, _ = queue(interactive="abcd")
    for _ in range(2):
        pending.requeue_halves(pending.rest(taken(pending).entries))
    assert all_taken(pending) == ["a", "b", "cd"]


def test_a_half_with_an_interactive_id_is_interactive() -> None:
    pending, waiter = queue(bulk="abcd")
    batch = taken(pending)
    pending.add("d", Recorder(), bulk=False)
    waiter.open.add("x")
    pending.add("x", waiter, bulk=False)
    pending.requeue_halves(pending.rest(batch.entries))
    assert all_taken(pending) == ["cd", "x", "ab"]


def test_asking_interactively_for_an_id_of_a_bulk_half_brings_the_half_forward() -> None:
    pending, _ = queue(bulk="abcd")
    pending.requeue_halves(pending.rest(taken(pending).entries))
    pending.add("d", Recorder(), bulk=False)
    assert all_taken(pending) == ["cd", "ab"]


def test_asking_interactively_for_a_bulk_id_brings_it_forward() -> None:
    pending, _ = queue(interactive="ab", bulk="uvwxyz")
    pending.add("y", Recorder(), bulk=False)
    assert all_taken(pending) == ["abyu", "vwxz"]


def test_an_id_upgraded_in_flight_comes_back_to_the_interactive_lane() -> None:
    pending, _ = queue(bulk="abcdef")
    batch = taken(pending)
    pending.add("c", Recorder(), bulk=False)
    pending.requeue(pending.rest(batch.entries))
    assert taken(pending).group_ids == ["c", "a", "b", "d"]


def test_an_id_of_two_waiters_is_requested_once_and_settles_both() -> None:
    pending, first = queue(interactive="a")
    second = Recorder()
    second.open.add("a")
    pending.add("a", second, bulk=True)
    batch = taken(pending)
    assert batch.group_ids == ["a"]
    pending.settle([(batch.entries[0], None)])
    assert first.outcomes == second.outcomes == [("a", None)]


def test_a_batch_is_abandoned_when_the_last_of_its_ids_is_left_and_may_be_requested_again() -> None:
    pending, waiter = queue(interactive="ab")
    flight = InFlight(pending)
    pending.leave(waiter, ["a"])
    assert flight.cancelled == 0
    pending.leave(waiter, ["b"])
    assert flight.cancelled == 1
    assert pending.open == 0
    pending.add("a", Recorder(), bulk=False)
    assert taken(pending).group_ids == ["a"]


def test_joining_an_id_in_flight_that_was_left_keeps_its_batch() -> None:
    pending, waiter = queue(interactive="ab")
    flight = InFlight(pending)
    pending.leave(waiter, ["a"])
    other = Recorder()
    pending.add("a", other, bulk=False)
    pending.leave(waiter, ["b"])
    assert flight.cancelled == 0
    assert len(pending) == 0
    pending.leave(other, ["a"])
    assert flight.cancelled == 1


def test_the_late_failure_of_an_abandoned_batch_leaves_a_newer_request_for_its_id_alone() -> None:
    pending, first = queue(interactive="a")
    batch = InFlight(pending).batch
    pending.leave(first, ["a"])
    second = Recorder()
    second.open.add("a")
    pending.add("a", second, bulk=False)
    pending.requeue(pending.rest(batch.entries))
    again = taken(pending)
    pending.settle((entry, None) for entry in again.entries)
    assert second.outcomes == [("a", None)]


def stale_with_a_late_waiter(pending: PendingQueue) -> tuple[Batch, "Recorder"]:
    """A request in flight of the ID ``a``, and a waiter that came after an invalidation."""
    batch = taken(pending)
    pending.mark_stale(["a"])
    late = Recorder()
    late.open.add("a")
    pending.add("a", late, bulk=False)
    return batch, late


def test_a_waiter_that_arrives_after_an_invalidation_waits_for_the_next_request() -> None:
    pending, early = queue(interactive="a")
    batch, late = stale_with_a_late_waiter(pending)
    pending.settle([(batch.entries[0], None)])
    assert (early.outcomes, late.outcomes) == ([("a", None)], [])
    assert taken(pending).group_ids == ["a"]


def test_an_id_that_waits_is_not_stale() -> None:
    pending, _ = queue(interactive="a")
    pending.mark_stale()
    assert not pending.begins("a")


def test_a_stale_request_that_is_made_again_serves_every_waiter() -> None:
    pending, early = queue(interactive="a")
    batch, late = stale_with_a_late_waiter(pending)
    pending.requeue(pending.rest(batch.entries))
    pending.settle([(taken(pending).entries[0], None)])
    assert early.outcomes == late.outcomes == [("a", None)]
    assert pending.open == 0


@virtual_time
async def test_a_stream_that_is_left_leaves_nothing_in_the_queue() -> None:
    pending = PendingQueue(LIMIT)
    source = (f"g{number}" for number in range(100))

    start = asyncio.get_running_loop().create_task
    async with Stream(source, pending=pending, wake=lambda: None, start=start, window=8, bulk=True) as parts:
        await settle()
        assert len(pending) == 8
        pending.settle((entry, None) for entry in taken(pending).entries)
        assert len((await anext(parts)).missing) == LIMIT
    assert pending.open == 0
