"""What is counted of the texts of one pool."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

from embedfleet.runtime.telemetry.metrics import GatewayMetrics
from embedfleet.scheduling.delivery.dispatch import Dispatcher
from embedfleet.scheduling.texts import Text
from embedfleet.vocabulary import Lane, Outcome

_came = attrgetter("lane", "arrived")


class DeferredCalls:
    """Counts in the next turn of the event loop, all of one turn together.

    What is counted for a text takes a tenth of the time that the text takes, and ten times as long
    where little happens and caches are cold: calls and answers leave first.
    """

    def __init__(self) -> None:
        self._due: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def do(self, count: Callable[..., None], *what: Any) -> None:
        self._due.append((count, what))
        if len(self._due) == 1:
            asyncio.get_running_loop().call_soon(self.now)

    def now(self) -> None:
        """Bring everything up to date."""
        due, self._due = self._due, []
        for count, what in due:
            count(*what)


class PoolCounter:
    """Counts what happens to the texts of one pool."""

    def __init__(self, pool: str, metrics: GatewayMetrics) -> None:
        self._pool = pool
        self._metrics = metrics
        self._later = DeferredCalls()
        # Looked up once: these are counted for every text.
        self._waits = {lane: metrics.queue_wait.labels(pool, lane.value) for lane in Lane}
        self._ended = {each: metrics.texts.labels(pool, each.value) for each in Outcome}
        self._tokens = metrics.tokens.labels(pool)
        self._hedged = metrics.hedged_texts.labels(pool)
        self._requeued = metrics.requeued_texts.labels(pool)
        self._refused = metrics.vectors_refused.labels(pool)
        self._shown: set[str] = set()
        """Replicas that have gauges."""

    def left(self, texts: Iterable[Text], now: float) -> None:
        """Texts have left the queue; those of a request waited equally long."""
        for (lane, arrived), count in Counter(map(_came, texts)).items():
            self._later.do(self._waits[lane].observe, now - arrived, count)

    def ended(self, outcome: Outcome, texts: int) -> None:
        self._later.do(self._ended[outcome].inc, texts)

    def computed(self, tokens: int) -> None:
        self._later.do(self._tokens.inc, tokens)

    def hedged(self, texts: int) -> None:
        self._hedged.inc(texts)

    def requeued(self, texts: int) -> None:
        self._requeued.inc(texts)

    def refused(self, vectors: int) -> None:
        """Vectors that are not finite or not of unit length."""
        self._refused.inc(vectors)

    def observe(self, dispatcher: Dispatcher) -> None:
        """Bring everything up to date, just before it is read."""
        self._later.now()
        metrics = self._metrics
        metrics.queued_texts.labels(self._pool).set(len(dispatcher.queue))
        metrics.queued_tokens.labels(self._pool).set(dispatcher.queue.tokens)
        for load in dispatcher.loads:
            labels = (self._pool, load.replica)
            metrics.outstanding_tokens.labels(*labels).set(load.outstanding_tokens)
            metrics.window_tokens.labels(*labels).set(load.window_tokens)
        usable = {load.replica for load in dispatcher.loads}
        for replica in self._shown - usable:  # a last value would stay for ever
            metrics.outstanding_tokens.remove(self._pool, replica)
            metrics.window_tokens.remove(self._pool, replica)
        self._shown = usable
