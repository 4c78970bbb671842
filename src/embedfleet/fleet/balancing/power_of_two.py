"""Power of two choices: of two replicas drawn at random, the one with less work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from embedfleet.fleet.balancing.load import Candidate, Load

if TYPE_CHECKING:
    from random import Random


@dataclass(frozen=True, slots=True)
class PowerOfTwo:
    """For many gateways in front of the same replicas: no herd runs to the one that looks best.

    (Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001.)
    """

    affine: ClassVar[bool] = False
    rng: Random

    def pick(self, loads: Sequence[Load], text: Candidate) -> Load | None:
        fitting = [load for load in loads if load.fits(text.tokens, text.now)]
        if not fitting:
            return None
        drawn = self.rng.sample(fitting, k=min(2, len(fitting)))
        return min(drawn, key=lambda load: load.outstanding_s)
