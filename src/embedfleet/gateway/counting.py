"""From what happened to what is counted.

Decides which label a request or replica is counted under; labels stay bounded whatever callers
send. Refuses to know why anything happened.
"""

from __future__ import annotations

from embedfleet.endpoint import Answered
from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.gateway.dispatch import Dispatcher
from embedfleet.telemetry.metrics import GatewayMetrics
from embedfleet.vocabulary import Lane, Outcome, ReplicaState

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


class PoolCounter:
    """Counts what happens to the texts of one pool."""

    def __init__(self, pool: str, metrics: GatewayMetrics) -> None:
        self._pool = pool
        self._metrics = metrics
        # Looked up once: these are counted for every text.
        self._waits = {lane: metrics.queue_wait.labels(pool, lane.value) for lane in Lane}
        self._ended = {each: metrics.texts.labels(pool, each.value) for each in Outcome}
        self._tokens = metrics.tokens.labels(pool)
        self._hedged = metrics.hedged_texts.labels(pool)
        self._requeued = metrics.requeued_texts.labels(pool)

    def waited(self, lane: Lane, seconds: float) -> None:
        self._waits[lane].observe(seconds)

    def ended(self, outcome: Outcome, texts: int) -> None:
        self._ended[outcome].inc(texts)

    def computed(self, tokens: int) -> None:
        self._tokens.inc(tokens)

    def hedged(self, texts: int) -> None:
        self._hedged.inc(texts)

    def requeued(self, texts: int) -> None:
        self._requeued.inc(texts)

    def observe(self, dispatcher: Dispatcher) -> None:
        """Bring the gauges up to date, just before they are read."""
        metrics = self._metrics
        metrics.queued_texts.labels(self._pool).set(len(dispatcher.queue))
        metrics.queued_tokens.labels(self._pool).set(dispatcher.queue.tokens)
        for load in dispatcher.loads:
            labels = (self._pool, load.replica)
            metrics.outstanding_tokens.labels(*labels).set(load.outstanding_tokens)
            metrics.window_tokens.labels(*labels).set(load.window_tokens)


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
