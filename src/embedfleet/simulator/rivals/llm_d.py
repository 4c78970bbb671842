"""llm-d's three laws for KEDA and HPA: queue, tokens, SLO (guides/workload-autoscaling, 2026)."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from embedfleet.autoscaling import Observation
from embedfleet.simulator.rivals.hpa import DOWN, UP, Behaviour, Limit, Rules
from embedfleet.simulator.scalers import Order

WORST = 2.0
UP_AT, DOWN_AT = 0.55, 0.40
LOOK_BACK_S = 45.0
SLO_UP = Rules(30.0, (Limit("Percent", 100, 60.0), Limit("Pods", 4, 60.0)))
SLO_DOWN = Rules(180.0, (Limit("Pods", 1, 120.0),))


def by_slo(replicas: int, ready: int, strain: float) -> int:
    """Replicas for a p90 of `strain` times the SLO; those on their way are credited.

    As printed, the credited branch can go below `replicas`; it is held there.
    """
    strain = min(strain, WORST)
    if strain > UP_AT:
        credit = ready / replicas
        more = math.ceil(replicas * (strain * credit / UP_AT - 1.0) - 1e-9)
        return max(replicas, replicas + more)
    if strain < DOWN_AT:
        return replicas - math.floor(replicas * (1.0 - strain / DOWN_AT) + 1e-9)
    return replicas


def guarded(demand: int, replicas: int, pending: int) -> int:
    """The overshoot guard: what is on its way counts as there."""
    return demand if demand <= replicas else max(demand - pending, replicas)


@dataclass(slots=True)
class Queue:
    """One replica for each queued text, or for sixteen that run; the larger."""

    queued: float = 1.0
    running: float = 16.0
    least: int = 2
    most: int = 32
    name: str = "llm-d queue"
    period_s: float = 15.0
    behaviour: Behaviour | None = None

    def order(self, seen: Observation) -> Order:
        if self.behaviour is None:
            self.behaviour = Behaviour(self.least, self.most, UP, DOWN)
        running = seen.waiting_texts - seen.queued_texts
        demand = max(math.ceil(seen.queued_texts / self.queued), math.ceil(running / self.running))
        demand = guarded(demand, seen.planned, seen.starting)
        return Order(self.behaviour.steadied(seen.planned, demand, seen.now))


@dataclass(slots=True)
class Tokens:
    """Tokens in flight against what a replica computes in the wait that is allowed."""

    wait_s: float = 0.2
    least: int = 2
    most: int = 32
    name: str = "llm-d tokens"
    period_s: float = 15.0
    behaviour: Behaviour | None = None

    def order(self, seen: Observation) -> Order:
        if self.behaviour is None:
            self.behaviour = Behaviour(self.least, self.most, UP, DOWN)
        demand = math.ceil(seen.waiting_tokens / seen.tokens_per_s / self.wait_s)
        return Order(self.behaviour.steadied(seen.planned, demand, seen.now))


@dataclass(slots=True)
class Slo:
    """The latency law; fed with the p99 here, which is the promise."""

    slo_s: float = 0.5
    least: int = 2
    most: int = 32
    name: str = "llm-d SLO"
    period_s: float = 15.0
    behaviour: Behaviour | None = None
    _strains: deque[tuple[float, float]] = field(default_factory=deque)

    def order(self, seen: Observation) -> Order:
        if self.behaviour is None:
            self.behaviour = Behaviour(self.least, self.most, SLO_UP, SLO_DOWN)
        while self._strains and self._strains[0][0] <= seen.now - LOOK_BACK_S:
            self._strains.popleft()
        self._strains.append((seen.now, min(WORST, seen.latency_p99_s / self.slo_s)))
        strain = sum(each for _, each in self._strains) / len(self._strains)
        wanted = by_slo(max(1, seen.planned), seen.ready, strain)
        return Order(self.behaviour.steadied(seen.planned, wanted, seen.now))
