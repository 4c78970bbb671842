"""Knative's pod autoscaler, after `pkg/autoscaler/scaling/autoscaler.go`.

Fed with concurrency there; here with tokens per second, which suits texts of unequal length better,
so the rival is at its best.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from embedfleet.autoscaling import Observation
from embedfleet.simulator.scalers import Order

MOST_UP = 1000.0
MOST_DOWN = 2.0
PANIC_THRESHOLD = 2.0
STABLE_S = 60.0


@dataclass(slots=True)
class Panic:
    """The decider with its two windows."""

    delay_s: float = 0.0
    """Scale-down delay: the highest of so many seconds counts."""
    _panic_at: float | None = None
    _most: int = 0
    _delayed: deque[tuple[float, int]] = field(default_factory=deque)

    def wanted(self, stable: float, panic: float, target: float, ready: int, now: float) -> int:
        """Pods for the averages over the stable and the panic window."""
        pods = max(1, ready)
        most, least = math.ceil(MOST_UP * pods), math.floor(pods / MOST_DOWN)
        by_stable, by_panic = math.ceil(stable / target), math.ceil(panic / target)
        over = by_panic / pods >= PANIC_THRESHOLD
        by_stable = min(max(by_stable, least), most)
        by_panic = min(max(by_panic, least), most)
        if over:
            self._panic_at = now
        elif self._panic_at is not None and self._panic_at + STABLE_S < now:
            self._panic_at, self._most = None, 0
        desired = by_stable
        if self._panic_at is not None:
            self._most = max(self._most, by_stable, by_panic)
            desired = self._most
        return self._late(desired, now)

    def _late(self, desired: int, now: float) -> int:
        if not self.delay_s:
            return desired
        while self._delayed and self._delayed[0][0] <= now - self.delay_s:
            self._delayed.popleft()
        self._delayed.append((now, desired))
        return max(count for _, count in self._delayed)


@dataclass(slots=True)
class Kpa:
    """Tokens per second over 60 s and 6 s (here 10 s, the fast window of the signals)."""

    utilisation: float = 0.7
    delay_s: float = 0.0
    least: int = 2
    most: int = 32
    name: str = "Knative KPA"
    period_s: float = 2.0
    _panic: Panic | None = None

    def order(self, seen: Observation) -> Order:
        if self._panic is None:
            self._panic = Panic(delay_s=self.delay_s)
        target = self.utilisation * seen.tokens_per_s
        wanted = self._panic.wanted(
            seen.arriving_slow, seen.arriving_fast, target, seen.ready, seen.now
        )
        return Order(max(self.least, min(self.most, wanted)))
