"""Weights: shares of the work set by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from embedfleet.fleet.balancing.load import Candidate, Load


@dataclass(frozen=True, slots=True)
class Weighted:
    """The replica with the fewest outstanding tokens for its weight; weight 0 gets nothing."""

    affine: ClassVar[bool] = False

    def pick(self, loads: Sequence[Load], text: Candidate) -> Load | None:
        fitting = [load for load in loads if load.weight > 0 and load.fits(text.tokens, text.now)]
        return min(
            fitting,
            key=lambda load: (load.outstanding_tokens + text.tokens) / load.weight,
            default=None,
        )
