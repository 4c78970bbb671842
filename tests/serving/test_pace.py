"""How fast a body must come."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.serving import ClientLimits
from embedfleet.serving.pace import BodyPace

LIMITS = ClientLimits(head_bytes=1000, body_s=30.0)


def test_a_body_may_take_as_long_as_its_size_asks_for() -> None:
    """64 MiB over a slow line are no attack."""
    pace = BodyPace(LIMITS)
    pace.begin(100.0)
    assert pace.left_s(100.0) == 30.0
    for second in range(1, 3600):
        pace.arrived(1000, 100.0 + second)
        assert pace.left_s(100.0 + second) > 0


def test_a_body_slower_than_a_thousand_bytes_a_second_comes_to_its_end() -> None:
    """A byte now and then holds no connection open."""
    pace = BodyPace(LIMITS)
    pace.begin(0.0)
    for second in range(31):
        pace.arrived(1, float(second))
    assert pace.left_s(31.0) < 0


@given(st.integers(0, 1 << 30), st.integers(0, 1000))
def test_what_came_fast_gives_no_right_to_a_long_pause(size: int, came: int) -> None:
    """Bytes of a minute do not buy hours."""
    pace = BodyPace(LIMITS)
    pace.begin(0.0)
    pace.arrived(size, came)
    assert pace.left_s(came) <= LIMITS.body_s


def test_the_time_for_which_a_client_is_made_to_wait_is_not_its_own() -> None:
    """It can't send then."""
    pace = BodyPace(LIMITS)
    pace.begin(0.0)
    pace.arrived(10, 20.0)
    pace.pause(21.0)
    before = pace.left_s(21.0)
    assert (pace.left_s(1000.0), pace.paused) == (before, True)
    pace.resume(1000.0)
    assert pace.left_s(1000.0) == pytest.approx(before)


def test_a_body_that_begins_while_its_client_waits_has_all_its_time() -> None:
    """It was sent behind another request."""
    pace = BodyPace(LIMITS)
    pace.pause(0.0)
    pace.begin(50.0)
    pace.resume(90.0)
    assert pace.left_s(90.0) == 30.0


def test_small_chunks_are_a_body_and_endless_trailers_are_none() -> None:
    """More bytes around the body than in it are right, as long as there is some in between."""
    pace = BodyPace(replace(LIMITS, head_bytes=100))
    pace.begin(0.0)
    for _ in range(1000):
        pace.arrived(1, 0.0)
        assert pace.read(90)
    assert pace.read(60)
    assert not pace.read(60)
