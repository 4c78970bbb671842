"""AIBrix's APA, after `pkg/controller/podautoscaler/algorithm/apa.go`, as read in August 2026."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from embedfleet.autoscaling import Observation
from embedfleet.simulator.scalers import Order

TOLERANCE = 0.1
RATE = 2.0


def desired(replicas: int, used: float, target: float) -> int:
    """Replicas for a metric's mean per replica."""
    ratio = used / target
    if ratio > 1.0 + TOLERANCE:
        return min(math.ceil(replicas * ratio), math.ceil(RATE * replicas))
    if ratio < 1.0 - TOLERANCE:
        return max(math.ceil(replicas * ratio), math.floor(replicas / RATE))
    return replicas


@dataclass(slots=True)
class Apa:
    """Utilisation with a tolerance and a window before scaling down.

    The window takes the lowest recommendation, not the highest: so it is in the code.
    """

    target: float = 0.7
    down_s: float = 300.0
    least: int = 2
    most: int = 32
    name: str = "AIBrix APA"
    period_s: float = 15.0
    _recent: deque[tuple[float, int]] = field(default_factory=deque)

    def order(self, seen: Observation) -> Order:
        used = 0.0 if math.isnan(seen.utilisation) else seen.utilisation
        used *= seen.ready / max(1, seen.planned)
        wanted = desired(seen.planned, used, self.target)
        while self._recent and self._recent[0][0] <= seen.now - self.down_s:
            self._recent.popleft()
        first = self._recent[0][0] if self._recent else seen.now
        self._recent.append((seen.now, wanted))
        if wanted < seen.planned:
            if seen.now - first < self.down_s - self.period_s:
                return Order(seen.planned)
            wanted = min(count for _, count in self._recent)
        return Order(max(self.least, min(self.most, wanted)))
