"""How much of the clock a batch is charged with."""

from __future__ import annotations

import pytest

from embedfleet.scheduling.batching.batch_times import Times


def test_a_batch_alone_takes_the_time_it_takes() -> None:
    times = Times()
    span = times.begin(10.0, beside=False)
    assert times.end(span, 12.5) == 2.5
    assert span.tells


def test_a_batch_given_to_a_busy_device_is_charged_from_the_end_of_the_one_before() -> None:
    times = Times()
    first = times.begin(0.0, beside=False)
    second = times.begin(0.5, beside=False)
    assert times.end(first, 2.0) == 2.0
    assert times.end(second, 3.0) == 1.0


def test_a_long_text_is_not_charged_with_those_that_ran_beside_it() -> None:
    times = Times()
    long = times.begin(0.0, beside=True)
    for begun in (1.0, 2.0):
        short = times.begin(begun, beside=False)
        assert times.end(short, begun + 0.25) == 0.25
        assert not short.tells  # it waited for pieces of the long one
    assert times.end(long, 4.0) == pytest.approx(3.5)
    assert long.tells


def test_a_batch_that_began_before_the_long_text_charges_it_with_what_they_shared() -> None:
    times = Times()
    early = times.begin(0.0, beside=False)
    long = times.begin(3.0, beside=True)
    assert times.end(early, 4.0) == 4.0
    assert times.end(long, 10.0) == pytest.approx(6.0)


def test_what_comes_after_the_long_text_tells_again() -> None:
    times = Times()
    times.end(times.begin(0.0, beside=True), 1.0)
    assert times.begin(1.0, beside=False).tells
