"""Kubernetes' Horizontal Pod Autoscaler, version 2.

After `pkg/controller/podautoscaler/replica_calculator.go` and `horizontal.go` (v1.33): integer
arithmetic, tolerance, unready and missing pods, stabilisation windows and rate limits.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from embedfleet.autoscaling import Observation
from embedfleet.simulator.scalers import Order

TOLERANCE = 0.1


def within(ratio: float, tolerance: float = TOLERANCE) -> bool:
    """Whether a ratio is near enough to 1 to change nothing."""
    return 1.0 - tolerance <= ratio <= 1.0 + tolerance


def replicas_for(
    metrics: Sequence[int],
    target: int,
    current: int,
    *,
    unready: int = 0,
    missing: int = 0,
    tolerance: float = TOLERANCE,
) -> int:
    """Pods for a metric per pod, in thousandths (`GetMetricReplicas`).

    `metrics` are those of ready pods; unready and missing ones have none.
    """
    if not metrics:
        return current
    ratio = _ratio(metrics, target)
    up_with_unready = unready > 0 and ratio > 1.0
    if not up_with_unready and not missing:
        return current if within(ratio, tolerance) else math.ceil(ratio * len(metrics))
    filled = list(metrics)
    if missing:
        # Assume the least harm: idle when scaling up, at the target when scaling down.
        filled += [target if ratio < 1.0 else 0] * missing
    if up_with_unready:
        filled += [0] * unready
    again = _ratio(filled, target)
    if within(again, tolerance) or (ratio < 1.0) != (again < 1.0):
        return current
    wanted = math.ceil(again * len(filled))
    if (again < 1.0 and wanted > current) or (again > 1.0 and wanted < current):
        return current
    return wanted


def _ratio(metrics: Sequence[int], target: int) -> float:
    return (sum(metrics) // len(metrics)) / target


def replicas_for_total(
    value: float, target_average: float, current: int, *, tolerance: float = TOLERANCE
) -> int:
    """Pods for an external metric with a target of type AverageValue."""
    if current and within(value / (target_average * current), tolerance):
        return current
    return math.ceil(value / target_average)


@dataclass(frozen=True, slots=True)
class Limit:
    """How fast the number may change: a count or a percentage in a period."""

    kind: Literal["Pods", "Percent"]
    value: int
    period_s: float


@dataclass(frozen=True, slots=True)
class Rules:
    """One direction of `behavior`."""

    window_s: float
    limits: tuple[Limit, ...]
    select: Literal["Max", "Min", "Disabled"] = "Max"


UP = Rules(0.0, (Limit("Percent", 100, 15.0), Limit("Pods", 4, 15.0)))
DOWN = Rules(300.0, (Limit("Percent", 100, 15.0),))
"""Kubernetes' own defaults."""


@dataclass(slots=True)
class Behaviour:
    """Stabilisation and rate limits, with the memory that they need."""

    least: int
    most: int
    up: Rules = UP
    down: Rules = DOWN
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)
    _changes: deque[tuple[float, int]] = field(default_factory=deque)

    def steadied(self, current: int, desired: int, now: float) -> int:
        """Stabilise, then limit, then clip."""
        result = self._limited(current, self._stabilised(current, desired, now), now)
        result = max(self.least, min(self.most, result))
        if result != current:
            self._changes.append((now, result - current))
        return result

    def _stabilised(self, current: int, desired: int, now: float) -> int:
        keep = max(self.up.window_s, self.down.window_s)
        while self._wanted and self._wanted[0][0] < now - keep:
            self._wanted.popleft()
        up = min([desired, *(n for at, n in self._wanted if at > now - self.up.window_s)])
        down = max([desired, *(n for at, n in self._wanted if at > now - self.down.window_s)])
        self._wanted.append((now, desired))
        result = current
        result = max(result, up)
        return min(result, down) if result > down else result

    def _limited(self, current: int, wanted: int, now: float) -> int:
        if wanted > current:
            return min(wanted, self.up_limit(current, now))
        if wanted < current:
            return max(wanted, self.down_limit(current, now))
        return wanted

    def up_limit(self, current: int, now: float) -> int:
        """The most that the policies of `scaleUp` allow now."""
        if self.up.select == "Disabled":
            return current
        limits = [
            start + each.value
            if each.kind == "Pods"
            else math.ceil(start * (1 + each.value / 100) - 1e-9)
            for each in self.up.limits
            for start in [self._start(current, each.period_s, now)]
        ]
        return max(current, max(limits) if self.up.select == "Max" else min(limits))

    def down_limit(self, current: int, now: float) -> int:
        """The least that the policies of `scaleDown` allow now."""
        if self.down.select == "Disabled":
            return current
        limits = [
            start - each.value if each.kind == "Pods" else int(start * (1 - each.value / 100))
            for each in self.down.limits
            for start in [self._start(current, each.period_s, now)]
        ]
        return min(current, min(limits) if self.down.select == "Max" else max(limits))

    def _start(self, current: int, period_s: float, now: float) -> int:
        """How many there were when the period began."""
        return current - sum(by for at, by in self._changes if at > now - period_s)


@dataclass(slots=True)
class Hpa:
    """Scale on GPU utilisation. Starting replicas run and are not Ready; for a metric that is not
    CPU they count as ready and idle, which is how the controller reads them."""

    target: float = 0.8
    least: int = 2
    most: int = 32
    name: str = "HPA utilisation"
    period_s: float = 15.0
    behaviour: Behaviour | None = None

    def order(self, seen: Observation) -> Order:
        if self.behaviour is None:
            self.behaviour = Behaviour(self.least, self.most)
        milli = round(1000 * (0.0 if math.isnan(seen.utilisation) else seen.utilisation))
        metrics = [milli] * seen.ready + [0] * seen.starting
        wanted = replicas_for(metrics, round(1000 * self.target), seen.planned)
        return Order(self.behaviour.steadied(seen.planned, wanted, seen.now))


@dataclass(slots=True)
class HpaRate:
    """Scale on the tokens that arrive, as an external metric of type AverageValue."""

    utilisation: float = 0.7
    least: int = 2
    most: int = 32
    name: str = "HPA token rate"
    period_s: float = 15.0
    behaviour: Behaviour | None = None

    def order(self, seen: Observation) -> Order:
        if self.behaviour is None:
            self.behaviour = Behaviour(self.least, self.most)
        each = self.utilisation * seen.tokens_per_s
        wanted = replicas_for_total(seen.arriving_slow, each, seen.planned)
        return Order(self.behaviour.steadied(seen.planned, wanted, seen.now))
