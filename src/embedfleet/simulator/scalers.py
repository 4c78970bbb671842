"""The scaler interface of the simulator; the production policy and fixed fleets behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedfleet.autoscaling import Experience, Observation, Schedule, decide
from embedfleet.runtime.settings import AutoscalingSettings


@dataclass(frozen=True, slots=True)
class Order:
    """How many replicas there should be from now on."""

    planned: int
    standby: int = 0
    why: str = ""


class Scaler(Protocol):
    """One policy with its memory; made anew for every run."""

    @property
    def name(self) -> str:
        """How it is called in tables."""
        ...

    @property
    def period_s(self) -> float:
        """Seconds between two decisions."""
        ...

    def order(self, seen: Observation) -> Order:
        """Decide for one moment."""
        ...


@dataclass(slots=True)
class Ours:
    """The production policy."""

    settings: AutoscalingSettings
    schedule: Schedule = ()
    name: str = "embedfleet"
    _experience: Experience = field(default_factory=Experience)

    @property
    def period_s(self) -> float:
        return self.settings.tick_s

    def order(self, seen: Observation) -> Order:
        decision, self._experience = decide(seen, self._experience, self.settings, self.schedule)
        return Order(decision.planned, decision.standby, decision.reason)


@dataclass(frozen=True, slots=True)
class Static:
    """A fleet of always the same size."""

    replicas: int
    period_s: float = 60.0

    @property
    def name(self) -> str:
        return f"static {self.replicas}"

    def order(self, seen: Observation) -> Order:  # noqa: ARG002 - it looks at nothing
        return Order(self.replicas)


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A schedule that is known beforehand, as the oracle's: each replica is ordered in time."""

    replicas: NDArray[np.int64]
    """Ready ones, by period."""
    start_s: float
    period_s: float = 5.0
    name: str = "oracle"

    def order(self, seen: Observation) -> Order:
        here = round(seen.now / self.period_s)
        ahead = here + round(self.start_s / self.period_s)
        coming = self.replicas[here : ahead + 1]
        if not len(coming):
            return Order(seen.planned)
        joining = np.maximum(0, np.diff(coming)).sum()
        return Order(int(coming[0] + joining))
