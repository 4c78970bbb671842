"""Normalises final hidden states to unit vectors.

Engines compute only the pooled row of each text. A row that can't be normalised stays recognisable
as invalid instead of being repaired.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedfleet.vocabulary import Vectors


def unit_rows(states: NDArray[np.float32]) -> Vectors:
    """Rows at length 1, shape [texts, width], float32; squares are summed in float64.

    A row that is not finite, or all zero, comes back as NaN throughout, so that `finite_rows`
    finds it and no caller takes it for a vector.
    """
    wide = states.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        lengths = np.sqrt(np.sum(wide * wide, axis=1, keepdims=True))
        rows = wide / lengths
    rows[~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0))] = np.nan
    vectors: Vectors = rows.astype(np.float32)
    return vectors


def finite_rows(vectors: Vectors) -> NDArray[np.bool_]:
    """Which rows are vectors: every number finite, and not all zero. Shape [texts]."""
    finite = np.isfinite(vectors).all(axis=1)
    return np.asarray(finite & vectors.any(axis=1), dtype=np.bool_)
