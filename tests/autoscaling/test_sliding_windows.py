"""What was measured lately."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.autoscaling import Arrivals, Busy, Latencies


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=200), st.integers(1, 100))
def test_a_quantile_is_right_within_its_step(seconds: list[float], percent: int) -> None:
    """Never below the true one, and at most 5 % above."""
    latencies = Latencies()
    for each in seconds:
        latencies.add(each, 10.0)
    true = sorted(seconds)[-(-percent * len(seconds) // 100) - 1]
    assert true * (1 - 1e-9) <= latencies.quantile(percent / 100, 10.0) <= true * 1.0501


def test_a_request_counts_as_often_as_it_has_texts() -> None:
    """The promise is made for texts."""
    latencies = Latencies()
    latencies.add(5.0, 1.0, texts=2)
    latencies.add(0.1, 1.0, texts=98)
    assert latencies.quantile(0.99, 1.0) == pytest.approx(5.0, rel=0.05)
    latencies.add(0.1, 1.0, texts=100)
    assert latencies.quantile(0.99, 1.0) == pytest.approx(0.1, rel=0.05)


def test_what_was_long_ago_is_forgotten_also_where_nothing_came_since() -> None:
    """A pool that idles is not late."""
    latencies = Latencies(keep_s=30.0)
    latencies.add(9.0, 100.0)
    assert latencies.quantile(0.99, 129.0) > 8.0
    assert latencies.quantile(0.99, 131.0) == 0.0


@pytest.mark.parametrize("absurd", [0.0, -3.0, 1e30, math.inf])
def test_absurd_times_are_counted_and_harmless(absurd: float) -> None:
    """Clocks are not to be trusted."""
    latencies = Latencies()
    latencies.add(absurd, 1.0)
    assert 0 < latencies.quantile(0.99, 1.0) < 2e5


def test_busy_is_the_mean_of_the_replicas_over_the_window() -> None:
    """One computed all the time, the other half of it."""
    busy = Busy(keep_s=60.0)
    assert math.isnan(busy.share({"a": 0.0, "b": 10.0}, 0.0))
    assert busy.share({"a": 30.0, "b": 25.0}, 30.0) == pytest.approx(0.75)
    assert busy.share({"a": 30.0, "b": 25.0}, 60.0) == pytest.approx(0.375)
    # The window slides: the first half is over.
    assert busy.share({"a": 30.0, "b": 25.0}, 90.0) == pytest.approx(0.0)


def test_a_replica_that_came_or_was_restarted_meanwhile_is_left_out() -> None:
    """Its counter began anew and would read as negative work."""
    busy = Busy(keep_s=60.0)
    busy.share({"a": 100.0, "b": 0.0}, 0.0)
    assert busy.share({"a": 2.0, "b": 5.0, "c": 9.0}, 10.0) == pytest.approx(0.5)
    assert math.isnan(busy.share({}, 20.0))


def test_seconds_are_told_apart_and_the_one_that_has_begun_is_left_out() -> None:
    """Also those in which nothing came."""
    arrivals = Arrivals()
    assert arrivals.seconds(10.0, 3.0) == ()
    for at, tokens in ((0.2, 100.0), (0.9, 50.0), (3.5, 7.0), (4.1, 9.0)):
        arrivals.add(tokens, at)
    assert arrivals.seconds(10.0, 4.5) == (150.0, 0.0, 0.0, 7.0)
    assert arrivals.seconds(2.0, 4.5) == (0.0, 7.0)


class TestBurstiness:
    def of(self, per_second: list[list[float]]) -> float:
        """Of texts with these tokens, second by second."""
        arrivals = Arrivals(keep_s=600.0)
        for second, lengths in enumerate(per_second):
            for tokens in lengths:
                arrivals.add(tokens, second + 0.5)
        return arrivals.burstiness(600.0, float(len(per_second)))

    def test_texts_of_exponential_lengths_that_come_at_random_have_one(self) -> None:
        rng = np.random.default_rng(3)
        texts = [list(rng.exponential(200.0, count)) for count in rng.poisson(30.0, 600)]
        assert self.of(texts) == pytest.approx(1.0, abs=0.15)

    def test_equal_texts_have_half_of_it(self) -> None:
        rng = np.random.default_rng(4)
        texts = [[200.0] * count for count in rng.poisson(30.0, 600)]
        assert self.of(texts) == pytest.approx(0.5, abs=0.1)

    def test_bursts_have_more_and_a_level_that_rises_has_not(self) -> None:
        rng = np.random.default_rng(5)
        bursts = [[200.0] * (150 if rng.random() < 0.2 else 0) for _ in range(600)]
        assert self.of(bursts) > 20.0
        rising = [[200.0] * rng.poisson(30.0 + second / 10.0) for second in range(600)]
        assert self.of(rising) == pytest.approx(0.5, abs=0.15)

    def test_it_is_unknown_after_a_few_seconds_and_without_texts(self) -> None:
        assert math.isnan(self.of([[200.0]] * 5))
        assert math.isnan(self.of([[]] * 600))
