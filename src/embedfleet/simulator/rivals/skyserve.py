"""SkyServe's request-rate autoscaler, after `sky/serve/autoscalers.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from embedfleet.autoscaling import Observation
from embedfleet.simulator.scalers import Order


@dataclass(slots=True)
class SkyServe:
    """Texts per second over a minute against what a replica takes; up after 300 s of consecutive
    decisions, down after 1,200 s."""

    utilisation: float = 0.7
    """The rate per replica is set by hand there; here it follows the texts' mean length, so the
    rival always has the right one."""
    up_s: float = 300.0
    down_s: float = 1200.0
    least: int = 2
    most: int = 32
    name: str = "SkyServe"
    period_s: float = 20.0
    _up: int = 0
    _down: int = 0

    def order(self, seen: Observation) -> Order:
        wanted = math.ceil(seen.arriving_slow / (self.utilisation * seen.tokens_per_s))
        wanted = max(self.least, min(self.most, wanted))
        self._up = self._up + 1 if wanted > seen.planned else 0
        self._down = self._down + 1 if wanted < seen.planned else 0
        if self._up >= self.up_s / self.period_s or self._down >= self.down_s / self.period_s:
            self._up = self._down = 0
            return Order(wanted)
        return Order(seen.planned)
