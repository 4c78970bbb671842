"""Fleets on paper: what the policy would do with each stance, all at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.autoscaling import Observation, PolicyState, policy
from embedfleet.autoscaling.fleets_on_paper import Fleets, Highest, decided, served
from embedfleet.autoscaling.policy import Level, recent
from embedfleet.autoscaling.stance import Stance
from embedfleet.runtime.settings import AutoscalingSettings

SETTINGS = AutoscalingSettings(min_replicas=2, max_replicas=64)
V = 10_000.0
STANCES = (
    Stance(0.6, 600.0, 3600.0),
    Stance(0.95, 60.0, 360.0),
    Stance(0.8, 1800.0, 3600.0),
)


def traffic(seed: int, hours: float) -> np.ndarray:
    """Levels that jump every ten to forty minutes, with noise, in replicas' worth each 10 s."""
    rng = np.random.default_rng(seed)
    levels: list[float] = []
    while len(levels) < hours * 360:
        levels += [rng.uniform(2.0, 12.0)] * int(rng.uniform(60, 240))
    return np.array(levels[: round(hours * 360)]) * rng.lognormal(0.0, 0.05, round(hours * 360))


def seen(now: float, loads: np.ndarray, place: int, ready: int, starting: int = 0) -> Observation:
    slow = V * float(loads[max(0, place - 5) : place + 1].mean())
    return Observation(
        now=now,
        ready=ready,
        starting=starting,
        arriving_fast=V * float(loads[place]),
        arriving_slow=slow,
        waiting_tokens=0.0,
        tokens_per_s=V,
        start_up_s=60.0,
        texts_per_s=slow / 300.0,
    )


@pytest.mark.parametrize("place", range(len(STANCES)))
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_fleet_on_paper_costs_what_the_policy_orders(place: int, seed: int) -> None:
    """Within a tenth, over two hours, without the first quiet window of a restart."""
    loads = traffic(seed, 2.0)
    fleets = Fleets.begun(STANCES, 12)
    memory, ready, paid = PolicyState(), 12, 0.0
    starting: list[float] = []
    levels: tuple[Level, ...] = ()
    began = round(STANCES[place].delay_s / 10.0) + 1
    for step in range(len(loads)):
        now = step * 10.0
        if step == began:
            fleets = replace(fleets, ready=np.full(3, float(ready + len(starting))), starting=())
            fleets = replace(fleets, replica_s=np.zeros(3))
            paid = 0.0
        ready += sum(at <= now for at in starting)
        starting = [at for at in starting if at > now]
        saw = seen(now, loads, step, ready, len(starting))
        decision, memory = policy.decide(saw, memory, SETTINGS, chosen=STANCES[place])
        more = decision.planned - saw.planned
        starting += [now + 60.0] * max(0, more)
        ready += min(0, more)
        paid += (ready + len(starting)) * 10.0
        levels = recent(levels, saw, SETTINGS)
        fleets = served(fleets, saw, 10.0, 1.0, SETTINGS.slo_s)
        fleets = decided(fleets, saw, levels, np.zeros(3), np.zeros(3), 0, SETTINGS)
    assert fleets.replica_s[place] == pytest.approx(paid, rel=0.1)


@given(
    st.lists(st.tuples(st.floats(0.5, 50.0), st.floats(0.0, 100.0)), min_size=1, max_size=60),
    st.floats(20.0, 1000.0),
)
def test_the_highest_of_a_window_is_that_of_the_window_or_an_eighth_more(
    steps: list[tuple[float, float]], window_s: float
) -> None:
    kept, now, past = Highest.empty(1), 0.0, []
    windows = np.array([window_s])
    for after_s, value in steps:
        now += after_s
        past.append((now, value))
        kept = kept.noted(now, np.array([value]), windows)
        told = kept.highest(now, windows)[0]
        within = [each for at, each in past if at >= now - window_s]
        around = [each for at, each in past if at >= now - window_s * 1.126]
        assert max(within) <= told <= max(around)


def test_late_is_who_comes_while_too_few_are_ready() -> None:
    """A step from 4 to 20 replicas' worth; every fleet has 12 and orders the rest."""
    loads = np.concatenate([np.full(30, 4.0), np.full(60, 20.0)])
    fleets = Fleets.begun(STANCES, 12)
    levels: tuple[Level, ...] = ()
    for step in range(len(loads)):
        saw = seen(step * 10.0, loads, step, 12)
        levels = recent(levels, saw, SETTINGS)
        fleets = served(fleets, saw, 10.0, 1.0, SETTINGS.slo_s)
        fleets = decided(fleets, saw, levels, np.zeros(3), np.zeros(3), 0, SETTINGS)
    late_s = fleets.late * 300.0 / (20.0 * V)
    assert ((late_s > 60.0) & (late_s < 200.0)).all()
    assert (fleets.planned >= 20).all()
    assert (fleets.backlog == 0.0).all()


@given(st.lists(st.floats(0.0, 40.0), min_size=10, max_size=10), st.floats(0.0, 20.0))
def test_a_burst_of_seconds_is_late_on_paper_as_in_a_queue(
    loads: list[float], backlog: float
) -> None:
    """Beside a queue in steps of a hundredth of a second, whose texts are of no length; whatever
    the mean of the ten seconds is."""
    fleets = Fleets.begun(STANCES, 12)
    fleets = replace(fleets, backlog=np.full(3, backlog * V))
    seconds = tuple(V * each for each in loads)
    rate = sum(seconds) / 10.0
    saw = Observation(
        0.0, 12, arriving_fast=rate, arriving_slow=rate, tokens_per_s=V, seconds=seconds
    )
    after = served(replace(fleets, late=np.zeros(3)), saw, 10.0, 1.0, SETTINGS.slo_s)
    left, surely, perhaps = backlog, 0.0, 0.0
    for each in np.repeat(loads, 100):
        left = max(0.0, left + (each - 12.0) / 100.0)
        # Who waits exactly as long as is allowed is late or not by the last digit.
        surely += V * each / 100.0 if left > 12.0 * SETTINGS.slo_s / 2.0 + 1e-6 else 0.0
        perhaps += V * each / 100.0 if left > 12.0 * SETTINGS.slo_s / 2.0 - 1e-6 else 0.0
    tolerance = 0.02 * max(V, V * sum(loads))
    assert after.backlog == pytest.approx(left * V, abs=V / 10.0)
    assert (after.late >= surely - tolerance).all()
    assert (after.late <= perhaps + tolerance).all()


def test_what_is_foreseen_is_ordered_before_it_comes() -> None:
    """By those stances only that foresee."""
    saw = seen(0.0, np.full(6, 3.0), 5, 5)
    levels = recent((), saw, SETTINGS)
    expected = np.array([0.0, 15.0 * V, 0.0])
    fleets = decided(Fleets.begun(STANCES, 5), saw, levels, expected, np.zeros(3), 0, SETTINGS)
    assert fleets.planned.tolist() == [5.0, 16.0, 4.0]


def test_what_would_have_kept_the_promise_is_kept_by_those_that_ask_for_it() -> None:
    """Whatever else traffic needs now."""
    saw = seen(0.0, np.full(6, 3.0), 5, 5)
    levels = recent((), saw, SETTINGS)
    enough = np.array([0.0, 9.0, 0.0])
    fleets = decided(Fleets.begun(STANCES, 5), saw, levels, np.zeros(3), enough, 0, SETTINGS)
    assert fleets.planned.tolist() == [5.0, 9.0, 4.0]
