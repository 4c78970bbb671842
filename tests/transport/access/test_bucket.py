"""Quotas per minute: what is granted, what is not, and when it will be."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from embedfleet.transport.access.bucket import Bucket

QUOTAS = st.integers(1, 10**9)
STEPS = st.lists(st.tuples(st.floats(0, 100), st.integers(1, 10**6)), max_size=50)


def test_a_minutes_quota_may_come_at_once_and_no_more() -> None:
    bucket = Bucket.full(600, now=0)
    assert bucket.take(600, now=0) == 0
    assert bucket.take(1, now=0) > 0


def test_it_fills_steadily_and_never_beyond_a_minutes_quota() -> None:
    bucket = Bucket.full(600, now=0)
    bucket.take(600, now=0)
    assert bucket.remaining(now=1) == 10
    assert bucket.remaining(now=30) == 300
    assert bucket.full_in_s(now=30) == 30
    assert bucket.remaining(now=10_000) == 600
    assert bucket.full_in_s(now=10_000) == 0


def test_what_is_refused_costs_nothing() -> None:
    bucket = Bucket.full(600, now=0)
    bucket.take(590, now=0)
    assert bucket.take(20, now=0) == 1.0
    assert bucket.remaining(now=0) == 10


def test_more_than_a_minutes_quota_is_never_there() -> None:
    assert Bucket.full(600, now=0).take(601, now=0) == math.inf


def test_a_clock_that_goes_back_gives_nothing_and_takes_nothing() -> None:
    bucket = Bucket.full(600, now=100)
    bucket.take(300, now=100)
    assert bucket.remaining(now=50) == 300


def test_another_quota_leaves_what_is_left_as_far_as_it_fits() -> None:
    bucket = Bucket.full(600, now=0)
    bucket.resize(6000, now=0)
    assert bucket.remaining(now=0) == 600
    assert bucket.remaining(now=1) == 700
    bucket.resize(60, now=1)
    assert bucket.remaining(now=1) == 60


@given(QUOTAS, STEPS)
def test_never_is_more_granted_than_the_quota_of_the_time_that_passed(
    per_minute: int, steps: list[tuple[float, int]]
) -> None:
    bucket, now, granted = Bucket.full(per_minute, now=0), 0.0, 0
    for pause, amount in steps:
        now += pause
        if bucket.take(amount, now) == 0:
            granted += amount
    assert granted <= per_minute * (1 + now / 60) + 1e-3


@given(QUOTAS, STEPS, st.integers(1, 10**6))
def test_waiting_as_long_as_reported_suffices(
    per_minute: int, steps: list[tuple[float, int]], amount: int
) -> None:
    bucket, now = Bucket.full(per_minute, now=0), 0.0
    for pause, taken in steps:
        now += pause
        bucket.take(taken, now)
    wait_s = bucket.take(amount, now)
    if amount <= per_minute:
        assert wait_s < 60 + 1e-6
        assert wait_s == 0 or bucket.take(amount, now + wait_s) == 0
    else:
        assert wait_s == math.inf
