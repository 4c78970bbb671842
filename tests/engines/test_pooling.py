"""Hidden states to vectors."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.engines.pooling import finite_rows, unit_rows


@given(st.floats(1e-30, 1e30), st.integers(1, 300))
def test_rows_get_unit_length_whatever_their_scale(scale: float, width: int) -> None:
    rng = np.random.default_rng(width)
    states = (rng.standard_normal((3, width)) + 2).astype(np.float32) * np.float32(scale)
    rows = unit_rows(states)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float64), axis=1), 1, atol=1e-6)
    assert finite_rows(rows).all()


def test_directions_are_kept() -> None:
    np.testing.assert_allclose(unit_rows(np.array([[3, -4]], np.float32)), [[0.6, -0.8]], rtol=1e-7)


def test_what_is_no_vector_stays_recognisable_and_spares_its_neighbours() -> None:
    states = np.array([[1, 0], [np.nan, 1], [np.inf, 1], [0, 0], [0, 2]], np.float32)
    rows = unit_rows(states)
    assert finite_rows(rows).tolist() == [True, False, False, False, True]
    np.testing.assert_array_equal(rows[[0, 4]], [[1, 0], [0, 1]])


def test_a_zero_row_is_no_vector() -> None:
    assert finite_rows(np.array([[0, 0], [0, 1]], np.float32)).tolist() == [False, True]


def test_a_matrix_without_rows_has_no_unit_rows() -> None:
    assert unit_rows(np.zeros((0, 4), np.float32)).shape == (0, 4)
