"""A reranker's scores as rows that travel like embeddings, and back: see `vocabulary.SCORE_WIDTH`.

Probabilities p and logits are float64 of shape [texts]; p is the sigmoid of its logit.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedfleet.vocabulary import Vectors

Numbers: TypeAlias = NDArray[np.float64]

_SMALLEST: Final = 1e-30
"""Of a probability whose root must not be zero: two of them give the logit back."""


def rows_of_probabilities(probabilities: Numbers) -> Vectors:
    """(√(1-p), √p) of each p in [0, 1], [texts, 2]."""
    return _roots(np.stack((1 - probabilities, probabilities), axis=1))


def rows_of_logits(logits: Numbers) -> Vectors:
    """(√(1-p), √p) of each p = sigmoid(logit), [texts, 2]; NaN for logits that are not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        rows = _roots(1 / (1 + np.exp(np.stack((logits, -logits), axis=1))))
    rows[~np.isfinite(logits)] = np.nan
    return rows


def probabilities_of(rows: Vectors) -> Numbers:
    """P of each row, also of those whose length is not quite 1."""
    squares = rows.astype(np.float64) ** 2
    return np.asarray(squares[:, 1] / squares.sum(axis=1))


def logits_of(rows: Vectors) -> Numbers:
    """The logit of each row's p; infinite for p = 0 and p = 1."""
    with np.errstate(divide="ignore"):
        logs = np.log(rows.astype(np.float64))
    return np.asarray(2 * (logs[:, 1] - logs[:, 0]))


def _roots(probabilities: Numbers) -> Vectors:
    return np.sqrt(np.maximum(probabilities, _SMALLEST)).astype(np.float32)
