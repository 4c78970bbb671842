"""Fleets of every size on paper: how few would have kept the promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.autoscaling import Observation
from embedfleet.autoscaling.fixed_fleets import FixedFleets

V, SLO_S, TICK_S = 10_000.0, 0.5, 10.0


def after(loads: list[float], most: int = 32, window_s: float = 3600.0) -> FixedFleets:
    """What is known after so many ticks of this load, in replicas' worth of work; texts are so
    short that nobody waits while there are enough replicas.
    """
    fixed = FixedFleets.begun(window_s, most)
    for tick, load in enumerate(loads):
        rate = V * load
        saw = Observation(
            TICK_S * tick,
            2,
            arriving_fast=rate,
            arriving_slow=rate,
            tokens_per_s=V,
            texts_fast=rate,
            seconds=(rate,) * 10,
        )
        fixed = fixed.served(saw, TICK_S, SLO_S)
    return fixed


def late_share(loads: list[float], size: int) -> float:
    """The same for one size, in steps of a hundredth of a second."""
    left, late, total = 0.0, 0.0, 0.0
    for load in np.repeat(loads, 1000):
        left = min(max(0.0, left + (load - size) / 100.0), size * 30.0)
        late += load if left > size * SLO_S / 2.0 else 0.0
        total += load
    return late / total if total else 0.0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.5, 12.0), min_size=5, max_size=40), st.sampled_from([0.005, 0.1, 0.3]))
def test_no_fewer_keep_the_promise_and_these_do(loads: list[float], share: float) -> None:
    """Beside a queue, whatever the traffic was; to a part of a second in each tick."""
    found = after(loads).fewest(TICK_S * len(loads), share)
    assert late_share(loads, found) <= share + 0.04
    assert found == 1 or late_share(loads, found - 1) > share - 0.04


@given(st.lists(st.floats(0.0, 30.0), min_size=1, max_size=60))
def test_more_replicas_are_never_later(loads: list[float]) -> None:
    late = after(loads).late.sum(axis=0)
    assert (np.diff(late) <= 1e-6 * max(1.0, late.max())).all()


def test_some_seconds_above_what_there_is_are_within_the_promise() -> None:
    """Ten of an hour's 3,600: none is kept for them. A minute is not."""
    hour = [4.0] * 360
    assert after([*hour[:100], 20.0, *hour[101:]]).fewest(3600.0, 0.02) < 20
    assert after([*hour[:100], *[20.0] * 12, *hour[112:]]).fewest(3600.0, 0.005) >= 19


@pytest.mark.parametrize("before", [8.0, 30.0, 200.0])
def test_a_level_that_is_over_is_forgotten_with_the_window(before: float) -> None:
    """However much too small most sizes were for it."""
    loads = [before] * 400 + [3.0] * 420
    assert after(loads, most=48).fewest(TICK_S * len(loads), 0.005) <= 4


def test_a_level_that_rises_is_followed_before_a_minute_is_over() -> None:
    loads = [3.0] * 360 + [9.0] * 6
    assert after(loads).fewest(TICK_S * len(loads), 0.005) >= 9


def test_large_fleets_are_told_apart_by_tenths() -> None:
    fixed = after([150.0] * 30, most=256)
    assert len(fixed.sizes) <= 48
    assert 150 <= fixed.fewest(300.0, 0.005) <= 170
