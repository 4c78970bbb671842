"""Kubernetes' autoscaler against values computed from its source (v1.33)."""

from __future__ import annotations

import pytest

from embedfleet.autoscaling import Observation
from embedfleet.simulator.rivals.hpa import (
    Behaviour,
    Hpa,
    Limit,
    Rules,
    replicas_for,
    replicas_for_total,
)

TARGET = 80_000


@pytest.mark.parametrize(
    ("metrics", "current", "unready", "missing", "wanted"),
    [
        ([95_000] * 2, 2, 0, 0, 3),
        ([87_000] * 2, 2, 0, 0, 2),  # 1.0875 is within the tolerance
        ([89_000] * 2, 2, 0, 0, 3),
        ([160_000] * 2, 2, 0, 0, 4),
        ([160_000] * 2, 4, 2, 0, 4),  # with two idle ones the ratio becomes 1
        ([100_000] * 2, 3, 1, 0, 3),
        ([240_000] * 2, 3, 1, 0, 6),
        ([240_000] * 2, 4, 0, 2, 6),
        ([30_000] * 2, 3, 0, 1, 2),
        ([20_000] * 3, 4, 0, 1, 2),
        ([40_000] * 4, 4, 0, 0, 2),
    ],
)
def test_metrics_of_pods_give_the_replicas_of_the_source(
    metrics: list[int], current: int, unready: int, missing: int, wanted: int
) -> None:
    """Unready pods idle, missing ones do the least harm, sign flips change nothing."""
    found = replicas_for(metrics, TARGET, current, unready=unready, missing=missing)
    assert found == wanted


def test_a_total_does_not_depend_on_who_is_ready() -> None:
    """AverageValue: 25 units at 10 each are 3; within a tenth nothing changes."""
    assert replicas_for_total(25.0, 10.0, 7) == 3
    assert replicas_for_total(109.0, 10.0, 10) == 10
    assert replicas_for_total(111.0, 10.0, 10) == 12


@pytest.mark.parametrize(("current", "most"), [(2, 6), (10, 20)])
def test_the_default_lets_a_fleet_double_or_grow_by_four(current: int, most: int) -> None:
    """Whichever is more, in 15 seconds."""
    assert Behaviour(1, 100).up_limit(current, 0.0) == most


def test_what_was_added_within_the_period_counts() -> None:
    """From 6 to 10 four seconds ago: 12 is twice what there was."""
    behaviour = Behaviour(1, 100)
    assert behaviour.steadied(6, 10, 0.0) == 10
    assert behaviour.up_limit(10, 4.0) == 12


def test_the_larger_of_two_limits_on_the_way_down() -> None:
    """Four pods or a tenth: 80, 72, 64."""
    rules = Rules(0.0, (Limit("Pods", 4, 60.0), Limit("Percent", 10, 60.0)))
    behaviour = Behaviour(1, 100, down=rules)
    assert behaviour.down_limit(80, 0.0) == 72
    assert behaviour.down_limit(72, 0.0) == 64
    tenth = Behaviour(1, 100, down=Rules(0.0, (Limit("Percent", 10, 60.0),)))
    assert tenth.down_limit(5, 0.0) == 4


def test_the_highest_recommendation_of_five_minutes_counts_on_the_way_down() -> None:
    """And the newest alone on the way up."""
    behaviour = Behaviour(1, 100)
    assert behaviour.steadied(8, 8, 0.0) == 8
    assert behaviour.steadied(8, 3, 290.0) == 8
    assert behaviour.steadied(8, 3, 301.0) == 3


def test_a_replica_that_starts_counts_as_idle_for_a_metric_that_is_not_cpu() -> None:
    """So one that loads its model holds the scale-up back."""
    policy = Hpa(target=0.8)
    alone = Observation(now=0.0, ready=2, utilisation=1.0)
    assert policy.order(alone).planned == 3
    loading = Observation(now=15.0, ready=2, starting=1, utilisation=1.0)
    assert policy.order(loading).planned == 3
    assert policy.order(Observation(now=30.0, ready=3, utilisation=1.0)).planned == 4
