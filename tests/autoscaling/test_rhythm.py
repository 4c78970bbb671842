"""What is usual at this time of the hour, the day and the week."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from embedfleet.autoscaling import Observation
from embedfleet.autoscaling.rhythm import KEPT, Season, moment, usual

HOUR_S = 3600.0


def watched(rate: Callable[[float], float], periods: float) -> Season:
    """An hourly season after so many hours, looked at every ten seconds."""
    season = Season.empty(HOUR_S, 60.0)
    for step in range(round(periods * 360)):
        season = season.noted(step * 10.0, rate(step * 10.0))
    return season


def test_nothing_is_expected_before_anything_was_seen() -> None:
    """An empty memory asks for no replicas."""
    assert Season.empty(HOUR_S, 60.0).expected(123.0, 60.0) == 0.0


def test_an_edge_is_expected_a_start_up_time_and_a_bucket_before_it_comes() -> None:
    """At twenty past, the hour before as well."""
    season = watched(lambda at: 900.0 if at % HOUR_S >= 1200 else 100.0, 2.0)
    assert season.expected(2 * HOUR_S + 1019, 120.0) == 100.0
    assert season.expected(2 * HOUR_S + 1020, 120.0) == 900.0


def test_what_happened_once_in_three_periods_is_not_usual() -> None:
    """A crowd on the second of three hours."""
    season = watched(lambda at: 900.0 if 3600 <= at < 4200 else 100.0, 3.1)
    assert season.expected(3 * HOUR_S, 60.0) == 100.0


def test_of_levels_that_differ_a_little_the_highest_is_usual() -> None:
    """Half of all periods exceed their median, and each of them would find too few replicas."""
    assert usual([100.0, 120.0, 90.0]) == 120.0
    assert usual([100.0, 900.0, 90.0]) == 100.0
    assert usual([0.0, 0.0, 90.0]) == 0.0
    assert usual([7.0]) == 7.0


def test_a_rhythm_that_ends_is_forgotten_within_two_periods() -> None:
    """Two quiet hours outvote one busy one."""
    season = watched(lambda at: 900.0 if at < 3 * HOUR_S and at % HOUR_S < 600 else 100.0, 5.1)
    assert season.expected(5 * HOUR_S + 900, 2000.0) == 100.0


def test_the_calendar_is_the_pools_own() -> None:
    """Nine in the morning is nine in the morning, summer and winter."""
    saw = Observation(5.0, 1)
    zone = timezone(timedelta(hours=2))
    assert moment(saw) == 5.0
    summer = Observation(5.0, 1, clock=datetime(2026, 7, 1, 9, tzinfo=zone))
    winter = Observation(5.0, 1, clock=datetime(2026, 12, 1, 9, tzinfo=UTC))
    assert moment(summer) % 86_400 == moment(winter) % 86_400 == 9 * 3600


def test_a_clock_that_was_far_ahead_and_is_set_right_is_followed_from_then_on() -> None:
    """A machine that starts with a wrong date gets the right one later."""
    season = Season.empty(HOUR_S, 60.0)
    for step in range(10):
        season = season.noted(1e9 + step * 10.0, 100.0)
    for step in range(720):
        season = season.noted(step * 10.0, 900.0 if step * 10.0 % HOUR_S >= 1200 else 100.0)
    assert season.expected(2 * HOUR_S + 1200, 60.0) == 900.0


def test_an_hour_that_the_clock_repeats_is_not_another_period() -> None:
    """At the end of daylight saving time."""
    season = Season.empty(24 * HOUR_S, 300.0)
    for step in range(360):
        season = season.noted(step * 10.0, 100.0)
    for step in range(360):
        season = season.noted(step * 10.0, 900.0)
    assert all(len(cell) <= 1 for cell in season.cells)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e9)), max_size=30))
def test_memory_is_bounded_and_nothing_is_expected_that_was_never_seen(
    looks: list[tuple[float, float]],
) -> None:
    """Also where the clock jumps to and fro."""
    season = Season.empty(HOUR_S, 60.0)
    for at, rate in looks:
        season = season.noted(at, rate)
    assert len(season.cells) == 60
    assert all(len(cell) <= KEPT for cell in season.cells)
    seen = {rate for _, rate in looks} | {0.0}
    assert season.expected(0.0, 7200.0) in seen
