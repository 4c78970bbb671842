"""Floors and ceilings by weekday and time of day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.autoscaling import parse
from embedfleet.autoscaling.schedule import Bounds, bounds
from embedfleet.vocabulary import SettingError

BERLIN = ZoneInfo("Europe/Berlin")


def hours_held(line: str, first: datetime, hours: int) -> list[int]:
    """How many quarter hours of each hour since `first` (UTC) the window holds."""
    (window,) = parse([line])
    return [
        sum(window.holds(first + timedelta(hours=hour, minutes=15 * part)) for part in range(4))
        for hour in range(hours)
    ]


def test_a_window_holds_on_its_days_in_its_zone() -> None:
    """07:00 in Berlin is 06:00 UTC in winter; Monday counts, Sunday does not."""
    schedule = parse(["mon-fri 07:00-20:00 Europe/Berlin min=4 max=16"])
    monday = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
    assert bounds(schedule, monday) == Bounds(4, 16)
    assert bounds(schedule, monday - timedelta(minutes=1)) == Bounds()
    assert bounds(schedule, monday - timedelta(days=1)) == Bounds()


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_starts() -> None:
    """Saturday 22:00 to Sunday 06:00, and not Sunday night."""
    (window,) = parse(["sat 22:00-06:00 UTC max=2"])
    saturday = datetime(2026, 11, 21, tzinfo=UTC)
    assert not window.holds(saturday + timedelta(hours=5))
    assert window.holds(saturday + timedelta(hours=22))
    assert window.holds(saturday + timedelta(hours=29, minutes=59))
    assert not window.holds(saturday + timedelta(hours=30))
    assert not window.holds(saturday + timedelta(hours=46))


def test_a_whole_day_can_be_meant() -> None:
    """00:00-24:00, and equal times, which go around the clock."""
    day = datetime(2026, 11, 25, tzinfo=UTC)
    assert hours_held("wed 00:00-24:00 UTC max=2", day - timedelta(hours=1), 26) == [
        *(0,),
        *(4 for _ in range(24)),
        *(0,),
    ]
    assert sum(hours_held("wed 08:00-08:00 UTC max=2", day, 48)) == 24 * 4


def test_an_hour_that_the_clock_skips_has_no_moments() -> None:
    """On 29 March 2026 Berlin goes from 02:00 to 03:00: 01:00-04:00 lasts two hours."""
    first = datetime(2026, 3, 28, 23, 0, tzinfo=UTC)
    held = hours_held("sun 01:00-04:00 Europe/Berlin min=3", first, 6)
    assert held == [0, 4, 4, 0, 0, 0]


def test_an_hour_that_the_clock_repeats_counts_twice() -> None:
    """On 25 October 2026 Berlin has 02:00 to 03:00 twice: 01:00-04:00 lasts four hours."""
    first = datetime(2026, 10, 24, 22, 0, tzinfo=UTC)
    held = hours_held("sun 01:00-04:00 Europe/Berlin min=3", first, 7)
    assert held == [0, 4, 4, 4, 4, 0, 0]


def test_floors_hold_early_enough_to_start_replicas() -> None:
    """Also when the window is shorter than the time ahead."""
    schedule = parse(["mon 08:00-08:01 UTC min=9"])
    start = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
    assert bounds(schedule, start - timedelta(seconds=120), 120.0).floor == 9
    assert bounds(schedule, start - timedelta(seconds=240), 120.0).floor == 0
    assert bounds(schedule, start - timedelta(seconds=120), 600.0).floor == 9


def test_a_floor_that_comes_lifts_the_ceiling_that_still_holds() -> None:
    """Otherwise the replicas for the morning could not be started at night."""
    schedule = parse(["mon 00:00-08:00 UTC max=2", "mon 08:00-20:00 UTC min=6"])
    moment = datetime(2026, 11, 23, 7, 59, tzinfo=UTC)
    assert bounds(schedule, moment, 120.0) == Bounds(6, 6)
    assert bounds(schedule, moment) == Bounds(0, 2)


def test_of_several_windows_the_highest_floor_and_the_lowest_ceiling_count() -> None:
    """And a ceiling below a floor gives way to it."""
    schedule = parse(["mon-sun 00:00-24:00 UTC min=2 max=20", "mon 00:00-24:00 UTC min=5 max=9"])
    monday = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert bounds(schedule, monday) == Bounds(5, 9)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("weekdays 07:00-20:00 UTC min=4", '"weekdays" is not a day'),
        ("mon 7:00-20:00 UTC min=4", "does not have the form"),
        ("mon 07:00-20:61 UTC min=4", '"20:61" is not a time of day such as 07:00'),
        ("mon 07:00-25:00 UTC min=4", '"25:00" is not a time of day such as 07:00'),
        ("mon 07:00-20:00 Europe/Atlantis min=4", '"Europe/Atlantis" is not a time zone'),
        ("mon 07:00-20:00 UTC", "has neither min= nor max="),
        ("mon 07:00-20:00 UTC min=9 max=3", "has min=9 above max=3"),
    ],
)
def test_a_line_that_can_not_be_meant_is_refused(line: str, complaint: str) -> None:
    """With what is wrong about it."""
    with pytest.raises(SettingError, match=r"autoscaling\.schedule") as raised:
        parse([line])
    assert complaint in str(raised.value)


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)),  # noqa: DTZ001 - in UTC below
    st.integers(0, 23),
    st.integers(0, 23),
)
def test_a_window_and_its_complement_share_no_moment_and_leave_none_out(
    moment: datetime, start: int, end: int
) -> None:
    """Over midnight, and whatever the clock does."""
    if start == end:
        return
    one, other = parse(
        [
            f"mon-sun {start:02}:00-{end:02}:00 Europe/Berlin min=1",
            f"mon-sun {end:02}:00-{start:02}:00 Europe/Berlin min=1",
        ]
    )
    aware = moment.replace(tzinfo=UTC)
    assert one.holds(aware) != other.holds(aware)
