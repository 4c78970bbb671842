"""The rule of the article that embedfleet started from, as written.

One replica more when replicas are busier than 80 % for five minutes, when texts wait longer than
200 ms or when the p99 is above 500 ms; at most once in three minutes. One less when nothing of that
holds and the rest would stay below the ceiling; at most once in ten minutes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from embedfleet.autoscaling import Observation
from embedfleet.simulator.scalers import Order


@dataclass(slots=True)
class Article:
    """Utilisation, wait and p99 with thresholds and two cool-downs."""

    least: int = 2
    most: int = 32
    step: int = 1
    busy: float = 0.8
    busy_for_s: float = 300.0
    wait_s: float = 0.2
    p99_s: float = 0.5
    up_s: float = 180.0
    down_s: float = 600.0
    utilisation_only: bool = False
    name: str = "article"
    period_s: float = 15.0
    _busy_since: float | None = None
    _changed_at: float = -math.inf

    def order(self, seen: Observation) -> Order:
        planned = seen.planned
        since_s = seen.now - self._changed_at
        if self._wants_more(seen):
            if since_s >= self.up_s and planned < self.most:
                planned = min(self.most, planned + self.step)
                self._changed_at = seen.now
        elif since_s >= self.down_s and planned > self.least:
            rest = seen.ready - 1
            if rest > 0 and seen.utilisation * seen.ready / rest < self.busy:
                planned -= 1
                self._changed_at = seen.now
        return Order(max(self.least, planned))

    def _wants_more(self, seen: Observation) -> bool:
        if not seen.utilisation > self.busy:
            self._busy_since = None
        elif self._busy_since is None:
            self._busy_since = seen.now
        busy = self._busy_since is not None and seen.now - self._busy_since >= self.busy_for_s
        late = seen.wait_p95_s > self.wait_s or seen.latency_p99_s > self.p99_s
        return busy or (late and not self.utilisation_only)
