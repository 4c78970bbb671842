"""Ray Serve's autoscaling policy, after `python/ray/serve/autoscaling_policy.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from embedfleet.autoscaling import Observation
from embedfleet.simulator.scalers import Order


def desired(
    replicas: int, ongoing: float, target: float, up_factor: float = 1.0, down_factor: float = 1.0
) -> int:
    """Replicas for so many ongoing requests."""
    if replicas == 0:
        return math.ceil(up_factor) if ongoing else 0
    exact = replicas * ongoing / (target * replicas)
    factor = up_factor if exact > replicas else down_factor
    result = math.ceil(replicas + factor * (exact - replicas) - 1e-9)
    # Rounding up must not keep a fleet that should shrink from ever shrinking.
    if exact < replicas and result == replicas and math.ceil(exact) < replicas:
        result -= 1
    return result


@dataclass(slots=True)
class RayServe:
    """Ongoing requests per replica, with delays that count consecutive decisions."""

    target: float = 2.0
    up_s: float = 30.0
    down_s: float = 600.0
    least: int = 2
    most: int = 32
    name: str = "Ray Serve"
    period_s: float = 1.0
    """Ray decides ten times a second and counts; ten times fewer decisions count a tenth."""
    _count: int = 0

    def order(self, seen: Observation) -> Order:
        wanted = desired(seen.planned, seen.waiting_texts, self.target)
        wanted = max(self.least, min(self.most, wanted))
        if wanted > seen.planned:
            self._count = max(0, self._count) + 1
            if self._count <= self.up_s / self.period_s:
                return Order(seen.planned)
        elif wanted < seen.planned:
            self._count = min(0, self._count) - 1
            if -self._count <= self.down_s / self.period_s:
                return Order(seen.planned)
        self._count = 0
        return Order(wanted)
