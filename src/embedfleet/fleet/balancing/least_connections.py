"""Least connections: the replica with the fewest calls in flight, as nginx's `least_conn`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from embedfleet.fleet.balancing.load import Candidate, Load


@dataclass(frozen=True, slots=True)
class LeastConnections:
    """Counts calls, not what is in them: kept for comparison and for those used to it."""

    affine: ClassVar[bool] = False

    def pick(self, loads: Sequence[Load], text: Candidate) -> Load | None:
        fitting = [load for load in loads if load.fits(text.tokens, text.now)]
        return min(fitting, key=lambda load: load.calls, default=None)
