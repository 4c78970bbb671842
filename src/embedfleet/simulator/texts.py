"""Discrete-event simulation: single texts through the production queue, in virtual time.

Events are arrivals, ends of batches, starts and deaths of replicas, and decisions. Deterministic by
seed. `virtual_pool.py` matches texts with replicas; a `Scaler` sets their number.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from itertools import count

import numpy as np

from embedfleet.autoscaling import Arrivals, Observation, ability
from embedfleet.simulator.cluster import Cluster
from embedfleet.simulator.profiles import Profile
from embedfleet.simulator.scalers import Order, Scaler
from embedfleet.simulator.score import Answers, Point, Score, score_of
from embedfleet.simulator.traffic import Trace
from embedfleet.simulator.virtual_pool import Answer, Replica, VirtualPool

FAST_S, SLOW_S, LATELY_S = 10.0, 60.0, 30.0
"""Windows of the rates and of the latencies that policies see."""
MOST_WAIT_S = 900.0
"""So long after the last arrival a run ends; what is not answered by then never is."""
BATCH_S = 0.25
"""A batch that takes this long leaves as much for the wait in an SLO of half a second."""


class _Run:
    """One policy on one trace."""

    def __init__(
        self, trace: Trace, scaler: Scaler, profile: Profile, *, seed: int, balancing: str
    ) -> None:
        self.trace, self.scaler, self.profile = trace, scaler, profile
        self.rng = np.random.default_rng(seed)
        self.cluster = Cluster(profile, self.rng)
        self.pool = VirtualPool(profile, balancing, seed)
        self.arrivals = Arrivals(keep_s=SLOW_S)
        self.wait_s = np.zeros(len(trace.tokens))
        self.latency_s = np.full(len(trace.tokens), math.inf)
        self.lately: deque[tuple[float, float, float]] = deque()
        self.refused = np.zeros(len(trace.tokens), np.bool_)
        self.line: list[Point] = []
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._busy_s = 0.0
        self._standby = 0

    def begin(self, ready: int, standby: int) -> None:
        self.cluster.begin(ready, standby)
        for name in self.cluster.ready:
            self.pool.join(name, 0.0, warm=True)
            self._live(name)
        self._at(self.scaler.period_s, self._decide)

    def run(self) -> None:
        """Run until every text is answered, or `MOST_WAIT_S` after the last arrival."""
        times, tokens = self.trace.arrival_s.tolist(), self.trace.tokens.tolist()
        end = times[-1] + MOST_WAIT_S
        events = self._events
        place, last = 0, len(times)
        while events and (place < last or self.pool.waiting_tokens):
            if place < last and times[place] <= events[0][0]:
                self.now = times[place]
                self._arrive(place, tokens[place])
                place += 1
                continue
            at, _, act = heapq.heappop(events)
            if at > end:
                return
            self.now = at
            act()

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), act))

    def _arrive(self, index: int, tokens: int) -> None:
        self.arrivals.add(tokens, self.now)
        if self.pool.offer(index, tokens, self.now):
            self._match()
        else:
            self.refused[index] = True

    def _match(self) -> None:
        for ends_s, replica in self.pool.match(self.now):
            self._ends(ends_s, replica)

    def _ends(self, ends_s: float, replica: Replica) -> None:
        self._at(ends_s, lambda: self._finish(replica))

    def _finish(self, replica: Replica) -> None:
        if replica.dead:
            return
        answers, ends_s = self.pool.finish(replica, self.now)
        self._note(answers)
        if ends_s is not None:
            self._ends(ends_s, replica)
        elif replica.leaving:
            self._pay()
            self.cluster.gone(replica.name)
        if self.pool.dispatcher.queue.tokens:
            self._match()

    def _note(self, answers: list[Answer]) -> None:
        for answer in answers:
            index = answer.text.number
            self.wait_s[index], self.latency_s[index] = answer.wait_s, answer.latency_s
            self.lately.append((self.now, answer.wait_s, answer.latency_s))

    def _ready(self, name: str) -> None:
        self._pay()
        if self.cluster.arrived(name):
            self.pool.join(name, self.now)
            self._live(name)
            self._match()

    def _live(self, name: str) -> None:
        if math.isfinite(self.profile.life_s):
            death_s = self.now + float(self.rng.exponential(self.profile.life_s))
            self._at(death_s, lambda: self._die(name))

    def _die(self, name: str) -> None:
        """A replica dies; what is ordered stays ordered, so another one starts."""
        if name not in self.cluster.ready:
            return
        self._pay()
        planned = len(self.cluster.ready) + len(self.cluster.starting)
        self.cluster.gone(name)
        self.pool.kill(name, self.now)
        events = self.cluster.events
        self._follow(Order(planned, self._standby))
        self.cluster.events = events
        self._match()

    def _pay(self) -> None:
        self.cluster.advance(min(self.now, self.trace.seconds))

    def _decide(self) -> None:
        self._pay()
        self.pool.refresh()
        seen = self._observe()
        order = self.scaler.order(seen)
        self._standby = order.standby
        self.line.append(
            Point(
                self.now,
                seen.arriving_fast,
                order.planned,
                seen.ready,
                seen.wait_p95_s,
                seen.latency_p99_s,
                order.why,
            )
        )
        self._follow(order)
        self._at(self.now + self.scaler.period_s, self._decide)

    def _follow(self, order: Order) -> None:
        changes = self.cluster.follow(order, self.pool.work_of)
        for member in changes.starting:
            self._at(member.ready_s, lambda name=member.name: self._ready(name))  # type: ignore[misc]
        for name in changes.leaving:
            if self.pool.leave(name):
                self.cluster.gone(name)

    def _observe(self) -> Observation:
        while self.lately and self.lately[0][0] < self.now - LATELY_S:
            self.lately.popleft()
        recent = np.array(self.lately) if self.lately else np.zeros((1, 3))
        ready = len(self.cluster.ready)
        used_s = self.pool.busy_s - self._busy_s
        self._busy_s = self.pool.busy_s
        slow, texts = (
            self.arrivals.tokens_per_s(SLOW_S, self.now),
            self.arrivals.texts_per_s(SLOW_S, self.now),
        )
        length = slow / texts if texts else float(self.trace.tokens[0])
        return Observation(
            now=self.now,
            ready=ready,
            starting=len(self.cluster.starting),
            standby=len(self.cluster.standby),
            arriving_fast=self.arrivals.tokens_per_s(FAST_S, self.now),
            arriving_slow=slow,
            waiting_tokens=self.pool.waiting_tokens,
            tokens_per_s=ability(self.pool.fit.model, length, self.profile.batch_tokens, BATCH_S),
            start_up_s=self.cluster.start_up_s,
            latency_p99_s=float(np.quantile(recent[:, 2], 0.99)),
            wait_p95_s=float(np.quantile(recent[:, 1], 0.95)),
            utilisation=min(1.0, used_s / (max(1, ready) * self.scaler.period_s)),
            texts_per_s=texts,
            texts_fast=self.arrivals.texts_per_s(FAST_S, self.now),
            waiting_texts=self.pool.waiting_texts + self.pool.running_texts,
            queued_texts=self.pool.waiting_texts,
            seconds=self.arrivals.seconds(FAST_S, self.now),
            burstiness=self.arrivals.burstiness(SLOW_S, self.now),
        )

    def answers(self) -> Answers:
        kept = ~self.refused
        return Answers(self.wait_s[kept], self.latency_s[kept], np.ones(int(kept.sum())))


def simulate(
    trace: Trace,
    scaler: Scaler,
    profile: Profile,
    *,
    ready: int,
    standby: int = 0,
    slo_s: float = 0.5,
    seed: int = 0,
    balancing: str = "least-work",
) -> Score:
    """Run one policy; `ready` and `standby` replicas are there at the start."""
    run = _Run(trace, scaler, profile, seed=seed, balancing=balancing)
    run.begin(ready, standby)
    run.run()
    run.now = trace.seconds
    run.cluster.advance(max(run.cluster.now, trace.seconds))
    rejected = int(run.refused.sum())
    return score_of(run, seed, slo_s=slo_s, seconds=trace.seconds, rejected=rejected)
