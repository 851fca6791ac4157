import bisect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rongcloud_groups.emulator import OtherConsumer, RateCheck, worst_second
from rongcloud_groups.emulator.rate_limit import Window

# Multiples of 1/64 s: exact in floating point, so that a window's edge is a window's edge.
times = st.lists(st.integers(0, 64 * 5).map(lambda tick: tick / 64), max_size=120).map(sorted)


def admitted(check: RateCheck, arrivals: list[float]) -> list[float]:
    return [arrival for arrival in arrivals if check.admit(arrival)]


@given(times, st.integers(1, 12))
def test_sliding_window_lets_in_all_it_may_and_never_more(arrivals: list[float], limit: int) -> None:
    let_in = admitted(RateCheck(limit, "sliding"), arrivals)
    assert worst_second(let_in) <= limit
    for arrival in set(arrivals) - set(let_in):
        assert bisect.bisect(let_in, arrival) - bisect.bisect(let_in, arrival - 1) == limit


@given(times, st.integers(1, 12))
def test_fixed_window_counts_each_whole_second_by_itself(arrivals: list[float], limit: int) -> None:
    let_in = admitted(RateCheck(limit, "fixed"), arrivals)
    for second in range(6):
        received = sum(second <= arrival < second + 1 for arrival in arrivals)
        assert sum(second <= arrival < second + 1 for arrival in let_in) == min(received, limit)


@given(times, st.integers(1, 12))
def test_bucket_never_lets_in_more_than_its_size_and_what_flows_in(arrivals: list[float], limit: int) -> None:
    let_in = admitted(RateCheck(limit, "bucket"), arrivals)
    for first in range(len(let_in)):
        for last in range(first, len(let_in)):
            assert last - first + 1 <= limit * (1 + let_in[last] - let_in[first]) + 1e-6


def test_a_fixed_window_allows_twice_the_limit_across_its_edge() -> None:
    burst = [0.99] * 10 + [1.0] * 10
    assert len(admitted(RateCheck(10, "fixed"), burst)) == 20
    assert len(admitted(RateCheck(10, "sliding"), burst)) == 10


@pytest.mark.parametrize("window", ["sliding", "fixed", "bucket"])
def test_a_client_that_hammers_is_let_in_again_only_if_refusals_do_not_count(window: Window) -> None:
    hammering = [tick / 32 for tick in range(32 * 4)]
    lenient = RateCheck(8, window, count_refused=False)
    strict = RateCheck(8, window, count_refused=True)
    let_in_late = [time for time in admitted(lenient, hammering) if time >= 3]
    assert len(let_in_late) == 8
    if window != "fixed":
        assert [time for time in admitted(strict, hammering) if time >= 3] == []


def test_no_limit_lets_in_everything() -> None:
    assert all(RateCheck(None).admit(0.0) for _ in range(1000))


def test_a_time_before_the_last_one_counts_as_the_last_one() -> None:
    check = RateCheck(1)
    assert check.admit(5.0)
    assert not check.admit(3.0)
    assert check.admit(6.0)


@pytest.mark.parametrize("window", ["sliding", "bucket"])
def test_another_consumer_takes_its_share_for_its_span(window: Window) -> None:
    other = OtherConsumer(rate=60, begins=2, lasts=4)
    check = RateCheck(100, window, other=other)
    let_in = admitted(check, [tick / 200 for tick in range(200 * 10)])

    def in_second(second: int) -> int:
        return sum(second <= time < second + 1 for time in let_in)

    assert 100 <= in_second(1) <= 101
    # Over the limit, requests are served in the order they come: 200 a second of ours, 60 of the other consumer.
    assert 40 <= in_second(4) < 90
    assert in_second(9) == 100


def test_another_consumer_is_caught_up_with_after_a_long_silence() -> None:
    check = RateCheck(100, other=OtherConsumer(rate=99))
    assert check.admit(0.0)
    assert check.admit(100_000.0)
    assert sum(check.admit(100_000.0) for _ in range(100)) <= 1


def test_worst_second_is_a_half_open_window() -> None:
    assert worst_second([]) == 0
    assert worst_second([0.0, 1.0]) == 1
    assert worst_second([0.5, 0.0, 0.999]) == 3


@given(times)
def test_worst_second_agrees_with_counting_from_each_arrival(arrivals: list[float]) -> None:
    counts = [sum(start <= time < start + 1 for time in arrivals) for start in arrivals]
    assert worst_second(arrivals) == max(counts, default=0)
