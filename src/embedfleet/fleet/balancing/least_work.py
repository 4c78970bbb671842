"""Least token work: the replica that will be done with the text first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from embedfleet.fleet.balancing.load import Candidate, Load


@dataclass(frozen=True, slots=True)
class LeastWork:
    """The default. Work is counted in seconds by each replica's own cost model, so unequal
    replicas share a pool fairly, and a slow one (a processor beside GPUs) takes the overflow:
    it gets a text only if it will be done before the pool would have come to the end of the queue.
    """

    affine: ClassVar[bool] = False

    def pick(self, loads: Sequence[Load], text: Candidate) -> Load | None:
        best, soonest_s, first_s = None, float("inf"), float("inf")
        for load in loads:
            done_s = load.outstanding_s + load.seconds(text.tokens)
            first_s = min(first_s, done_s)
            if done_s < soonest_s and load.fits(text.tokens, text.now):
                best, soonest_s = load, done_s
        return best if soonest_s <= first_s + text.drain_s else None
