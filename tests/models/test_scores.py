"""Scores as rows of two numbers, and back."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.models.scores import (
    logits_of,
    probabilities_of,
    rows_of_logits,
    rows_of_probabilities,
)


@given(st.lists(st.floats(0, 1), min_size=1))
def test_a_probability_comes_back_from_its_row(chances: list[float]) -> None:
    rows = rows_of_probabilities(np.array(chances))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(probabilities_of(rows), chances, rtol=1e-6, atol=1e-7)


@given(st.lists(st.floats(-60, 60), min_size=1))
def test_a_logit_comes_back_from_its_row(logits: list[float]) -> None:
    rows = rows_of_logits(np.array(logits))
    np.testing.assert_allclose(logits_of(rows), logits, rtol=1e-5, atol=1e-6)


def test_a_logit_and_its_sigmoid_are_the_same_score() -> None:
    logits = np.linspace(-5, 5, 11)
    chances = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(rows_of_logits(logits), rows_of_probabilities(chances), rtol=1e-6)


def test_what_is_no_number_has_no_score() -> None:
    rows = rows_of_logits(np.array([np.nan, np.inf, -np.inf, 0.0]))
    assert np.isnan(rows).all(axis=1).tolist() == [True, True, True, False]
