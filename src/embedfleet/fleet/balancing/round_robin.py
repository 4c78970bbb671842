"""Round robin: one replica after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from embedfleet.fleet.balancing.load import Candidate, Load


@dataclass(slots=True)
class RoundRobin:
    """Skips those that are full."""

    affine: ClassVar[bool] = False
    _turn: int = 0

    def pick(self, loads: Sequence[Load], text: Candidate) -> Load | None:
        for step in range(len(loads)):
            load = loads[(self._turn + step) % len(loads)]
            if load.fits(text.tokens, text.now):
                self._turn = (self._turn + step + 1) % len(loads)
                return load
        return None
