"""Capacity for a known load."""

from __future__ import annotations

import pytest

from embedfleet.simulator.planning import Demand, plan
from embedfleet.simulator.profiles import Profile
from embedfleet.vocabulary import SettingError

DEMAND = Demand(texts_per_day=50e6, tokens=300, p99_s=0.3)


def test_the_work_of_the_busiest_hour_decides() -> None:
    """50 million texts of 300 tokens, twice that in the peak: 347,222 tokens/s."""
    found = plan(DEMAND, Profile(), cost_per_hour=2.0)
    assert found.replicas * found.tokens_per_s * found.utilisation == pytest.approx(
        347_222, rel=1e-3
    )
    assert found.utilisation <= 0.8
    assert found.latency_p99_s <= 0.3
    assert found.cost_per_month == pytest.approx(found.gpus * 2.0 * 730)


def test_a_tighter_slo_takes_more_replicas() -> None:
    """Smaller batches, shorter waits."""
    sizes = [plan(Demand(5e6, 300, p99_s), Profile()).replicas for p99_s in (1.0, 0.2, 0.1, 0.09)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_one_replica_more_than_needed_may_die() -> None:
    """However small the load."""
    assert plan(Demand(1000, 300, 0.3), Profile()).replicas == 2


def test_an_slo_that_a_single_text_violates_is_refused() -> None:
    """No number of replicas makes one text faster."""
    with pytest.raises(SettingError, match=r"12,000 tokens alone takes 0\.754 s"):
        plan(Demand(1000, 3000, 0.3), Profile())


@pytest.mark.parametrize("change", [(-1.0, 300, 0.3), (1000, 0, 0.3), (1000, 300, float("nan"))])
def test_demands_that_make_no_sense_are_refused(change: tuple[float, float, float]) -> None:
    """By the flag's name."""
    with pytest.raises(SettingError, match="it must be above 0"):
        plan(Demand(*change), Profile())
