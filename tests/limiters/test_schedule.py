"""The law of all limiters, in virtual time; `simulation` has the processes and the ways of counting."""

import math
from collections.abc import Container
from itertools import cycle, islice, pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limiters.simulation import FreeAt, arrivals, blocked, counted, late_timers, send_times, stopped

from rongcloud_groups import ConfigError
from rongcloud_groups.emulator import worst_second
from rongcloud_groups.limiters.schedule import (
    HOST_JITTER,
    LATENESS_DECAY,
    MAX_HISTORY,
    MAX_LATE,
    MAX_RESERVED,
    PATH_JITTER,
    WAKE_UP_SLACK,
    SlotSchedule,
    Window,
)

EXACT = 1e-9
LIMITS = [0.5, 1.08, 3.33, 7.5, 12.5, 33.3, 100.0, 250.0, 1000.0]
GAP = (1 + HOST_JITTER + WAKE_UP_SLACK) / 100


def in_use(limit: float = 100, *, jitter: float = HOST_JITTER, now: float = 50.0) -> SlotSchedule:
    return SlotSchedule(limit, jitter=jitter, next_slot=now)


def granted(
    schedule: SlotSchedule, seconds: float, *, late: dict[int, float] | None = None, dead: Container[int] = ()
) -> list[float]:
    """When requests leave that are always waiting; those of some slots wake up later by so much, or never do."""
    now, left = 50.0, []
    for number in range(1_000_000):
        if now >= 50.0 + seconds:
            break
        slot = schedule.reserve(now)
        if number in dead:
            continue
        now = max(now, slot + (late or {}).get(number, 0.0))
        if schedule.use(slot, now):
            left.append(now)
    return left


# ---- the promise


pauses = st.lists(st.tuples(st.floats(0, 4), st.sampled_from([0.01, 0.03, 0.3, 2.0])), max_size=4)
loops = st.builds(
    lambda pauses, block, free, phase: stopped(pauses, blocked(block, free, phase)),
    pauses=pauses,
    block=st.floats(0, 0.2) | st.just(0.0),
    free=st.floats(0.001, 0.05),
    phase=st.floats(0, 1),
)


@given(
    limit=st.sampled_from([1.08, 7.5, 20.0, 50.0, 100.0]),
    processes=st.lists(loops, min_size=1, max_size=50),
    jitter=st.floats(0, HOST_JITTER),
    random=st.randoms(use_true_random=False),
)
@settings(max_examples=40)
def test_no_stall_and_no_jitter_puts_more_than_the_limit_into_a_second(
    limit: float, processes: list[FreeAt], jitter: float, random: Random
) -> None:
    schedule = SlotSchedule(limit, jitter=HOST_JITTER)
    sent = send_times(schedule, processes, 5.0)
    counts = counted(arrivals(sent, jitter, random), schedule.window)
    assert counts.sliding <= schedule.window.requests
    assert counts.fixed <= schedule.window.requests


@given(
    limit=st.sampled_from([1.08, 7.5, 20.0, 100.0]),
    processes=st.integers(1, 20),
    late=st.lists(st.sampled_from([0.0] * 8 + [0.003, 0.02, MAX_LATE]), min_size=1, max_size=30),
)
@settings(max_examples=40, deadline=None)
def test_a_process_that_is_interrupted_before_the_write_keeps_the_limit(
    limit: float, processes: int, late: list[float]
) -> None:
    schedule = SlotSchedule(limit, jitter=HOST_JITTER)
    again = cycle(late)
    sent = send_times(schedule, [lambda now: now] * processes, 8.0, lambda: next(again))
    requests, seconds = schedule.window
    spans = [later - earlier for earlier, later in zip(sent, sent[requests:], strict=False)]
    assert all(span >= seconds + HOST_JITTER - WAKE_UP_SLACK - EXACT for span in spans)


@given(
    waits=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.0, 0.0, 0.02, 0.7]),  # before it wants to send again
            st.floats(0, 0.2) | st.just(0.0),  # how late it wakes up
            st.sampled_from([False] * 9 + [True]),  # whether it dies before it uses its slot, and another one starts
        ),
        min_size=1,
        max_size=40,
    ),
    processes=st.integers(1, 20),
    limit=st.sampled_from([20, 50, 100]),
)
@settings(max_examples=30)
def test_the_limit_holds_with_the_jitter_when_processes_come_and_go_and_die(
    waits: list[tuple[float, float, bool]], processes: int, limit: int
) -> None:
    shared = SlotSchedule(limit, jitter=HOST_JITTER)
    ready_at = [0.0] * processes
    reserved: list[float | None] = [None] * processes
    owners, gone = list(range(processes)), set[int]()
    sent = []
    for pause, late, dies in islice(cycle(waits), 600):
        process = min(range(processes), key=lambda one: (ready_at[one], one))
        now, slot = ready_at[process], reserved[process]
        if slot is None:
            slot = reserved[process] = shared.reserve(now, owner=owners[process], is_gone=gone.__contains__)
            ready_at[process] = max(now, slot) + late
        else:
            if dies:
                gone.add(owners[process])
                owners[process] = processes + len(gone)
            elif shared.use(slot, now):
                sent.append(now)
            reserved[process] = None
            ready_at[process] = now + pause
    sent.sort()
    assert all(later - earlier >= 1 + HOST_JITTER - EXACT for earlier, later in zip(sent, sent[limit:], strict=False))


@given(
    limit=st.sampled_from(LIMITS),
    block=st.floats(0, 0.2),
    free=st.floats(0.001, 0.05),
    pauses=pauses,
    random=st.randoms(use_true_random=False),
)
@settings(max_examples=60)
def test_one_process_is_even_enough_for_every_count_however_its_loop_stalls(
    limit: float, block: float, free: float, pauses: list[tuple[float, float]], random: Random
) -> None:
    schedule = SlotSchedule(limit, jitter=PATH_JITTER)
    sent = send_times(schedule, [stopped(pauses, blocked(block, free))], max(6.0, 12 / limit))
    counts = counted(arrivals(sent, PATH_JITTER, random), schedule.window)
    assert max(counts.sliding, counts.fixed, counts.estimated) <= schedule.window.requests
    tolerance = PATH_JITTER + WAKE_UP_SLACK + min(block + max((stall for _, stall in pauses), default=0.0), MAX_LATE)
    assert counts.early <= tolerance + EXACT
    assert counts.bucket <= 100 or limit > 100


@pytest.mark.parametrize("jitter", [0.02, 0.05])
def test_the_excess_from_more_jitter_than_is_allowed_for_is_bounded(jitter: float) -> None:
    schedule = SlotSchedule(100, jitter=PATH_JITTER)
    sent = send_times(schedule, [late_timers(Random(1), 0.001)], 20.0)
    assert counted(arrivals(sent, jitter, Random(2)), schedule.window).sliding <= 100 + (jitter - PATH_JITTER) * 100 + 1


@pytest.mark.parametrize("processes", [1, 4, 50])
@pytest.mark.parametrize("limit", [0.5, 12.5, 100.0, 1000.0, 5000.0])
def test_clocks_that_jump_cost_nothing_but_time(limit: float, processes: int) -> None:
    schedule = SlotSchedule(limit, jitter=HOST_JITTER)
    loops = [stopped([(1.0, 3600.0)], late_timers(Random(number), 0.001)) for number in range(processes)]
    sent = send_times(schedule, loops, 3603.0)
    counts = counted(sorted(sent), schedule.window)
    assert max(counts.sliding, counts.fixed) <= schedule.window.requests


# ---- how much of the limit is used


@pytest.mark.parametrize(
    ("limit", "block"),
    [(limit, block) for limit in (3.0, 12.0, 100.0) for block in (0.0, 0.005, 0.01, 0.02, 0.05, 0.09)] + [(100.0, 0.2)],
)
def test_a_blocked_loop_uses_what_the_law_leaves_it(limit: float, block: float) -> None:
    schedule = SlotSchedule(limit, jitter=PATH_JITTER)
    sent = send_times(schedule, [blocked(block)], 22.0)
    used = sum(time >= 2.0 for time in sent) / 20
    caught_up = min(block, MAX_LATE)
    bound = limit / (1 + PATH_JITTER + WAKE_UP_SLACK + 2 * caught_up) * (caught_up / block if block else 1)
    assert used >= 0.99 * bound


@pytest.mark.parametrize("processes", [1, 4, 50])
def test_calm_processes_use_all_but_the_jitter(processes: int) -> None:
    random = Random(1)
    sent = send_times(in_use(now=0.0), [late_timers(random, 0.0015) for _ in range(processes)], 22.0)
    assert sum(time >= 2.0 for time in sent) / 20 >= 98.7


def test_slots_are_even() -> None:
    left = granted(in_use(), 100)
    assert [later - earlier for earlier, later in pairwise(left)][1:] == pytest.approx([GAP] * (len(left) - 2))


def test_idle_time_saves_up_no_burst() -> None:
    schedule = in_use()
    before = granted(schedule, 2)
    slots = [schedule.reserve(before[-1] + 1.0) for _ in range(10)]
    assert [later - earlier for earlier, later in pairwise(slots)] == pytest.approx([GAP] * 9)


def test_one_late_request_costs_three_times_its_lateness_at_most() -> None:
    late = granted(in_use(), 10, late={250: 0.05})
    assert len(granted(in_use(), 10)) - len(late) <= 3 * 0.05 / GAP
    assert worst_second(late) <= 100


def test_slots_later_than_may_be_caught_up_are_lost() -> None:
    slots = in_use()
    slots.use(slots.reserve(50.0), 50.0)
    first = slots.reserve(50.0)
    assert not slots.use(first, first + 2.0)
    assert slots.reserve(first + 2.0) == pytest.approx(first + 2.0 - MAX_LATE)


@pytest.mark.parametrize(("ago", "more"), [(0.0, 0.015), (1.0, 0.015 / math.e), (60.0, 0.0)])
def test_lateness_widens_the_gap_and_the_window_for_a_while(ago: float, more: float) -> None:
    sent = [50 + number / 100 for number in range(100)]
    schedule = SlotSchedule(100, jitter=HOST_JITTER, next_slot=50.99, sent=sent, late=0.015, late_at=51.0 - ago)
    assert schedule.reserve(51.0) == pytest.approx(51 + HOST_JITTER + more, abs=1e-6)
    assert schedule.gap(51.0) == pytest.approx(GAP + 2 * more / 100)
    assert LATENESS_DECAY == 1.0


# ---- slots


def test_a_slot_that_comes_too_late_is_free_for_another_request() -> None:
    schedule = in_use()
    slots = [schedule.reserve(50.0) for _ in range(100)]
    assert [schedule.use(slot, max(50.0, slot)) for slot in slots[:99]] == [True] * 99
    came_at = slots[99] + MAX_LATE + 0.001
    assert not schedule.use(slots[99], came_at)
    assert schedule.use(schedule.reserve(came_at), came_at)


def test_a_slot_whose_owner_died_counts_until_it_cannot_be_used_any_more() -> None:
    def next_slot(after: float) -> float:
        schedule = in_use()
        slots = [schedule.reserve(50.0) for _ in range(100)]
        assert [schedule.use(slot, max(50.0, slot)) for slot in slots[:99]] == [True] * 99
        return schedule.reserve(slots[99] + after) - slots[99]

    assert next_slot(MAX_LATE - 0.005) >= 1 + HOST_JITTER - 99 * GAP
    assert next_slot(MAX_LATE + 0.001) == pytest.approx(max(GAP, MAX_LATE + 0.001 - WAKE_UP_SLACK))


def test_a_slot_whose_process_is_gone_goes_to_the_next_one_that_asks() -> None:
    schedule = in_use()
    slots = [schedule.reserve(50.0, owner=owner) for owner in range(4)]
    assert schedule.reserve(50.0, owner=4, is_gone={2}.__contains__) == slots[2]
    assert schedule.reserve(50.0, owner=5, is_gone={2}.__contains__) == pytest.approx(slots[3] + GAP)
    assert [schedule.use(slots[2], slots[2]) for _ in range(2)] == [True, False]


def test_a_slot_whose_process_is_gone_is_lost_when_its_time_is_over() -> None:
    schedule = in_use()
    slot = schedule.reserve(50.0, owner=1)
    assert schedule.reserve(slot + 0.05, owner=2, is_gone={1}.__contains__) > slot + 0.04


def test_more_processes_than_are_remembered_wait_without_a_slot() -> None:
    schedule = in_use()
    slots = [schedule.reserve(50.0) for _ in range(MAX_RESERVED + 10)]
    assert [slot for slot in slots if schedule.use(slot, max(50.0, slot))] == slots[:MAX_RESERVED]


def test_a_slot_of_another_schedule_may_not_be_used() -> None:
    assert not in_use().use(in_use().reserve(50.0), 50.0)


def test_a_slot_comes_no_earlier_than_it_can_get_to_its_process() -> None:
    assert in_use().reserve(60.0, lead=0.04) == pytest.approx(60.04 - WAKE_UP_SLACK)


# ---- rates


@pytest.mark.parametrize("limit", [0.3, 1, 1.08, 3.33, 7.5, 12.5, 33.3, 99.9, 100, 250, 499, 500, 501, 1234.5, 20_000])
def test_a_window_keeps_its_limit_in_whole_requests(limit: float) -> None:
    window = Window.of(limit)
    assert window.requests <= MAX_HISTORY
    if limit >= 1:
        assert math.ceil(round(1 / window.seconds, 9)) * window.requests <= limit
    assert window.rate >= limit * 0.97 - (limit % 1)


@pytest.mark.parametrize("clients", [8, 30, 60, 70, 99])
def test_shares_never_add_up_to_more_than_the_whole(clients: int) -> None:
    share = Window.of(100 / clients)
    assert share.seconds == 1.0
    assert clients * share.requests <= 100


@pytest.mark.parametrize("limit", [0, -1, math.nan, math.inf, "100"])
def test_a_limit_that_is_no_positive_number_is_refused(limit: float) -> None:
    with pytest.raises(ConfigError, match="rate is"):
        Window.of(limit)
