"""The cost model of a batch, the only one in the project, and its online fit.

Predicts how many seconds a batch of texts with known token counts takes on a replica.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class CostModel:
    """Seconds of a batch = per_batch + per_token · ΣL + per_token² · ΣL².

    ΣL is what the linear layers cost, ΣL² what attention costs (every token looks at all before
    it), `per_batch` what any forward pass costs: launches, reading the weights.
    """

    per_batch_s: float
    per_token_s: float
    per_squared_token_s: float

    def seconds(self, lengths: Iterable[int]) -> float:
        """Predicted seconds of one batch of texts with these token counts."""
        tokens = squares = 0
        for length in lengths:
            tokens += length
            squares += length * length
        return self.per_batch_s + self.per_token_s * tokens + self.per_squared_token_s * squares

    def linear_seconds(self, tokens: int) -> float:
        """Predicted seconds of `tokens` tokens without the quadratic term of attention, for texts
        that are short or of unknown length.
        """
        return self.per_batch_s + self.per_token_s * tokens


PRIOR = CostModel(per_batch_s=2e-3, per_token_s=1e-4, per_squared_token_s=1e-8)
"""Before anything was measured: a small model on two cores (about 10,000 tokens/s)."""


CLOCK_TICK_S = 1e-7
"""Shorter times are no measurements: clocks that stood still or ran backwards."""


MEASURED = 5
"""After so many batches predictions are worth something: the first ones compile kernels."""


class CostFit:
    """A cost model that follows measured batches.

    Ridge regression towards the prior, in relative error, with old batches forgotten
    exponentially: a replica whose speed changes is followed within about `memory` batches.
    Coefficients never go below zero.
    """

    def __init__(self, prior: CostModel = PRIOR, *, memory: float = 200.0) -> None:
        self._prior = np.array(
            [prior.per_batch_s, prior.per_token_s, prior.per_squared_token_s], np.float64
        )
        self._forget = 1.0 - 1.0 / memory
        # Information matrix and vector of the fit of factors on the prior's three terms; the
        # prior counts as one batch in which each term was seen alone.
        self._matrix: NDArray[np.float64] = np.eye(3)
        self._vector: NDArray[np.float64] = np.ones(3)
        self._model = self._usual = prior
        self._whole = self._done = np.zeros(2)
        self.batches = 0
        """Measured batches that the model was learned from."""
        self._longest = 0

    def bound(self, lengths: Sequence[int]) -> float | None:
        """Seconds within which a batch should end; None before enough batches were measured.

        The prediction, and more for texts longer than any that was measured: of those nobody knows
        the share of attention, and at worst a token's time grows with its text's length.
        """
        if self.batches < MEASURED:
            return None
        return self._model.seconds(lengths) * max(1.0, max(lengths) / self._longest)

    @property
    def model(self) -> CostModel:
        """For texts that are computed whole."""
        return self._model

    @property
    def usual(self) -> CostModel:
        """For texts as they came lately, of whose tokens a part was computed once for several."""
        return self._usual

    def learn(self, lengths: Sequence[int], seconds: float, shared: Sequence[int] = ()) -> None:
        """Take in one measured batch: its texts' token counts and its time in seconds.

        `shared` are the first tokens of each text that were computed as another text's: neither
        they nor what attention finds for them was computed for this one.
        """
        if not CLOCK_TICK_S < seconds < math.inf:
            return
        self.batches += 1
        counts = np.array(lengths, np.float64)
        self._longest = max(self._longest, int(counts.max()))
        whole = np.array([counts.sum(), np.square(counts).sum()])
        done = whole
        if len(shared):
            again = np.array(shared, np.float64)
            done = whole - [again.sum(), np.square(again).sum()]
        self._whole = self._forget * self._whole + whole
        self._done = self._forget * self._done + done
        terms = np.array([1.0, *done]) * self._prior / seconds
        self._matrix = self._forget * self._matrix + np.outer(terms, terms)
        self._vector = self._forget * self._vector + terms
        # A trace of the prior stays, so that terms that were never told apart remain defined.
        trace = 1e-6 * np.trace(self._matrix) * np.eye(3)
        factors = np.linalg.solve(self._matrix + trace, self._vector + np.diag(trace))
        found = np.maximum(factors, 0.0) * self._prior
        self._model = CostModel(*found.tolist())
        found[1:] *= self._done / self._whole
        self._usual = CostModel(*found.tolist())
