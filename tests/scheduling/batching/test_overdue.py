"""An engine that hangs, told from one that is slow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from embedfleet.scheduling.batching.batch_times import (
    HUNG_TIMES,
    MOST_TICK_S,
    TICK_S,
    UNMEASURED_S,
    Ages,
)

FLOOR_S = 30.0


def passed(ages: Ages, now: float, seconds: float) -> float:
    """Time goes by as in a process that is scheduled."""
    for _ in range(round(seconds / TICK_S)):
        now += TICK_S
        ages.advance(now)
    return now


def test_a_batch_that_ends_in_time_does_not_hang() -> None:
    """It is forgotten."""
    ages = Ages(0.0, floor_s=FLOOR_S)
    batch = ages.begin(0.0, 1.0)
    passed(ages, 0.0, FLOOR_S - 1)
    assert (ages.oldest_s, ages.oldest_predicted_s) == (FLOOR_S - 1, 1.0)

    ages.end(batch)
    assert ages.oldest_s is None
    passed(ages, 0.0, 1e3)
    assert ages.hung is None


@given(st.floats(0.0, 600.0))
def test_whatever_hangs_is_found_and_nothing_before_its_time(predicted_s: float) -> None:
    """Ten times what was predicted, and never before the floor."""
    ages, limit = Ages(0.0, floor_s=FLOOR_S), max(FLOOR_S, HUNG_TIMES * predicted_s)
    batch = ages.begin(0.0, predicted_s)
    now = passed(ages, 0.0, limit - 2 * TICK_S)
    assert ages.hung is None

    passed(ages, now, 4 * TICK_S)
    assert ages.hung is batch


def test_before_anything_was_measured_a_batch_may_take_very_long() -> None:
    """It compiles, or the model is large."""
    ages = Ages(0.0, floor_s=FLOOR_S)
    ages.begin(0.0, None)
    now = passed(ages, 0.0, UNMEASURED_S)
    assert ages.hung is None

    passed(ages, now, 1.0)
    assert ages.hung is not None


@given(st.lists(st.floats(0.0, 1e6), max_size=20))
def test_time_in_which_a_process_was_stopped_does_not_count_as_computing(
    stops: list[float],
) -> None:
    """SIGSTOP, a debugger, a machine that slept: each counts as one pause of the clock."""
    ages, now = Ages(0.0, floor_s=FLOOR_S), 0.0
    ages.begin(0.0, 1.0)
    for stopped_s in stops:
        now += stopped_s
        ages.advance(now)

    assert (ages.oldest_s or 0.0) <= MOST_TICK_S * len(stops)
    assert ages.hung is None


def test_batches_before_it_on_the_device_are_part_of_what_is_predicted() -> None:
    """It waits for them; of one that nobody can predict nothing follows."""
    ages = Ages(0.0, floor_s=FLOOR_S)
    assert ages.begin(0.0, 1.0).predicted_s == 1.0
    assert ages.begin(0.0, 2.0).predicted_s == 3.0
    ages.begin(0.0, None)
    assert ages.begin(0.0, 2.0).predicted_s is None
