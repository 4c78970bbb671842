"""The cost model of a batch, the only one in the project, and its online fit.

Predicts how many seconds a batch of texts with known token counts takes on a replica.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias


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


Numbers: TypeAlias = tuple[float, ...]


class CostFit:
    """A cost model that follows measured batches.

    Ridge regression towards the prior, in relative error, with old batches forgotten
    exponentially: a replica whose speed changes is followed within about `memory` batches.
    Coefficients never go below zero.
    """

    def __init__(self, prior: CostModel = PRIOR, *, memory: float = 200.0) -> None:
        self._prior = prior
        self._forget = 1.0 - 1.0 / memory
        # Information matrix (its upper triangle) and vector of the fit of factors on the prior's
        # three terms; the prior counts as one batch in which each term was seen alone. Plain
        # numbers: for so few, NumPy takes ten times as long.
        self._matrix: Numbers = (1.0, 0.0, 0.0, 1.0, 0.0, 1.0)
        self._vector: Numbers = (1.0, 1.0, 1.0)
        self._model = self._usual = prior
        self._whole: Numbers = (0.0, 0.0)
        self._done: Numbers = (0.0, 0.0)
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
        self._longest = max(self._longest, *lengths)
        tokens, squares = whole = done = _sums(lengths)
        if len(shared):
            again = _sums(shared)
            tokens, squares = done = (tokens - again[0], squares - again[1])
        forget, prior = self._forget, self._prior
        self._whole = _followed(forget, self._whole, whole)
        self._done = _followed(forget, self._done, done)
        x = prior.per_batch_s / seconds
        y = prior.per_token_s * tokens / seconds
        z = prior.per_squared_token_s * squares / seconds
        products = (x * x, x * y, x * z, y * y, y * z, z * z)
        self._matrix = _followed(forget, self._matrix, products)
        self._vector = _followed(forget, self._vector, (x, y, z))
        # A trace of the prior stays, so that terms that were never distinguishable remain defined.
        a, b, c, d, e, f = self._matrix
        trace = 1e-6 * (a + d + f)
        matrix = (a + trace, b, c, d + trace, e, f + trace)
        vector = [each + trace for each in self._vector]
        batch, token, squared = _solved(matrix, vector)
        per_batch_s = max(0.0, batch) * prior.per_batch_s
        per_token_s = max(0.0, token) * prior.per_token_s
        per_squared_s = max(0.0, squared) * prior.per_squared_token_s
        self._model = CostModel(per_batch_s, per_token_s, per_squared_s)
        shares = [part / all_ for part, all_ in zip(self._done, self._whole, strict=True)]
        self._usual = CostModel(per_batch_s, per_token_s * shares[0], per_squared_s * shares[1])


def _sums(counts: Sequence[int]) -> tuple[float, float]:
    """The sum of numbers, and of their squares."""
    return float(sum(counts)), float(sum([count * count for count in counts]))


def _followed(forget: float, old: Numbers, new: Numbers) -> Numbers:
    """Sums in which what is older counts less."""
    return tuple([forget * before + now for before, now in zip(old, new, strict=True)])


def _solved(matrix: Numbers, vector: Sequence[float]) -> tuple[float, float, float]:
    """The solution of three equations, whose symmetric matrix is given by its upper triangle and is
    positive definite: elimination without pivoting is stable (Golub & Van Loan, 4.2).
    """
    a, b, c, d, e, f = matrix
    u, v, w = vector
    second, third = b / a, c / a
    d, e, f = d - second * b, e - second * c, f - third * c
    v, w = v - second * u, w - third * u
    last = e / d
    z = (w - last * v) / (f - last * e)
    y = (v - e * z) / d
    return (u - b * y - c * z) / a, y, z
