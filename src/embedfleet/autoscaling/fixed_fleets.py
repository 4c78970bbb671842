"""Fleets that exist on paper only and never change, one of each size, on the same traffic. Pure.

They tell how few replicas would have kept the promise in the last hour. That is less than the most
that was needed at any moment of it, which the fleets that follow a stance keep
(`fleets_on_paper.py`): the promise leaves some seconds in each thousand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embedfleet.autoscaling import fleets_on_paper
from embedfleet.autoscaling.signals import Observation, texts_now

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PARTS = 8
"""Parts into which the window is divided."""
SIZES = 48
"""Every size up to that, and so many sizes at most."""
LONGEST_S = 30.0
"""What has waited longer is given up, as callers do: an overload that is over says no more."""


@dataclass(frozen=True, slots=True, eq=False)
class FixedFleets:
    """All sizes, and what they were late with in a sliding window, to an eighth of it."""

    window_s: float
    sizes: Floats
    """Replicas, ascending."""
    backlog: Floats
    """Tokens that wait at each size."""
    late: Floats
    """Texts answered late in each part of the window, shape [parts + 1, sizes]."""
    texts: Floats
    """Texts, shape [parts + 1]."""
    parts: Ints
    """Number of the part of time that each belongs to, likewise."""

    @classmethod
    def begun(cls, window_s: float, most: int) -> FixedFleets:
        """Nothing seen yet; sizes up to `most`."""
        sizes = np.arange(1.0, most + 1.0)
        if most > SIZES:
            sizes = np.unique(np.geomspace(1.0, most, SIZES).round())
        nothing, never = np.zeros(PARTS + 1), np.full(PARTS + 1, np.iinfo(np.int64).min // 2)
        late = np.zeros((PARTS + 1, len(sizes)))
        return cls(window_s, sizes, np.zeros(len(sizes)), late, nothing, never)

    def served(self, seen: Observation, elapsed_s: float, slo_s: float) -> FixedFleets:
        """After so many seconds of this traffic."""
        share, left = fleets_on_paper.queued(self.sizes, self.backlog, seen, elapsed_s, slo_s)
        came, part = texts_now(seen) * elapsed_s, self._part(seen.now)
        place = part % (PARTS + 1)
        late, texts, parts = self.late.copy(), self.texts.copy(), self.parts.copy()
        if parts[place] != part:
            late[place], texts[place], parts[place] = 0.0, 0.0, part
        late[place] += share * came
        texts[place] += came
        left = np.minimum(left, self.sizes * seen.tokens_per_s * LONGEST_S)
        return replace(self, backlog=left, late=late, texts=texts, parts=parts)

    def fewest(self, now: float, share: float) -> int:
        """The fewest replicas that would have answered no larger share of the texts late; the most
        there are where all would have."""
        recent = self.parts >= self._part(now) - PARTS
        enough = self.late[recent].sum(axis=0) <= share * self.texts[recent].sum()
        return int(self.sizes[enough.argmax() if enough.any() else -1])

    def _part(self, now: float) -> int:
        return int(now // (self.window_s / PARTS))
