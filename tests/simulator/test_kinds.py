"""Seeded traffic: each kind has the shape that it says, whatever the seed."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from embedfleet.simulator import kinds
from embedfleet.vocabulary import SettingError

SEEDS = [*kinds.TUNING, *kinds.HELD_OUT]


@cache
def load(kind: str, seed: int) -> kinds.Floats:
    return kinds.load(kind, seed).replicas


@pytest.mark.parametrize("kind", ["step", "lengths"])
def test_equal_seeds_draw_equal_traffic(kind: str) -> None:
    """Text by text."""
    first, again, other = kinds.draw(kind, 3), kinds.draw(kind, 3), kinds.draw(kind, 4)
    assert np.array_equal(first.counts, again.counts)
    assert np.array_equal(first.lengths, again.lengths)
    assert not np.array_equal(first.counts, other.counts)


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_no_two_members_of_a_kind_are_alike(kind: str) -> None:
    """Levels, times and lengths are the seed's, not the kind's alone."""
    for one, other in pairwise(SEEDS):
        assert not np.allclose(load(kind, one), load(kind, other))


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_every_member_fits_the_largest_fleet_of_its_kind(kind: str) -> None:
    """A policy that knew the load beforehand could keep the SLO."""
    for seed in SEEDS:
        drawn = kinds.load(kind, seed)
        assert len(drawn.replicas) == kinds.KINDS[kind].seconds
        assert drawn.replicas.min() >= 0.0
        longer = 1 if drawn.long is None else kinds.LONGER
        assert drawn.replicas.max() * longer < 0.8 * kinds.KINDS[kind].most_replicas


def test_texts_bring_the_load_that_was_drawn() -> None:
    """Noise has a mean of one."""
    flow, drawn = kinds.draw("lengths", 1), kinds.load("lengths", 1)
    assert drawn.long is not None
    expected = (drawn.replicas * np.where(drawn.long, kinds.LONGER, 1)).sum()
    assert flow.tokens.sum() / 16_000 == pytest.approx(expected, rel=0.03)
    assert np.array_equal(flow.tokens, flow.counts @ flow.lengths)


@pytest.mark.parametrize("seed", SEEDS)
class TestShapes:
    def test_a_flash_crowd_is_ten_times_the_traffic_within_half_a_minute(self, seed: int) -> None:
        """Seldom: less than a tenth of the time."""
        found = load("flash", seed)
        assert found.max() == pytest.approx(10.0 * found.min())
        assert (found > 2.0 * found.min()).mean() < 0.1
        begins = int(np.argmax(found > found.min()))
        assert found[begins + 30] == pytest.approx(found.max())

    def test_troughs_outlast_the_scale_down_delay_a_little(self, seed: int) -> None:
        """So that whoever waits ten minutes shrinks just before the next edge."""
        found = load("square-delay", seed)
        edges = np.flatnonzero(np.diff(found))
        troughs = [b - a for a, b in pairwise(edges) if found[a] > found[a + 1]]
        assert all(600 < each < 820 for each in troughs)

    def test_a_square_wave_of_ten_minutes_repeats_itself(self, seed: int) -> None:
        found = load("square-600", seed)
        assert np.array_equal(found[600:], found[:-600])

    def test_silence_lasts_an_hour_and_traffic_comes_back_as_it_was(self, seed: int) -> None:
        found = load("silence", seed)
        assert (found == 0.0).sum() == 3600
        assert found[0] == found[-1] > 0.0

    def test_a_ramp_rises_for_six_hours(self, seed: int) -> None:
        found = load("ramp", seed)
        assert (np.diff(found[: 6 * 3600]) > 0.0).all()
        assert found[-1] == found.max() > 5.0 * found[0]

    def test_a_step_needs_two_hundred_replicas_at_once(self, seed: int) -> None:
        """At nine tenths of their ability or less."""
        found = load("step", seed)
        assert len(np.flatnonzero(np.diff(found))) == 1
        assert 160.0 < found[-1] < 200.0

    def test_longer_texts_come_at_the_same_rate(self, seed: int) -> None:
        """Twenty times the work from one second to the next."""
        drawn = kinds.load("lengths", seed)
        assert drawn.long is not None
        assert drawn.long.any()
        assert np.ptp(drawn.replicas) == 0.0
        assert not drawn.long[0]

    def test_a_nightly_job_comes_every_night_at_its_hour(self, seed: int) -> None:
        """Give or take a minute."""
        found = load("nightly", seed)
        begins = np.flatnonzero(np.diff(found) > 3.0) % 86_400
        assert len(begins) == 3
        assert np.ptp(begins) <= 60

    def test_a_rhythm_breaks_on_the_third_day(self, seed: int) -> None:
        """And what breaks it is more than the difference between two days."""
        first, second, third = np.split(load("broken", seed), 3)
        assert np.abs(second - first).max() < np.abs(third - second).max()


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingError, match='"tides" is unknown; known are day, nightly, flash'):
        kinds.draw("tides", 0)
