"""What replicas cost: their claims, held to what was measured."""

from __future__ import annotations

import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.fleet.balancing import Load
from embedfleet.fleet.fleet import Fleet
from embedfleet.fleet.measured import (
    BAND,
    LEAST_MEASUREMENTS,
    TYPICAL_BATCH,
    WIDENS_S,
    MeasuredCost,
    Work,
    sane,
    usual,
)
from embedfleet.fleet.states import Event
from embedfleet.work import PRIOR, CostModel
from tests.fleet.test_health import DESCRIPTION

ANY = st.one_of(st.floats(), st.just(0.0), st.just(math.inf), st.just(math.nan))
CLAIMS = st.builds(CostModel, ANY, ANY, ANY)
HONEST = st.builds(CostModel, st.floats(1e-5, 1.0), st.floats(1e-7, 1e-2), st.floats(0.0, 1e-6))
BATCHES = st.lists(st.integers(1, 8192), min_size=1, max_size=64)


def work_of(lengths: list[int], cost: CostModel) -> Work:
    squares = sum(length * length for length in lengths)
    return Work(1, sum(lengths), squares, cost.seconds(lengths))


@given(CLAIMS, HONEST, st.lists(BATCHES, min_size=LEAST_MEASUREMENTS, max_size=12))
def test_a_replica_s_claim_counts_within_a_band_around_what_is_measured(
    claim: CostModel, true: CostModel, batches: list[list[int]]
) -> None:
    """Infinitely fast, infinitely slow, or not a number: for the median of its last batches."""
    measured = MeasuredCost()
    for number, lengths in enumerate(batches):
        measured = measured.after(work_of(lengths, true), float(number))
    believed = measured.held(claim, float(len(batches) - 1))
    factors = sorted(work.seconds / work.predicted_s(believed) for work in measured.works)
    middle = factors[len(factors) // 2 - 1 : len(factors) // 2 + 1]
    assert min(middle) <= BAND * 1.001
    assert max(middle) >= 1 / BAND / 1.001
    assert all(0.0 <= term < math.inf for term in (believed.per_batch_s, believed.per_token_s))


@given(HONEST, st.lists(BATCHES, min_size=1, max_size=12), st.floats(0.3, 3.0))
def test_an_honest_claim_is_left_as_it_is(
    true: CostModel, batches: list[list[int]], busy: float
) -> None:
    """Also of a replica that others ask as well, or that is faster than it knows yet."""
    measured = MeasuredCost()
    for lengths in batches:
        work = work_of(lengths, true)
        slower = Work(work.batches, work.tokens, work.squares, work.seconds * busy)
        measured = measured.after(slower, 0.0)
    assert measured.held(true, 0.0) == sane(true)


@given(CLAIMS)
def test_a_description_without_measurements_is_usable(claim: CostModel) -> None:
    cost = MeasuredCost().held(claim, 0.0)
    assert 0.0 < cost.seconds(TYPICAL_BATCH) < math.inf


def test_one_pause_of_a_process_does_not_make_its_replica_slow() -> None:
    """A measurement in the middle of a kill -STOP says nothing of the engine."""
    measured = MeasuredCost()
    for number in range(9):
        work = work_of([100] * 8, PRIOR)
        pause_s = 20.0 if number == 7 else 0.0
        measured = measured.after(
            Work(work.batches, work.tokens, work.squares, work.seconds + pause_s), float(number)
        )
    assert measured.held(PRIOR, 8.0) == PRIOR


def test_what_was_slow_is_believed_again_when_it_is_not_measured_any_more() -> None:
    """It would else get no texts, and never be measured again."""
    measured = MeasuredCost()
    for _ in range(9):
        work = work_of([100], PRIOR)
        measured = measured.after(Work(1, 100, 10_000, work.seconds * 100 * BAND), 0.0)
    assert math.isclose(measured.held(PRIOR, 0.0).per_token_s, 100 * PRIOR.per_token_s)
    assert math.isclose(measured.held(PRIOR, WIDENS_S).per_token_s, 50 * PRIOR.per_token_s)
    assert measured.held(PRIOR, 10 * WIDENS_S) == PRIOR
    assert measured.held(PRIOR, 1e9) == PRIOR


def test_a_load_measures_the_time_in_which_it_has_calls() -> None:
    load = Load("a", 1000, 100)
    load.begin(1.0)
    load.begin(1.5)
    assert load.measured(2.0) is None
    load.frames, load.tokens, load.squares = 1, 10, 100
    load.end(3.0)
    assert load.measured(4.0) == Work(1, 10, 100, 3.0)
    load.frames, load.tokens, load.squares = 2, 10, 100
    load.end(5.0)
    load.begin(7.0)
    assert load.measured(8.0) == Work(2, 10, 100, 2.0)


def test_a_replica_without_measurements_is_assumed_to_be_like_its_peers() -> None:
    """A process that just started claims what any does before its first batch; by that alone it
    would get no texts beside those that know better, and never learn."""
    fleet = Fleet()
    for name, batches in (("old", 1000), ("new", 0), ("gpu", 1000)):
        member = fleet.add(name, f"http://{name}", 0.0)
        member.description = msgspec.structs.replace(
            DESCRIPTION,
            batches=batches,
            cost=(1e-3, 1e-6, 0.0) if batches else (2e-3, 1e-4, 1e-8),
            device="cuda:0" if name == "gpu" else DESCRIPTION.device,
        )
        for event in (Event.ANSWERED, Event.VERIFIED):
            fleet.apply(member, event, 0.0)
    new, old = fleet["new"], fleet["old"]
    assert fleet.cost_of(new, 0.0) == CostModel(2e-3, 1e-4, 1e-8), "nobody was measured yet"
    for member in (old, fleet["gpu"]):
        for _ in range(LEAST_MEASUREMENTS):
            lengths = [10] * 10
            member.measured = member.measured.after(work_of(lengths, member.cost(0.0)), 0.0)
    assert fleet.cost_of(new, 0.0) == old.cost(0.0)
    for _ in range(LEAST_MEASUREMENTS):
        new.measured = new.measured.after(work_of([10], CostModel(2e-3, 1e-4, 1e-8)), 0.0)
    assert fleet.cost_of(new, 0.0) == CostModel(2e-3, 1e-4, 1e-8), "now it was"


def test_the_usual_cost_is_the_median_by_a_typical_batch() -> None:
    costs = [CostModel(0.0, per_token, 0.0) for per_token in (3e-6, 1e-6, 2e-6)]
    assert usual(costs) == costs[2]
    assert usual([]) is None
