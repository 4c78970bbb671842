"""Measures how long pods take from being ordered to serving. Pure.

A replica that becomes ready is matched with the oldest open order.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

KEPT = 32
"""Starts that are remembered: enough for a quantile, few enough to follow a change."""
LONGEST_S = 3600.0
"""An order that brought nothing for an hour is forgotten: its pod was taken back, or never came."""


@dataclass(slots=True)
class StartUps:
    """Orders that are open, and how long the last ones took."""

    _open: deque[float] = field(default_factory=deque)
    _took: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def ordered(self, before: int, after: int, now: float) -> None:
        """The number asked for has changed; fewer take the latest orders back."""
        for _ in range(after - before):
            self._open.append(now)
        for _ in range(min(before - after, len(self._open))):
            self._open.pop()

    def ready(self, now: float) -> float | None:
        """A replica got its first traffic; return how long its order took, if it was one."""
        while self._open and self._open[0] < now - LONGEST_S:
            self._open.popleft()
        if not self._open:
            return None
        self._took.append(now - self._open.popleft())
        return self._took[-1]

    @property
    def usual_s(self) -> float:
        """Three of four of the last starts were quicker; NaN before the first."""
        if not self._took:
            return math.nan
        ordered = sorted(self._took)
        return ordered[math.ceil(0.75 * len(ordered)) - 1]
