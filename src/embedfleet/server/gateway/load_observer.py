"""Observes a pool's load for the autoscaler: arrivals, queue, latency and replica throughput.

Refused texts count as arrivals. Latency covers interactive texts alone, as bulk texts wait by
design. Throughput comes from the replicas' own measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from statistics import mean

from embedfleet.autoscaling import Arrivals, Busy, Latencies, Observation, ability
from embedfleet.fleet.health import LEAST_BATCHES
from embedfleet.runtime.settings import AutoscalingSettings
from embedfleet.scheduling.delivery.pool import Pool
from embedfleet.transport.description import ReplicaDescription
from embedfleet.vocabulary import ReplicaState
from embedfleet.work import CostModel

USUAL_TOKENS = 128.0
"""Length of a text before any came."""


def _unknown() -> float | None:
    return None


class LoadObserver:
    """Watches the texts of a pool; `observe` tells what went by."""

    def __init__(
        self,
        pool: Pool,
        settings: AutoscalingSettings,
        memory_used: Callable[[], float | None] = _unknown,
    ) -> None:
        """`memory_used` tells how full the host is that would take another replica."""
        self.pool = pool
        pool.observer = self
        self._settings = settings
        self._memory_used = memory_used
        self._arrivals = Arrivals(keep_s=settings.slow_window_s)
        self._latencies = Latencies(keep_s=settings.slo_broken_s)
        self._busy = Busy()
        self._length = USUAL_TOKENS
        self._tokens_per_s = math.nan
        self._measured = False
        """Whether that was measured, and is no guess."""

    def asked(self, tokens: int, texts: int, now: float) -> None:
        self._arrivals.add(tokens, now, texts)

    def ended(self, seconds: float, now: float, texts: int, *, left: bool) -> None:
        """Whoever left before the promise was broken says nothing of how long answers take; whoever
        left later waited at least so long."""
        if not left or seconds > self._settings.slo_s:
            self._latencies.add(seconds, now, texts)

    def arriving(self, now: float) -> float:
        """Tokens per second that were asked for lately and no cache knew."""
        return self._arrivals.tokens_per_s(self._settings.fast_window_s, now)

    async def observe(self, now: float) -> Observation:
        """The pool at `now`; how many replicas are on their way, others know."""
        settings, arrivals, pool = self._settings, self._arrivals, self.pool
        ready = [each for each in pool.fleet if each.state is ReplicaState.READY]
        described = {each.name: each.description for each in ready if each.description is not None}
        slow = arrivals.tokens_per_s(settings.slow_window_s, now)
        texts = arrivals.texts_per_s(settings.slow_window_s, now)
        if texts:
            self._length = slow / texts
        self._learn(described.values())
        busy_s = {name: said.busy_s for name, said in described.items() if said.busy_s is not None}
        used = self._memory_used()
        return Observation(
            now=now,
            ready=len(ready),
            arriving_fast=arrivals.tokens_per_s(settings.fast_window_s, now),
            arriving_slow=slow,
            waiting_tokens=pool.waiting_tokens,
            tokens_per_s=self._tokens_per_s,
            latency_p99_s=self._latencies.quantile(0.99, now),
            utilisation=self._busy.share(busy_s, now),
            texts_per_s=texts,
            queued_texts=pool.queued_texts,
            burstiness=arrivals.burstiness(settings.slow_window_s, now),
            memory_used=() if used is None else (used,),
        )

    def _learn(self, described: Collection[ReplicaDescription]) -> None:
        """Take the replicas' ability from those that measured it.

        What a new one says of itself is a guess. It counts while nobody knows better: mixed with
        what is known it would make each growth look like slowness, and order more.
        """
        known = [each for each in described if each.batches >= LEAST_BATCHES]
        if known or (described and not self._measured):
            self._measured = bool(known)
            self._tokens_per_s = mean(map(self._ability, known or described))

    def _ability(self, described: ReplicaDescription) -> float:
        """In batches that leave half of the promised latency for the wait."""
        cost = CostModel(*described.cost)
        return ability(cost, self._length, described.batch_tokens, self._settings.slo_s / 2)
