"""The cost model of a batch and its fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.work import MEASURED, PRIOR, CostFit, CostModel


def test_seconds_add_up_the_three_terms() -> None:
    """C + a·ΣL + b·ΣL²."""
    model = CostModel(per_batch_s=1.0, per_token_s=0.1, per_squared_token_s=0.01)

    assert model.seconds([3, 4]) == pytest.approx(1.0 + 0.1 * 7 + 0.01 * 25)


def test_tokens_of_unknown_texts_cost_what_short_ones_do() -> None:
    assert CostModel(1.0, 0.1, 10.0).linear_seconds(100) == pytest.approx(11.0)


def test_an_empty_batch_costs_the_constant_term_only() -> None:
    """Launching nothing still launches."""
    assert PRIOR.seconds([]) == PRIOR.per_batch_s


def test_a_fit_starts_from_its_prior() -> None:
    """Before the first batch the prior answers."""
    assert CostFit().model == PRIOR


def test_a_fit_recovers_the_model_that_made_the_measurements() -> None:
    """Batches of one short text to many long ones tell all three coefficients apart."""
    truth = CostModel(per_batch_s=5e-3, per_token_s=6e-5, per_squared_token_s=3e-8)
    rng = np.random.default_rng(0)
    fit = CostFit()
    for _ in range(500):
        lengths = np.exp(rng.uniform(2, 7.6, size=int(np.exp(rng.uniform(0, 4))))).astype(int)
        fit.learn(lengths.tolist(), truth.seconds(lengths) * rng.normal(1.0, 0.02))

    for each in ([16], [32] * 64, [512] * 4, [2000] * 2):
        assert fit.model.seconds(each) == pytest.approx(truth.seconds(each), rel=0.15)


def test_a_fit_follows_a_replica_that_became_slower() -> None:
    """Old batches are forgotten."""
    rng = np.random.default_rng(1)
    fit = CostFit(memory=50)
    for slow in (1.0, 3.0):
        for _ in range(300):
            lengths = rng.integers(8, 500, size=8).tolist()
            fit.learn(lengths, slow * PRIOR.seconds(lengths))

    assert fit.model.seconds([100] * 10) == pytest.approx(3 * PRIOR.seconds([100] * 10), rel=0.1)


def test_a_fit_counts_what_was_computed_of_texts_that_share_their_first_tokens() -> None:
    """Batches of a reranker, beside others, cost what their own rows cost."""
    truth = CostModel(per_batch_s=5e-3, per_token_s=6e-5, per_squared_token_s=3e-8)
    rng = np.random.default_rng(2)
    fit = CostFit()
    tokens, computed = 0, 0
    for turn in range(500):
        lengths = rng.integers(100, 800, size=int(rng.integers(1, 40)))
        shared = np.full_like(lengths, 96 * (turn % 3))
        shared[0] = 0
        own, pairs = (lengths - shared).sum(), (lengths**2 - shared**2).sum()
        seconds = truth.per_batch_s + truth.per_token_s * own + truth.per_squared_token_s * pairs
        fit.learn(lengths.tolist(), float(seconds), shared.tolist())
        tokens, computed = 0.995 * tokens + lengths.sum(), 0.995 * computed + own

    for each in ([200] * 30, [700] * 4):
        assert fit.model.seconds(each) == pytest.approx(truth.seconds(each), rel=0.15)
    # As they come, a token costs less: that is what a gateway has to know.
    share = computed / tokens
    assert fit.usual.per_token_s == pytest.approx(fit.model.per_token_s * share, rel=1e-6)
    assert fit.usual.per_batch_s == fit.model.per_batch_s


def test_without_shared_tokens_texts_cost_the_same_as_they_come() -> None:
    fit = CostFit()
    for _ in range(3):
        fit.learn([10, 20], 1.0)
        fit.learn([30], 2.0, [])
    assert fit.usual == fit.model


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(1, 40_000), min_size=1, max_size=50),
            st.one_of(st.just(float("nan")), st.floats(-1, 1e4)),
        ),
        max_size=30,
    )
)
def test_no_measurement_makes_a_prediction_negative_or_undefined(
    measured: list[tuple[list[int], float]],
) -> None:
    """Clocks that stand still, run backwards or jump do no harm."""
    fit = CostFit()
    for lengths, seconds in measured:
        fit.learn(lengths, seconds)

    assert fit.model.seconds([100, 200]) >= 0.0
    assert np.isfinite(fit.model.seconds([100, 200]))


def test_a_batch_of_longer_texts_than_any_measured_may_take_longer_than_predicted() -> None:
    """Nobody knows the share of attention yet; before enough was measured nobody knows anything."""
    fit = CostFit()
    for _ in range(MEASURED - 1):
        fit.learn([10, 10], 1.0)
    assert fit.bound([10]) is None

    fit.learn([10, 10], 1.0)
    assert fit.bound([10, 10]) == fit.model.seconds([10, 10])
    assert fit.bound([100]) == 10 * fit.model.seconds([100])
