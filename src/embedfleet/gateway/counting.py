"""From what happened to what is counted.

Decides which label a request or replica is counted under; labels stay bounded whatever callers
send. Refuses to know why anything happened.
"""

from __future__ import annotations

from embedfleet.endpoint import Answered
from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.telemetry.metrics import GatewayMetrics
from embedfleet.vocabulary import ReplicaState

NO_POOL = "none"
"""The pool of requests that name no model served here."""


class RequestCounter:
    """Counts requests as they are answered."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics

    def count(self, answered: Answered) -> None:
        pool = answered.model or NO_POOL
        self._metrics.requests.labels(pool, str(answered.status)).inc()
        self._metrics.request_duration.labels(pool).observe(answered.seconds)


class StateGauge:
    """Shows the state of every replica of a fleet."""

    def __init__(self, pool: str, fleet: Fleet, metrics: GatewayMetrics) -> None:
        self._pool = pool
        self._gauge = metrics.replica_state
        fleet.listen(self._follow)

    def _follow(self, member: Member, left: ReplicaState) -> None:
        if left is not ReplicaState.GONE:
            self._gauge.labels(self._pool, member.name, left.value).set(0)
        if member.state is not ReplicaState.GONE:
            self._gauge.labels(self._pool, member.name, member.state.value).set(1)
