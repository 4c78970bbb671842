"""The clairvoyant: against every schedule there is on tiny traces, and against the simulator."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from embedfleet.runtime.settings import AutoscalingSettings
from embedfleet.simulator import flow, oracle
from embedfleet.simulator.profiles import Profile
from embedfleet.simulator.rivals import RIVALS
from embedfleet.simulator.scalers import Ours, Scaler, Scheduled, Static

PROFILE = Profile(start_s=5.0)


def traffic(levels: list[float], each_s: float, seed: int, tokens: int = 400) -> flow.Flow:
    """So many replicas' worth of texts of two lengths in each part, at random."""
    rng = np.random.default_rng(seed)
    bins = round(each_s / flow.BIN_S)
    rate = np.repeat(levels, bins) * PROFILE.tokens_per_s * flow.BIN_S / tokens / 2.0
    lengths = np.array([0.5, 1.5]) * tokens
    counts = rng.poisson(rate[:, None], (len(rate), 2)).astype(np.int32)
    return flow.Flow(counts, lengths, counts @ lengths)


def cost_s(replicas: tuple[int, ...], start_s: float) -> float:
    """Replica-seconds, those of starting ones included."""
    joined = np.maximum(0, np.diff(replicas)).sum()
    return float(sum(replicas) * oracle.SLOT_S + joined * start_s)


def least_of_all(asked: oracle.Question, slots: int) -> float:
    """The cheapest of all schedules that attain the share. Nobody joins before a start-up time."""
    bins = round(oracle.SLOT_S / flow.BIN_S)
    sizes = range(asked.least, asked.most + 1)
    best = np.inf
    for replicas in product(sizes, repeat=slots):
        if replicas[1] > replicas[0]:
            continue  # at 5 s, where an order of the first tick is not ready before 10 s
        cost = cost_s(replicas, asked.profile.start_s)
        if cost < best:
            able = np.repeat(np.array(replicas) * asked.profile.most_per_s, bins)
            if asked.attained(able) >= asked.share:
                best = cost
    return best


@pytest.mark.parametrize("seed", range(6))
def test_no_schedule_is_cheaper_than_the_bound_and_the_plan_is_one(seed: int) -> None:
    """On traces so short that all schedules can be tried."""
    rng = np.random.default_rng(seed)
    levels = [float(each) for each in rng.uniform(0.2, 2.4, 5)]
    share = float(rng.uniform(0.8, 0.99))
    asked = oracle.Question(
        traffic(levels, oracle.SLOT_S, seed), PROFILE, least=1, most=3, share=share
    )
    try:
        found = oracle.plan(asked)
    except oracle.UnattainableError:
        assert least_of_all(asked, 5) == np.inf
        return
    best = least_of_all(asked, 5)
    assert found.bound_s <= best + 1e-6
    assert best <= found.replica_s + 1e-6
    assert found.attained >= share
    assert found.replica_s == pytest.approx(cost_s(tuple(found.replicas), PROFILE.start_s))


@pytest.mark.parametrize("seed", range(60))
def test_the_plan_of_a_step_is_close_to_the_bound(seed: int) -> None:
    """Also where levels that are rounded hide, at any price, that too many texts are late."""
    rng = np.random.default_rng(seed)
    low, high = rng.uniform(2, 8), rng.uniform(9, 40)
    levels = [low] * int(rng.integers(2, 6)) + [high] * int(rng.integers(3, 20))
    asked = oracle.Question(traffic(levels, oracle.SLOT_S, seed), PROFILE, least=1, most=64)
    found = oracle.plan(asked)
    assert found.attained >= oracle.SHARE
    assert found.bound_s <= found.replica_s < 1.2 * found.bound_s


def scalers() -> list[Scaler]:
    settings = AutoscalingSettings(min_replicas=1, max_replicas=8)
    return [Ours(settings), *(make(1, 8) for make in RIVALS.values())]


@pytest.mark.parametrize("seed", range(2))
def test_every_schedule_of_the_same_attainment_costs_more_than_the_bound(seed: int) -> None:
    """The bound for what each policy attained, itself measured; none of them knows the future."""
    rng = np.random.default_rng(seed)
    arriving = traffic([float(each) for each in rng.uniform(0.3, 4.0, 6)], 60.0, seed)
    profile = Profile(start_s=20.0)
    for scaler in [*scalers(), Static(4)]:
        score = flow.simulate(arriving, scaler, profile, ready=4)
        asked = oracle.Question(arriving, profile, most=8, share=score.slo_attainment)
        assert oracle.plan(asked).bound_s <= 3600.0 * score.replica_hours


def test_the_simulator_confirms_what_a_plan_costs_and_attains() -> None:
    """Carried out by orders, one start-up time before each replica is needed."""
    arriving = traffic([1.0, 4.0, 0.5, 3.0], 60.0, seed=1)
    profile = Profile(start_s=20.0)
    found = oracle.plan(oracle.Question(arriving, profile, most=8))
    carried_out = Scheduled(found.replicas, profile.start_s)
    score = flow.simulate(arriving, carried_out, profile, ready=int(found.replicas[0]))
    assert score.slo_attainment == pytest.approx(found.attained)
    assert 3600.0 * score.replica_hours == pytest.approx(found.replica_s)
    assert score.slo_attainment >= oracle.SHARE
    assert found.bound_s <= found.replica_s < 1.1 * found.bound_s


def test_slow_starts_cost_the_clairvoyant_too() -> None:
    """What it may do with quick starts includes all that it may do with slow ones."""
    arriving = traffic([1.0, 4.0, 1.0, 4.0], 60.0, seed=2)
    quick, slow = (
        oracle.plan(oracle.Question(arriving, Profile(start_s=start_s), most=8))
        for start_s in (10.0, 50.0)
    )
    assert quick.bound_s < slow.bound_s
    assert quick.replica_s < slow.replica_s


class TestFixed:
    def test_the_smallest_fixed_fleet_attains_the_share_and_one_less_does_not(self) -> None:
        arriving = traffic([1.0, 3.0], 60.0, seed=3)
        asked = oracle.Question(arriving, PROFILE)
        count = oracle.fixed(asked)
        score = flow.simulate(arriving, Static(count), PROFILE, ready=count)
        fewer = flow.simulate(arriving, Static(count - 1), PROFILE, ready=count - 1)
        assert score.slo_attainment >= asked.share > fewer.slo_attainment

    def test_a_load_beyond_the_largest_fleet_is_unattainable(self) -> None:
        asked = oracle.Question(traffic([9.0], 60.0, seed=0), PROFILE, most=4)
        with pytest.raises(
            oracle.UnattainableError, match=r"4 replicas all the time answer .* not 99"
        ):
            oracle.plan(asked)

    def test_a_text_that_no_replica_computes_in_time_is_late_in_every_schedule(self) -> None:
        """10,000 tokens take longer than half a second."""
        asked = oracle.Question(traffic([2.0], 60.0, seed=0, tokens=20_000), PROFILE)
        with pytest.raises(oracle.UnattainableError):
            oracle.plan(asked)
