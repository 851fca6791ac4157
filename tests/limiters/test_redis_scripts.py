"""The scripts run in a real Redis, on a clock that the test moves."""

from bisect import insort
from collections.abc import Iterator
from itertools import cycle
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis
from support.redis_server import RedisServer, eval_at

from rongcloud_groups.limiters.redis_claims import Claims, Slot
from rongcloud_groups.limiters.redis_connection import CLOCK_STEP, REFUSED, RESERVE
from rongcloud_groups.limiters.schedule import (
    DECREASE_FACTOR,
    HORIZON,
    MAX_HISTORY,
    MAX_LATE,
    PAUSE,
    QUIET_PERIOD,
    SHARED_JITTER,
    WAKE_UP_SLACK,
    Pacing,
    SlotSchedule,
    Window,
)

START = 1_800_000_000.0
GAP = SlotSchedule(100, jitter=SHARED_JITTER).gap(START)
UNUSED = -1.0
CONFIRMED_FOR = 0.01
KEYS = ("app", "app:sent", "app:free", "app:claimed")
Report = tuple[int, float, float]


class Reserved(NamedTuple):
    """The reply of the script that reserves slots."""

    now: float
    paused_until: float
    rate: float
    limit_before: float
    is_new: bool
    set_back: float
    queue: float
    confirmed: list[float]
    names: list[int]
    slots: list[float]
    usable_until: list[float]

    @property
    def first(self) -> int:
        """The name of the first slot."""
        return self.names[0]


class Budget:
    """The budget ``app``, which was in use when the test began."""

    def __init__(self, redis: Redis, limit: float = 100) -> None:
        self.redis = redis
        self.limit = limit
        self.now = START
        self.set()

    def set(self, **fields: Any) -> None:
        state: dict[str, Any] = {"next_slot": 0, "paused_until": 0, "cut_at": 0, "cut_from": 0, "number": 0}
        self.redis.hset("app", mapping=state | {"late": 0, "late_at": 0} | fields)

    def reserve(
        self,
        wanted: int = 1,
        *,
        lead: float = 0.0,
        usable_for: float = MAX_LATE,
        firm_within: float = 1e6,
        confirm: tuple[int, ...] = (),
        confirmed_for: float = CONFIRMED_FOR,
        reports: tuple[Report, ...] = (),
    ) -> Reserved:
        values = [repr(value) for report in reports for value in report]
        claims = (firm_within, confirmed_for, len(confirm), *confirm)
        reply = self._run(RESERVE, self.limit, lead, usable_for, wanted, *claims, *values)
        now, paused_until, rate, limit_before, is_new, set_back, queue, count, *rest = reply
        confirmed, slots = rest[: int(count)], rest[int(count) :]
        columns = ([int(name) for name in slots[::3]], slots[1::3], slots[2::3])
        return Reserved(now, paused_until, rate, limit_before, bool(is_new), set_back, queue, confirmed, *columns)

    def report(self, *reports: Report) -> None:
        self.reserve(0, reports=reports)

    def reserve_a_second(self) -> Reserved:
        """A hundred slots, all of them within the next second."""
        first = self.reserve(50)
        first.slots.extend(self.reserve(50).slots)
        assert len(first.slots) == 100
        return first

    def refuse(self, age: float = 0.01, retry_after: float = -1) -> list[float]:
        return self._run(REFUSED, self.limit, age, 0.0, retry_after)

    def _run(self, script: str, *arguments: object) -> list[float]:
        return eval_at(self.now, self.redis, script, KEYS, arguments)


@pytest.fixture
def budget(redis: Redis) -> Budget:
    return Budget(redis)


def near(*times: float) -> Any:
    return pytest.approx(list(times), abs=3e-6)


def test_a_new_budget_is_quiet_first(redis: Redis, budget: Budget) -> None:
    redis.flushall()
    reserved = budget.reserve()
    assert reserved.slots == near(START + QUIET_PERIOD)
    assert reserved.is_new
    assert not budget.reserve().is_new


def test_slots_follow_each_other_whichever_process_takes_them(budget: Budget) -> None:
    reserved = budget.reserve(3, lead=WAKE_UP_SLACK)
    assert reserved.slots == near(START, START + GAP, START + 2 * GAP)
    following = budget.reserve()
    assert following.slots == near(START + 3 * GAP)
    assert following.first == reserved.first + 3


def test_a_budget_unused_for_long_saves_nothing_up(budget: Budget) -> None:
    budget.reserve()
    budget.now += 3600
    assert budget.reserve(2, lead=WAKE_UP_SLACK).slots == near(budget.now, budget.now + GAP)


def test_the_way_to_the_process_is_allowed_for(budget: Budget) -> None:
    assert budget.reserve(lead=0.04).slots == near(START + 0.04 - WAKE_UP_SLACK)


def test_the_hundred_and_first_leaves_a_second_and_the_jitter_after_the_first(budget: Budget) -> None:
    reserved = budget.reserve_a_second()
    left_at = reserved.slots[0] + 0.08
    budget.report((reserved.first, left_at, 0.0))
    assert budget.reserve().slots == near(left_at + 1 + SHARED_JITTER)


@pytest.mark.parametrize("usable_for", [MAX_LATE, 0.7])
def test_a_request_not_reported_counts_as_late_as_it_may_be(budget: Budget, usable_for: float) -> None:
    for _ in range(2):
        budget.reserve(50, usable_for=usable_for)
    assert budget.reserve().slots == near(START - WAKE_UP_SLACK + usable_for + 1 + SHARED_JITTER)


def test_a_slot_that_was_not_used_is_free_for_another_request(budget: Budget) -> None:
    reserved = budget.reserve_a_second()
    times = dict(enumerate(reserved.slots, reserved.first))
    reports = [(name, slot + 0.08, 0.0) for name, slot in times.items() if name != reserved.first + 50]
    budget.report(*reports, (reserved.first + 50, UNUSED, 0.0))
    assert budget.reserve().slots == near(reserved.slots[-1] + GAP)
    assert budget.reserve().slots == near(reserved.slots[0] + 0.08 + 1 + SHARED_JITTER)


def test_a_slot_that_was_given_up_before_its_time_is_handed_on_as_it_is(redis: Redis, budget: Budget) -> None:
    reserved = budget.reserve(5)
    third = reserved.first + 2
    budget.report((third, -reserved.slots[2], 0.0))
    again = budget.reserve(2)
    assert again.first == third
    assert again.slots == near(reserved.slots[2], reserved.slots[4] + GAP)
    assert again.usable_until[0] == reserved.usable_until[2]
    assert redis.zcard("app:sent") == 6


@pytest.mark.parametrize(("lead", "usable_for"), [(0.03, MAX_LATE), (0.0, 0.3)])
def test_a_slot_that_was_given_up_is_handed_to_no_process_that_cannot_use_it(
    budget: Budget, lead: float, usable_for: float
) -> None:
    reserved = budget.reserve(4)
    budget.report((reserved.first + 2, -reserved.slots[2], 0.0))
    assert budget.reserve(lead=lead, usable_for=usable_for).first == reserved.first + 4


def test_a_slot_that_was_given_up_is_forgotten_when_its_time_is_over(redis: Redis, budget: Budget) -> None:
    reserved = budget.reserve(4)
    budget.report((reserved.first + 3, -reserved.slots[3], 0.0), (reserved.first + 9, -START - 1.0, 0.0))
    assert redis.zcard("app:free") == 1
    budget.now += 0.1
    budget.reserve(0)
    assert redis.zcard("app:free") == 0
    assert redis.zcard("app:sent") == 3


# ---- claims


def test_a_claim_that_is_confirmed_is_its_owners(redis: Redis, budget: Budget) -> None:
    claim = budget.reserve(3, firm_within=0.0)
    assert redis.zrange("app:claimed", 0, -1) == [str(name).encode() for name in (claim.first + 1, claim.first + 2)]
    confirmed = budget.reserve(0, confirm=(claim.first + 2,))
    assert confirmed.confirmed == [claim.first + 2]
    assert [redis.zscore("app:sent", claim.first + 2)] == near(claim.slots[2] + CONFIRMED_FOR)
    budget.now = claim.slots[2]
    assert budget.reserve(2).slots == near(claim.slots[2] + GAP, claim.slots[2] + 2 * GAP)


def test_a_claim_that_is_not_confirmed_goes_to_the_next_process_that_calls(budget: Budget) -> None:
    claim = budget.reserve(5, firm_within=0.0)
    budget.now = claim.slots[3] - GAP - 0.003
    following = budget.reserve()
    assert following.first == claim.first + 2
    assert following.slots == near(claim.slots[2])
    budget.now = claim.slots[3] - 1 / 100
    assert budget.reserve().first == claim.first + 3
    assert budget.reserve(0, confirm=(claim.first + 2, claim.first + 3)).confirmed == []


@pytest.mark.parametrize("limit", [3.33, 100, 250])
def test_a_claim_lapses_in_redis_when_its_owner_says_that_it_does(redis: Redis, limit: float) -> None:
    budget = Budget(redis, limit)
    slots = budget.reserve(5, firm_within=0.0)
    claim = Slot(slots.names[-1], slots.slots[-1], slots.usable_until[-1])
    claims = Claims(limit)
    claims.confirm(START, START, 0.0, 0.0)
    assert claims.settle(START, [], [claim]) == []
    lapses_at = START + claims.due_in(START, 0.0)
    budget.now = lapses_at - 1e-5
    budget.report()
    assert redis.zscore("app:claimed", claim.name) is not None
    budget.now = lapses_at + 1e-5
    budget.report()
    assert redis.zscore("app:claimed", claim.name) is None


def test_a_claim_goes_to_a_process_that_is_a_little_later_than_its_owner_was(budget: Budget) -> None:
    claim = budget.reserve(5, firm_within=0.0)
    budget.now = claim.slots[3] - GAP - 0.003
    following = budget.reserve(usable_for=MAX_LATE + 0.02)
    assert following.first == claim.first + 2
    assert following.usable_until == claim.usable_until[2:3]


def test_a_claim_confirmed_late_is_its_owners_while_no_other_process_has_it(budget: Budget) -> None:
    claim = budget.reserve(2, firm_within=0.0)
    budget.now = claim.slots[1]
    budget.reserve(0)
    assert budget.reserve(0, confirm=(claim.first + 1,)).confirmed == [claim.first + 1]


def test_a_claim_that_no_process_takes_is_forgotten(redis: Redis, budget: Budget) -> None:
    budget.reserve(3, firm_within=0.0)
    budget.now += 0.1
    budget.reserve(0)
    assert redis.zcard("app:claimed") == redis.zcard("app:free") == 0
    assert redis.zcard("app:sent") == 1


def test_no_more_is_remembered_than_counts(redis: Redis, budget: Budget) -> None:
    for _ in range(7):
        budget.reserve(100)
        budget.now += 100
    assert redis.zcard("app:sent") == MAX_HISTORY


def test_calls_at_the_same_moment_see_the_same_slots_ahead(budget: Budget) -> None:
    for _ in range(5):
        budget.now += 0.16
        assert len({budget.reserve(4, lead=0.12).queue for _ in range(4)}) == 1
    budget.now += 0.01
    ahead = float(budget.redis.hget("app", "next_slot") or 0) - budget.now
    assert [budget.reserve(lead=1e-4).queue] == near(ahead)


def test_no_process_reserves_far_ahead_what_others_could_use(budget: Budget) -> None:
    budget.set(next_slot=START + HORIZON - 2.5 * GAP)
    assert len(budget.reserve(10).slots) == 3
    assert len(budget.reserve(10).slots) == 1


def test_another_rate_is_reported(budget: Budget) -> None:
    assert budget.reserve().limit_before == 100
    budget.limit = 50
    assert budget.reserve().limit_before == 100
    assert budget.reserve().limit_before == 50


@pytest.mark.parametrize(
    "damage",
    [
        {"next_slot": "tomorrow"},
        {"cut_at": 9e9, "cut_from": 50},
        {"next_slot": 9e9},
        {"paused_until": 9e9},
        {"cut_from": ""},
        {"number": "many"},
        {"late": "very"},
    ],
)
def test_a_damaged_budget_is_quiet_first(budget: Budget, damage: dict[str, Any]) -> None:
    budget.reserve_a_second()
    budget.set(**damage)
    reserved = budget.reserve()
    assert reserved.slots == near(START + QUIET_PERIOD)
    assert reserved.rate == 100


@pytest.mark.parametrize(("back", "reported"), [(30.0, 30.0), (0.6, 0.6), (0.2, 0.2)])
def test_a_clock_that_is_set_back_is_reported_and_costs_no_more_than_a_pause(
    budget: Budget, back: float, reported: float
) -> None:
    budget.reserve_a_second()
    budget.now -= back
    reserved = budget.reserve()
    assert reserved.set_back == pytest.approx(reported, abs=1e-5)
    assert reserved.is_new == (back > CLOCK_STEP)
    assert reserved.slots[0] <= budget.now + QUIET_PERIOD + 1e-5


def test_after_a_loss_a_slot_has_the_name_of_no_earlier_one(redis: Redis, budget: Budget) -> None:
    earlier = budget.reserve(3)
    redis.flushall()
    assert budget.reserve().first > earlier.first + 2


# ---- refusals


def test_a_refusal_pauses_and_cuts_once(budget: Budget) -> None:
    paused_until, pause, rate = budget.refuse()
    assert pause == pytest.approx(PAUSE, abs=1e-5)
    assert rate == pytest.approx(100 * DECREASE_FACTOR)
    assert budget.refuse(age=0.0)[0] == paused_until
    assert budget.refuse(age=5.0)[2] >= 100 * DECREASE_FACTOR
    assert budget.reserve().slots == near(paused_until)


def test_a_refusal_after_the_pause_cuts_again_and_aims_lower(budget: Budget) -> None:
    budget.set(paused_until=START - 0.1, cut_at=START - 0.5, cut_from=100)
    before = budget.reserve().rate
    assert budget.refuse(age=0.0)[2] == pytest.approx(before * (1 + DECREASE_FACTOR) / 2 * DECREASE_FACTOR, rel=0.01)


@pytest.mark.parametrize(("retry_after", "pause"), [(0.0, PAUSE), (2.5, 2.5), (3600.0, 60.0)])
def test_retry_after_is_honoured_up_to_a_minute(budget: Budget, retry_after: float, pause: float) -> None:
    assert budget.refuse(retry_after=retry_after)[1] == pytest.approx(pause, abs=1e-5)


@pytest.mark.parametrize("elapsed", [0.0, 0.3, 1.0, 2.0, 3.9, 4.1, 9.0, 500.0])
@pytest.mark.parametrize("cut_from", [100.0, 92.5, 40.0, 5.0])
def test_the_climb_is_that_of_one_process(budget: Budget, cut_from: float, elapsed: float) -> None:
    budget.set(cut_at=START - elapsed, cut_from=cut_from)
    assert budget.reserve().rate == pytest.approx(
        Pacing(Window.of(100), jitter=0, cut_at=START - elapsed, cut_from=cut_from).rate(START), rel=1e-5
    )


# ---- any schedule


class Call(NamedTuple):
    """One call for slots, some time after the one before, and what becomes of the slots that it grants.

    Those of a process that is killed are used as late as they may be, and never reported.
    """

    after: float
    process: int
    wanted: int
    lead: float
    refused: bool
    killed: bool
    late: list[float]


calls = st.builds(
    Call,
    after=st.sampled_from([0.0, 0.001, 0.01, 0.03, 0.21, 1.5]),
    process=st.integers(0, 2),
    wanted=st.sampled_from([0, 1, 1, 1, 2, 8]),
    lead=st.sampled_from([0.0, 0.0, 0.02, 0.1]),
    refused=st.sampled_from([False] * 12 + [True]),
    killed=st.sampled_from([False] * 5 + [True]),
    late=st.lists(st.sampled_from([0.0] * 9 + [0.004, 0.03, MAX_LATE] + [UNUSED] * 3), min_size=1, max_size=5),
)
limits = st.sampled_from([0.5, 1.08, 3, 7.5, 20, 40, 100, 1200])


@settings(max_examples=150)
@given(script=st.lists(calls, min_size=5, max_size=60), limit=limits)
def test_any_schedule_has_the_slots_of_slot_schedule_and_no_window_over_the_limit(
    server: RedisServer, script: list[Call], limit: float
) -> None:
    with Redis.from_url(server.url) as redis:
        redis.flushall()
        left = sorted(left_in(Budget(redis, limit), script))
    requests, seconds = Window.of(limit)
    pairs = zip(left, left[requests:], strict=False)
    assert all(later - earlier >= seconds + SHARED_JITTER - 1e-4 for earlier, later in pairs)


def left_in(budget: Budget, script: list[Call]) -> Iterator[float]:
    """When requests leave; each slot on the way is compared with that of `SlotSchedule`."""
    schedule = SlotSchedule(budget.limit, jitter=SHARED_JITTER, cut_at=0.0)
    unreported: dict[int, dict[float, Report]] = {}
    for call in script:
        budget.now += call.after
        if call.refused:
            budget.refuse(age=0.0)
            if budget.now >= schedule.paused_until:
                schedule.refused(budget.now, None, 0.0)
                schedule.paused_until = budget.now + PAUSE  # without its jitter
        reports = unreported.pop(call.process, {})
        reserved = budget.reserve(call.wanted, lead=call.lead, reports=tuple(reports.values()))
        for slot, (_, left_at, late) in reports.items():
            schedule.note_lateness(late, left_at if left_at != UNUSED else budget.now)
            settle(schedule, slot, left_at)
        for slot in schedule.reserved[:]:  # Redis cannot know that they were not used
            if budget.now - slot > MAX_LATE:
                settle(schedule, slot, slot + MAX_LATE)
        expected = [schedule.reserve(budget.now, call.lead) for _ in reserved.slots]
        assert reserved.slots == pytest.approx(expected, abs=2e-6)
        assert reserved.rate == pytest.approx(schedule.rate(budget.now), rel=1e-4)
        named = zip(expected, zip(reserved.names, reserved.slots, strict=True), cycle(call.late), strict=False)
        for slot, (name, time), late in named:
            left_at = time + MAX_LATE if call.killed else UNUSED if late == UNUSED else time + late
            if left_at != UNUSED:
                yield left_at
            if call.killed:
                settle(schedule, slot, slot + MAX_LATE)
            else:
                unreported.setdefault(call.process, {})[slot] = (name, left_at, max(0.0, late))


class ClaimingCall(NamedTuple):
    """A call that may claim, and confirms some of the claims of its process or none; the rest is as in `Call`."""

    after: float
    process: int
    wanted: int
    firm_within: float
    confirmed: int
    killed: bool
    late: float


claiming_calls = st.builds(
    ClaimingCall,
    after=st.sampled_from([0.0, 0.001, 0.005, 0.01, 0.03, 0.3]),
    process=st.integers(0, 3),
    wanted=st.sampled_from([0, 1, 1, 2, 5]),
    firm_within=st.sampled_from([0.0, 0.02, 0.05, 10.0]),
    confirmed=st.integers(0, 3),
    killed=st.sampled_from([False] * 5 + [True]),
    late=st.sampled_from([0.0] * 4 + [0.004, CONFIRMED_FOR, MAX_LATE]),
)


@settings(max_examples=100)
@given(script=st.lists(claiming_calls, min_size=20, max_size=120), limit=st.sampled_from([7.5, 20, 40, 100]))
def test_each_claim_is_used_once_at_most_and_no_window_is_over_the_limit(
    server: RedisServer, script: list[ClaimingCall], limit: float
) -> None:
    with Redis.from_url(server.url) as redis:
        redis.flushall()
        left = left_with_claims(Budget(redis, limit), script)
    requests, seconds = Window.of(limit)
    times = sorted(left.values())
    assert all(
        later - earlier >= seconds + SHARED_JITTER - 1e-4
        for earlier, later in zip(times, times[requests:], strict=False)
    )


def left_with_claims(budget: Budget, script: list[ClaimingCall]) -> dict[int, float]:
    """When requests leave, by the name of their slot; a process that is killed reports nothing of its last call."""
    left: dict[int, float] = {}
    claims: list[dict[int, tuple[float, float]]] = [{} for _ in range(4)]
    reports: list[list[Report]] = [[] for _ in range(4)]
    for call in script:
        budget.now += call.after
        own = claims[call.process]
        reserved = budget.reserve(
            call.wanted,
            firm_within=call.firm_within,
            confirm=tuple(own)[: call.confirmed],
            reports=tuple(reports[call.process]),
        )
        reports[call.process] = []
        firm = {int(name): own.pop(int(name)) for name in reserved.confirmed}
        firm = {name: (slot, min(until, slot + CONFIRMED_FOR)) for name, (slot, until) in firm.items()}
        for name, slot, until in zip(reserved.names, reserved.slots, reserved.usable_until, strict=True):
            (firm if slot <= reserved.now + call.firm_within else own)[name] = slot, until
        for name, (slot, until) in firm.items():
            left_at = max(budget.now, min(slot + call.late, until))
            if left_at <= until:
                assert name not in left
                left[name] = left_at
            reports[call.process].append((name, left_at if left_at <= until else UNUSED, 0.0))
        if call.killed:
            own.clear()
            reports[call.process] = []
    return left


def settle(schedule: SlotSchedule, slot: float, left_at: float) -> None:
    """Take a slot for used, or free its place."""
    if slot in schedule.reserved:
        schedule.reserved.remove(slot)
    elif slot + MAX_LATE in schedule.sent:
        schedule.sent.remove(slot + MAX_LATE)
    if left_at != UNUSED:
        insort(schedule.sent, left_at)
        del schedule.sent[:-MAX_HISTORY]
