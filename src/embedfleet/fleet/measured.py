"""Measured cost of a replica: the cost model that it reports, bounded by what its calls show.

A replica knows its engine best, but nothing makes it report the truth, and dispatch, hedging and
health rely on the figure. The reported model is therefore used only within a band around what was
measured here: the time during which the replica had calls, and the work that it answered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from embedfleet.work import PRIOR, CostModel

BAND = 8.0
"""A claim may be so many times less or more than what is measured. Several gateways that share a
replica, the way to it, and texts that do not fill a batch account for that much."""

WIDENS_S = 10.0
"""The band doubles with so many seconds since the last measurement: what had a bad moment, and got
no texts for it, is believed again after a while."""

MEASUREMENTS = 9
"""The median of so many of the last ones counts, so that one pause of the process does not."""

LEAST_MEASUREMENTS = 3
"""Fewer say nothing: the first batches compile kernels."""

FLOOR = CostModel(1e-6, 1e-9, 0.0)
"""A claim is at least this: a batch in a microsecond, a thousand million tokens a second."""

CEILING_S = 86_400.0
"""And no term of it is more than a day."""

TYPICAL_BATCH = (128,) * 16
"""The batch for which replicas' speeds are compared."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a replica answered, and for how long it had calls meanwhile."""

    batches: int
    tokens: int
    squares: int
    """The sum of the squares of its texts' tokens."""
    seconds: float

    def predicted_s(self, cost: CostModel) -> float:
        return (
            cost.per_batch_s * self.batches
            + cost.per_token_s * self.tokens
            + cost.per_squared_token_s * self.squares
        )


@dataclass(frozen=True, slots=True)
class MeasuredCost:
    """What was measured of one replica lately."""

    works: tuple[Work, ...] = ()
    at: float = -math.inf
    """When the last of them was measured, monotonic seconds."""

    @property
    def known(self) -> bool:
        return len(self.works) >= LEAST_MEASUREMENTS

    def after(self, work: Work, now: float) -> MeasuredCost:
        """With one measurement more."""
        return replace(self, works=(*self.works[1 - MEASUREMENTS :], work), at=now)

    def held(self, claim: CostModel, now: float) -> CostModel:
        """A claim, scaled so far that it lies within the band."""
        cost = sane(claim)
        if not self.known:
            return cost
        factor = median(work.seconds / work.predicted_s(cost) for work in self.works)
        band = BAND * 2.0 ** min((now - self.at) / WIDENS_S, 100.0)
        scale = factor / min(max(factor, 1.0 / band), band)
        return cost if scale == 1.0 else scaled(cost, scale)


def sane(claim: CostModel) -> CostModel:
    """A claim whose terms are numbers that may be calculated with."""
    terms = zip(_terms(claim), _terms(FLOOR), _terms(PRIOR), strict=True)
    return CostModel(
        *(
            prior if math.isnan(term) else min(max(term, floor), CEILING_S)
            for term, floor, prior in terms
        )
    )


def scaled(cost: CostModel, scale: float) -> CostModel:
    return CostModel(*(term * scale for term in _terms(cost)))


def usual(costs: Sequence[CostModel]) -> CostModel | None:
    """The median by the time of a typical batch; None of none."""
    ordered = sorted(costs, key=lambda cost: cost.seconds(TYPICAL_BATCH))
    return ordered[len(ordered) // 2] if ordered else None


def _terms(cost: CostModel) -> tuple[float, float, float]:
    return cost.per_batch_s, cost.per_token_s, cost.per_squared_token_s
