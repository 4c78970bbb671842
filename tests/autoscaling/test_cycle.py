"""The period of a pool's traffic, found from its history alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.autoscaling.cycle import BUCKET_S, KEPT, LEAST, Cycle, found


def watched(rate: Callable[[float], float], seconds: float, noise: float = 0.0) -> Cycle:
    """What is known after so many seconds, looked at every ten."""
    rng, cycle = np.random.default_rng(1), Cycle()
    for at in np.arange(0.0, seconds, 10.0):
        cycle = cycle.noted(at, rate(at) * rng.lognormal(0.0, noise))
    return cycle


def square(period_s: float) -> Callable[[float], float]:
    return lambda at: 900.0 if at % period_s < period_s * 0.4 else 200.0


def test_nothing_is_expected_before_anything_was_seen() -> None:
    assert Cycle().expected(123.0, 60.0) == 0.0


@settings(max_examples=15, deadline=None)
@given(period_s=st.floats(LEAST * BUCKET_S * 1.2, 7200.0), noise=st.floats(0.0, 0.15))
def test_any_period_from_minutes_to_hours_is_found_once_it_was_seen_three_times(
    period_s: float, noise: float
) -> None:
    """To a bucket, whatever the noise; one that is no whole number of buckets perhaps twice over,
    which foretells the same."""
    cycle = watched(square(period_s), max(1800.0, 3.2 * period_s), noise)
    times = max(1, round(cycle.period_s / period_s))
    assert times <= (1 if period_s > 20 * BUCKET_S else 5)
    assert cycle.period_s == pytest.approx(times * period_s, abs=BUCKET_S)


def test_an_edge_is_expected_a_start_up_time_before_it_comes() -> None:
    cycle = watched(square(1500.0), 9000.0)
    assert cycle.expected(9000.0 + 1500.0 - 70.0, 60.0) == pytest.approx(900.0, rel=0.1)
    assert cycle.expected(9000.0 + 1500.0 - 100.0, 60.0) == pytest.approx(200.0, rel=0.1)


@pytest.mark.parametrize(
    "rate",
    [
        lambda _: 500.0,
        lambda at: 100.0 + at / 10.0,
        lambda at: 100.0 if at < 9000.0 else 900.0,
        lambda at: 500.0 + 300.0 * np.sin(at / 86_400.0 * 6.28),
        lambda at: (
            900.0 if any(0 <= at - each < 400 for each in (900, 5000, 7900, 15_000)) else 99.0
        ),
    ],
    ids=["level", "ramp", "step", "day", "crowds"],
)
def test_traffic_without_a_rhythm_has_none(rate: Callable[[float], float]) -> None:
    """Whatever else it does, with noise on top."""
    assert watched(rate, 18_000.0, noise=0.05).period == 0.0


@pytest.mark.parametrize("period_s", [30.0, 60.0])
def test_multiples_of_a_period_that_no_replica_can_follow_are_no_rhythm(period_s: float) -> None:
    assert watched(square(period_s), 7200.0).period == 0.0


def test_a_rhythm_that_breaks_is_dropped_within_a_period() -> None:
    wave = square(1200.0)
    broken = watched(lambda at: wave(at) if at < 12_000.0 else 900.0, 13_000.0)
    assert (broken.period, broken.expected(13_000.0, 60.0)) == (0.0, 0.0)


def test_a_height_that_grows_from_period_to_period_is_expected_to_go_on_growing() -> None:
    """By as much as the last time, and by no more than periods of one rhythm differ."""

    def growing(at: float) -> float:
        return 900.0 + 60.0 * (at // 1200.0) if at % 1200.0 < 480.0 else 200.0

    for periods in range(4, 9):
        edge = 1200.0 * periods
        expected = watched(growing, edge - 60.0).expected(edge - 60.0, 60.0)
        assert expected == pytest.approx(growing(edge), rel=0.02)


def test_a_crowd_that_came_once_is_not_expected_again() -> None:
    wave = square(1200.0)
    once = watched(lambda at: 5000.0 if 10_900 <= at < 11_000 else wave(at), 12_000.0)
    assert once.expected(12_000.0 + 100.0, 60.0) < 1000.0


def test_time_that_jumps_begins_anew() -> None:
    cycle = watched(square(1200.0), 9000.0)
    assert len(cycle.noted(1e9, 100.0).rates) == 0
    assert len(cycle.noted(0.0, 100.0).rates) == 0


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e9)), max_size=30))
def test_memory_is_bounded_and_nothing_is_expected_that_was_never_seen(
    looks: list[tuple[float, float]],
) -> None:
    cycle = Cycle()
    for at, rate in looks:
        cycle = cycle.noted(at, rate)
    assert len(cycle.rates) <= KEPT
    assert 0.0 <= cycle.expected(0.0, 7200.0) <= max((rate for _, rate in looks), default=0.0)


@given(st.lists(st.floats(0, 1e12), max_size=60))
def test_any_rates_have_a_period_that_fits_into_them_twice_or_none(rates: list[float]) -> None:
    assert 0.0 <= found(np.array(rates)) <= len(rates) / 2
