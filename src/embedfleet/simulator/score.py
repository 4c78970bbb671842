"""Scores a run: SLO attainment and cost.

A text that was refused or never finished missed the SLO; every replica that exists is paid for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedfleet.simulator.cluster import Cluster
from embedfleet.simulator.scalers import Scaler

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Point:
    """A run at one moment, for plots."""

    at_s: float
    arriving: float
    """Tokens per second."""
    planned: int
    ready: int
    wait_s: float
    p99_s: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """One policy on one trace with one seed."""

    policy: str
    seed: int
    texts: int
    slo_attainment: float
    """Share of all texts that were answered within the SLO."""
    mean_replicas: float
    """Everything that existed, standby and starting ones included, over the trace's duration."""
    replica_hours: float
    wait_p50_s: float
    wait_p99_s: float
    wait_p999_s: float
    """Before computing began."""
    latency_p50_s: float
    latency_p99_s: float
    latency_p999_s: float
    scale_events: int
    rejected: int
    least_hours: float | None = None
    """Of the oracle alone: no schedule keeps its promise with fewer replica-hours."""
    cost: float | None = None
    """Of its replica-hours, where a price is known."""
    line: tuple[Point, ...] = field(default=(), repr=False)

    def as_row(self) -> dict[str, float | int | str | None]:
        """Everything but the time line."""
        row = asdict(self)
        del row["line"]
        return row


@dataclass(frozen=True, slots=True)
class Answers:
    """What became of texts: one entry for each, or for each kind of them with its weight."""

    wait_s: Floats
    latency_s: Floats
    """Infinite for those that never finished."""
    weight: Floats

    def attained(self, slo_s: float) -> float:
        """How many were answered in time."""
        return float(self.weight[self.latency_s <= slo_s].sum())


def quantiles(values: Floats, weights: Floats, shares: tuple[float, ...]) -> list[float]:
    """The smallest values that so large shares of the weight do not exceed."""
    if not len(values):
        return [0.0] * len(shares)
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weights[order])
    places = np.searchsorted(cumulative, np.array(shares) * cumulative[-1])
    return [float(values[order[min(place, len(order) - 1)]]) for place in places]


class Run(Protocol):
    """A simulation that is over, of whatever kind."""

    @property
    def scaler(self) -> Scaler: ...

    @property
    def cluster(self) -> Cluster: ...

    @property
    def line(self) -> list[Point]: ...

    def answers(self) -> Answers: ...


def score_of(run: Run, seed: int, *, slo_s: float, seconds: float, rejected: int = 0) -> Score:
    """How well a run went; `seconds` is how long its traffic lasted."""
    answers, cluster = run.answers(), run.cluster
    texts = float(answers.weight.sum()) + rejected
    shares = (0.5, 0.99, 0.999)
    waits = quantiles(answers.wait_s, answers.weight, shares)
    latencies = quantiles(answers.latency_s, answers.weight, shares)
    return Score(
        policy=run.scaler.name,
        seed=seed,
        texts=round(texts),
        slo_attainment=answers.attained(slo_s) / texts if texts else 1.0,
        mean_replicas=cluster.replica_s / seconds,
        replica_hours=cluster.replica_s / 3600.0,
        wait_p50_s=waits[0],
        wait_p99_s=waits[1],
        wait_p999_s=waits[2],
        latency_p50_s=latencies[0],
        latency_p99_s=latencies[1],
        latency_p999_s=latencies[2],
        scale_events=cluster.events,
        rejected=rejected,
        line=tuple(run.line),
    )
