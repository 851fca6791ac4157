import asyncio
from collections.abc import Collection, Iterable
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.virtual_time import settle, virtual_time

from rongcloud_groups import GroupProfile, RongCloudError
from rongcloud_groups._dispatch.lanes import Batch, PendingId, Waiter
from rongcloud_groups._dispatch.lifetime import Lifetime
from rongcloud_groups._dispatch.pending import BULK_EVERY, PendingQueue
from rongcloud_groups._dispatch.stream import Stream
from rongcloud_groups.lookup import Outcome

LIMIT = 4
GROUP_IDS = [f"g{number}" for number in range(7)]


class Recorder:
    """A waiter that holds the queue to its word: each ID it waits for is settled once, or aborted."""

    def __init__(self, *, bulk: bool = False) -> None:
        self.bulk = bulk
        self.open: set[str] = set()
        self.late: set[str] = set()
        self.outcomes: list[tuple[str, Outcome]] = []
        self.errors: list[RongCloudError] = []

    def settle(self, outcomes: dict[str, Outcome], request_id: str | None = None) -> None:
        del request_id
        assert outcomes
        assert outcomes.keys() <= self.open
        self.open.difference_update(outcomes)
        self.outcomes += outcomes.items()

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


class Entered(PendingQueue):
    """A queue in which each ID has an entry, so that nothing is done for several IDs in one step."""

    def add_all(self, group_ids: Collection[str], waiter: Waiter) -> None:
        for group_id in group_ids:
            self.add(group_id, waiter)

    def add(self, group_id: str, waiter: Waiter) -> None:
        super().add(group_id, waiter)
        assert self.waiting() is not None  # it makes an entry of each

    def settle_batch(self, batch: Batch, found: dict[str, GroupProfile]) -> None:
        self.settle((entry, found.get(entry.group_id)) for entry in self.entries(batch))


class Queue(RuleBasedStateMachine):
    """`PendingQueue` beside a model that knows for each open ID where it is, who wants it, and in which lane.

    Beside it an `Entered` queue takes the same steps, with waiters of its own: they end in the same outcomes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pending, self.entered = PendingQueue(LIMIT), Entered(LIMIT)
        self.waiters = [Recorder(bulk=number > 1) for number in range(4)]
        self.twins = [Recorder(bulk=waiter.bulk) for waiter in self.waiters]
        self.waits: set[str] = set()
        self.halves: list[list[str]] = []
        self.flying: set[str] = set()
        self.resting: dict[str, PendingId] = {}
        self.bulk: set[str] = set()
        self.invalidated: set[str] = set()
        self.flights: list[tuple[InFlight, InFlight]] = []
        self.groups: list[tuple[list[PendingId], list[PendingId]]] = []
        self.stale: list[tuple[InFlight, InFlight]] = []
        self.contested = 0
        self.found = self.missing = self.failed = 0

    def open_ids(self) -> set[str]:
        return self.waits | self.flying | self.resting.keys()

    def wanted(self, group_id: str) -> bool:
        return any(group_id in waiter.open for waiter in self.waiters)

    def forget(self, group_id: str) -> None:
        self.waits.discard(group_id)
        self.bulk.discard(group_id)
        self.none_is_late(group_id)
        self.flying.discard(group_id)
        self.resting.pop(group_id, None)
        self.halves = [kept for half in self.halves if (kept := [each for each in half if each != group_id])]

    def none_is_late(self, group_id: str) -> None:
        self.invalidated.discard(group_id)
        for waiter in self.waiters:
            waiter.late.discard(group_id)

    @rule(group_ids=st.sets(st.sampled_from(GROUP_IDS), min_size=1), waiter=st.integers(0, 3), together=st.booleans())
    def add(self, group_ids: set[str], waiter: int, *, together: bool) -> None:
        recorder, twin = self.waiters[waiter], self.twins[waiter]
        new = sorted(group_ids - recorder.open)
        recorder.open.update(new)
        twin.open.update(new)
        for group_id in new:
            if group_id in self.invalidated:
                recorder.late.add(group_id)
            if not together:
                self.pending.add(group_id, recorder)
        if together:
            self.pending.add_all(new, recorder)
        self.entered.add_all(new, twin)
        for group_id in new:
            if group_id not in self.open_ids():
                self.waits.add(group_id)
                if recorder.bulk:
                    self.bulk.add(group_id)
            elif not recorder.bulk:
                half = next((half for half in self.halves if group_id in half), [group_id])
                self.bulk.difference_update(half)

    @rule(group_ids=st.sets(st.sampled_from(GROUP_IDS), min_size=1, max_size=3), waiter=st.integers(0, 3))
    def leave(self, group_ids: set[str], waiter: int) -> None:
        for queue, recorder in ((self.pending, self.waiters[waiter]), (self.entered, self.twins[waiter])):
            recorder.open -= group_ids
            recorder.late -= group_ids
            queue.leave(recorder, group_ids)
        for group_id in (self.waits | self.resting.keys()) & group_ids:
            if not self.wanted(group_id):
                self.forget(group_id)
        for pair in list(self.flights):
            unwanted = not any(self.wanted(group_id) for group_id in pair[0].batch.group_ids)
            assert pair[0].cancelled == pair[1].cancelled == unwanted
            if unwanted:
                self.flights.remove(pair)
                self.stale.append(pair)
                for group_id in pair[0].batch.group_ids:
                    self.forget(group_id)

    @rule(group_ids=st.none() | st.sets(st.sampled_from(GROUP_IDS), min_size=1))
    def mark_stale(self, group_ids: set[str] | None) -> None:
        self.pending.mark_stale(group_ids)
        self.entered.mark_stale(group_ids)
        self.invalidated |= self.flying & set(GROUP_IDS if group_ids is None else group_ids)

    @rule()
    def take(self) -> None:
        lanes = [self.waits - self.bulk, self.waits & self.bulk]
        if all(lanes):
            self.contested += 1
            if self.contested % BULK_EVERY == 0:
                lanes.reverse()
        if not self.waits:
            assert self.pending.take(uncancelled) is self.entered.take(uncancelled) is None
            return
        pair = InFlight(self.pending), InFlight(self.entered)
        group_ids = pair[0].batch.group_ids
        assert group_ids == pair[1].batch.group_ids
        assert set(group_ids) <= self.waits
        assert len(group_ids) == len(set(group_ids)) <= LIMIT
        first = lanes[0] or lanes[1]
        sealed = {group_id for half in self.halves for group_id in half}
        if first & sealed:
            assert group_ids in [half for half in self.halves if set(half) <= first]
            self.halves.remove(group_ids)
        else:
            assert not sealed & set(group_ids)
            assert len(group_ids) == min(LIMIT, len(self.waits - sealed))
            of_the_first = min(LIMIT, len(first))
            assert set(group_ids[:of_the_first]) <= first
        self.waits -= set(group_ids)
        self.flying |= set(group_ids)
        self.flights.append(pair)

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        pair = self.flights.pop(data.draw(st.integers(0, len(self.flights) - 1)))
        group_ids = pair[0].batch.group_ids
        found = data.draw(st.just(set(group_ids)) | st.sets(st.sampled_from(group_ids)))
        profiles = {each: GroupProfile(group_id=each) for each in group_ids if each in found}
        self.pending.settle_batch(pair[0].batch, profiles)
        self.entered.settle_batch(pair[1].batch, profiles)
        self.found += len(found)
        self.missing += len(group_ids) - len(found)
        self.settled(group_ids)

    @precondition(lambda self: self.flights)
    @rule(
        data=st.data(),
        outcome=st.sampled_from([None, GroupProfile(group_id="any"), RongCloudError("no")]),
        after=st.sampled_from(["put back", "put back halves", "rest"]),
    )
    def answer_in_part(self, data: st.DataObject, outcome: Outcome, after: str) -> None:
        pair = self.flights.pop(data.draw(st.integers(0, len(self.flights) - 1)))
        entries, twins = self.pending.entries(pair[0].batch), self.entered.entries(pair[1].batch)
        readable = data.draw(st.integers(0, len(entries)))
        self.settle(entries[:readable], twins[:readable], outcome)
        for entry in entries[readable:]:
            self.flying.discard(entry.group_id)
            self.none_is_late(entry.group_id)
            if self.wanted(entry.group_id):
                self.resting[entry.group_id] = entry
            else:
                self.forget(entry.group_id)
        group = self.pending.withdraw(entries[readable:])
        assert group == [entry for entry in entries[readable:] if entry.group_id in self.resting]
        both = group, self.entered.withdraw(twins[readable:])
        if after == "rest":
            self.groups.append(both)
        else:
            self.put(both, halves=after == "put back halves")

    def settle(self, entries: list[PendingId], twins: list[PendingId], outcome: Outcome) -> None:
        if outcome is None:
            self.missing += len(entries)
        elif isinstance(outcome, RongCloudError):
            self.failed += len(entries)
        else:
            self.found += len(entries)
        self.pending.settle((entry, outcome) for entry in entries)
        self.entered.settle((entry, outcome) for entry in twins)
        self.settled([entry.group_id for entry in entries])

    def settled(self, group_ids: list[str]) -> None:
        for group_id in group_ids:
            late = [waiter for waiter in self.waiters if group_id in waiter.late]
            assert [waiter for waiter in self.waiters if group_id in waiter.open] == late
            self.forget(group_id)
            if late:
                self.waits.add(group_id)
                if all(waiter.bulk for waiter in late):
                    self.bulk.add(group_id)

    @precondition(lambda self: self.groups)
    @rule(halves=st.booleans())
    def requeue(self, *, halves: bool) -> None:
        self.put(self.groups.pop(0), halves=halves)

    def put(self, groups: tuple[list[PendingId], list[PendingId]], *, halves: bool) -> None:
        back = [entry.group_id for entry in groups[0] if self.resting.get(entry.group_id) is entry]
        for queue, group in zip((self.pending, self.entered), groups, strict=True):
            if halves:
                queue.requeue_halves(group)
            else:
                queue.requeue(group)
        if halves:
            middle = (len(back) + 1) // 2
            for half in (back[:middle], back[middle:]):
                if half:
                    self.halves.append(half)
                if any(group_id not in self.bulk for group_id in half):
                    self.bulk.difference_update(half)
        for group_id in back:
            del self.resting[group_id]
            self.waits.add(group_id)

    @precondition(lambda self: self.stale)
    @rule(after=st.sampled_from(["settle", "settle in part", "put back", "put back halves"]))
    def answer_too_late(self, after: str) -> None:
        for queue, flight in zip((self.pending, self.entered), self.stale.pop(0), strict=True):
            entries = queue.entries(flight.batch)
            assert entries == []
            if after == "settle":
                queue.settle_batch(flight.batch, {})
            elif after == "settle in part":
                queue.settle((entry, None) for entry in flight.batch.waiters if isinstance(entry, PendingId))
            elif after == "put back":
                queue.requeue(queue.withdraw(entries))
            else:
                queue.requeue_halves(queue.withdraw(entries))

    @precondition(lambda self: self.halves and len(self.waits) > LIMIT)
    @rule()
    def settle_what_waits(self) -> None:
        self.settle(self.pending.waiting(), self.entered.waiting(), RongCloudError("no host"))

    @precondition(lambda self: len(self.flights) > 1 and self.resting)
    @rule()
    def abort(self) -> None:
        error = RongCloudError("the end")
        for queue, waiters in ((self.pending, self.waiters), (self.entered, self.twins)):
            waiting = [waiter for waiter in waiters if waiter.open]
            errors_before = [len(waiter.errors) for waiter in waiting]
            queue.abort(error)
            assert [len(waiter.errors) for waiter in waiting] == [count + 1 for count in errors_before]
        for group_id in self.open_ids():
            self.forget(group_id)
        self.stale += self.flights
        self.flights.clear()

    @invariant()
    def each_open_id_is_in_exactly_one_place(self) -> None:
        for queue in (self.pending, self.entered):
            assert len(queue) == len(self.waits)
            assert bool(queue) == bool(self.waits)
            assert queue.open == len(self.open_ids())
            for group_id in GROUP_IDS:
                late = any(group_id in waiter.late for waiter in self.waiters)
                joins = group_id in self.open_ids() and (late or group_id not in self.invalidated)
                assert queue.starts_request(group_id) == (not joins)
                assert queue.is_queued(group_id) == (group_id in self.waits)
                assert queue.in_flight(group_id) == (group_id in self.flying)
        assert sorted(entry.group_id for entry in self.entered.waiting()) == sorted(self.waits)

    @invariant()
    def waiters_wait_for_open_ids_alone(self) -> None:
        for waiter in self.waiters:
            assert waiter.open <= self.open_ids()

    @invariant()
    def with_and_without_entries_the_outcomes_are_the_same(self) -> None:
        for waiter, twin in zip(self.waiters, self.twins, strict=True):
            assert waiter.outcomes == twin.outcomes
            assert waiter.errors == twin.errors

    @invariant()
    def a_batch_is_abandoned_at_most_once(self) -> None:
        assert all(flight.cancelled == 0 for pair in self.flights for flight in pair)
        assert all(flight.cancelled <= 1 for pair in self.stale for flight in pair)

    @invariant()
    def the_counts_are_exact(self) -> None:
        for queue in (self.pending, self.entered):
            assert (queue.found, queue.missing, queue.failed) == (self.found, self.missing, self.failed)

    def teardown(self) -> None:
        while self.groups:
            self.put(self.groups.pop(), halves=False)
        while self.flights or self.waits:
            for fast, slow in self.flights:
                self.settle(self.pending.entries(fast.batch), self.entered.entries(slow.batch), None)
            self.flights.clear()
            self.take()
        assert not any(waiter.open for waiter in self.waiters)
        assert self.pending.open == len(self.pending) == 0
        assert self.pending.take(uncancelled) is None


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=60)


def queue(
    *, interactive: Iterable[str] = (), bulk: Iterable[str] = (), limit: int = LIMIT
) -> tuple[PendingQueue, Recorder]:
    pending, waiter = PendingQueue(limit), Recorder()
    for group_ids, each in ((interactive, waiter), (bulk, Recorder(bulk=True))):
        each.open.update(group_ids)
        pending.add_all(list(group_ids), each)
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


def test_requeued_ids_go_first_and_in_their_old_order() -> None:
    pending, _ = queue(interactive="abcdef")
    pending.requeue(pending.withdraw(pending.entries(taken(pending))))
    assert all_taken(pending) == ["abcd", "ef"]


def test_halves_go_by_themselves_and_before_the_rest_of_their_lane() -> None:
    pending, _ = queue(interactive="abcdef", bulk="z")
    pending.requeue_halves(pending.withdraw(pending.entries(taken(pending))))
    assert all_taken(pending) == ["ab", "cd", "efz"]


def test_halving_again_ends_in_single_ids_before_the_other_half() -> None:
    pending, _ = queue(interactive="abcd")
    for _ in range(2):
        pending.requeue_halves(pending.withdraw(pending.entries(taken(pending))))
    assert all_taken(pending) == ["a", "b", "cd"]


def test_a_half_with_an_interactive_id_is_interactive() -> None:
    pending, waiter = queue(bulk="abcd")
    batch = taken(pending)
    pending.add("d", Recorder())
    waiter.open.add("x")
    pending.add("x", waiter)
    pending.requeue_halves(pending.withdraw(pending.entries(batch)))
    assert all_taken(pending) == ["cd", "x", "ab"]


def test_asking_interactively_for_an_id_of_a_bulk_half_brings_the_half_forward() -> None:
    pending, _ = queue(bulk="abcd")
    pending.requeue_halves(pending.withdraw(pending.entries(taken(pending))))
    pending.add("d", Recorder())
    assert all_taken(pending) == ["cd", "ab"]


def test_asking_interactively_for_a_bulk_id_brings_it_forward() -> None:
    pending, _ = queue(interactive="ab", bulk="uvwxyz")
    pending.add("y", Recorder())
    assert all_taken(pending) == ["abyu", "vwxz"]


def test_an_id_upgraded_in_flight_comes_back_to_the_interactive_lane() -> None:
    pending, _ = queue(bulk="abcdef")
    batch = taken(pending)
    pending.add("c", Recorder())
    pending.requeue(pending.withdraw(pending.entries(batch)))
    assert taken(pending).group_ids == ["c", "a", "b", "d"]


def test_an_id_of_two_waiters_is_requested_once_and_settles_both() -> None:
    pending, first = queue(interactive="a")
    second = Recorder(bulk=True)
    second.open.add("a")
    pending.add("a", second)
    batch = taken(pending)
    assert batch.group_ids == ["a"]
    pending.settle_batch(batch, {})
    assert first.outcomes == second.outcomes == [("a", None)]


def test_a_batch_is_abandoned_with_its_last_id_which_may_be_requested_again() -> None:
    pending, waiter = queue(interactive="ab")
    flight = InFlight(pending)
    pending.leave(waiter, ["a"])
    assert flight.cancelled == 0
    pending.leave(waiter, ["b"])
    assert flight.cancelled == 1
    assert pending.open == 0
    pending.add("a", Recorder())
    assert taken(pending).group_ids == ["a"]


def test_joining_an_id_in_flight_that_was_left_keeps_its_batch() -> None:
    pending, waiter = queue(interactive="ab")
    flight = InFlight(pending)
    pending.leave(waiter, ["a"])
    other = Recorder()
    pending.add("a", other)
    pending.leave(waiter, ["b"])
    assert flight.cancelled == 0
    assert len(pending) == 0
    pending.leave(other, ["a"])
    assert flight.cancelled == 1


def test_a_late_failure_of_an_abandoned_batch_leaves_a_newer_request_alone() -> None:
    pending, first = queue(interactive="a")
    batch = InFlight(pending).batch
    pending.leave(first, ["a"])
    second = Recorder()
    second.open.add("a")
    pending.add("a", second)
    pending.requeue(pending.withdraw(pending.entries(batch)))
    again = taken(pending)
    pending.settle_batch(again, {})
    assert second.outcomes == [("a", None)]


def stale_with_a_late_waiter(pending: PendingQueue) -> tuple[Batch, "Recorder"]:
    """A request in flight of the ID ``a``, and a waiter that came after an invalidation."""
    batch = taken(pending)
    pending.mark_stale(["a"])
    late = Recorder()
    late.open.add("a")
    pending.add("a", late)
    return batch, late


def test_a_waiter_that_arrives_after_an_invalidation_waits_for_the_next_request() -> None:
    pending, early = queue(interactive="a")
    batch, late = stale_with_a_late_waiter(pending)
    pending.settle_batch(batch, {})
    assert (early.outcomes, late.outcomes) == ([("a", None)], [])
    assert taken(pending).group_ids == ["a"]


def test_an_id_that_waits_is_not_stale() -> None:
    pending, _ = queue(interactive="a")
    pending.mark_stale()
    assert not pending.starts_request("a")


def test_a_stale_request_that_is_made_again_serves_every_waiter() -> None:
    pending, early = queue(interactive="a")
    batch, late = stale_with_a_late_waiter(pending)
    pending.requeue(pending.withdraw(pending.entries(batch)))
    pending.settle_batch(taken(pending), {})
    assert early.outcomes == late.outcomes == [("a", None)]
    assert pending.open == 0


class Counting(Recorder):
    """Counts how often it is compared or hashed: the steps that a queue takes to find it."""

    steps = 0

    def __eq__(self, other: object) -> bool:
        Counting.steps += 1
        return self is other

    def __hash__(self) -> int:
        Counting.steps += 1
        return id(self)


@pytest.mark.parametrize("taken_first", [False, True], ids=["waiting", "in flight"])
@pytest.mark.parametrize("newest_first", [False, True], ids=["oldest first", "newest first"])
def test_each_of_many_waiters_of_one_id_leaves_in_as_many_steps(*, newest_first: bool, taken_first: bool) -> None:
    steps = []
    for count in (100, 1000):
        pending, waiters = PendingQueue(LIMIT), [Counting() for _ in range(count)]
        for waiter in waiters:
            pending.add("a", waiter)
        batches = [pending.take(lambda _: None)] if taken_first else []
        Counting.steps = 0
        for waiter in reversed(waiters) if newest_first else waiters:
            pending.leave(waiter, ["a"])
        steps.append(Counting.steps / count)
        assert pending.open == len(pending) == 0
        assert all(batch is not None for batch in batches)
    assert steps[1] <= steps[0] < 10


def test_ids_that_leave_and_come_back_take_no_more_room_in_their_lane() -> None:
    pending, waiter = queue(interactive="abc")
    for _ in range(10_000):
        pending.leave(waiter, ["b"])
        pending.add("b", waiter)
    assert len(pending._interactive.group_ids) <= 3 + 2 * 64
    assert sorted("".join(all_taken(pending))) == ["a", "b", "c"]


def test_its_repr_shows_its_lanes() -> None:
    pending, _ = queue(interactive="abcde", bulk="xyz")
    taken(pending)
    assert repr(pending) == "<PendingQueue: 8 IDs open, 1 waiting in the interactive lane, 3 in the bulk lane>"


@virtual_time
async def test_a_stream_that_is_left_leaves_nothing_in_the_queue() -> None:
    pending = PendingQueue(LIMIT)
    source = (f"g{number}" for number in range(100))

    lifetime = cast("Lifetime", SimpleNamespace(start=asyncio.get_running_loop().create_task))
    async with Stream(source, pending, lifetime, window=8, bulk=True) as parts:
        await settle()
        assert len(pending) == 8
        pending.settle_batch(taken(pending), {})
        assert len((await anext(parts)).missing) == LIMIT
    assert pending.open == 0
