"""Fluid simulation: a day of millions of texts as a flow of work, under the production policies.

Arrivals are summed over bins of a tenth of a second, and the replicas are one first-come,
first-served stream of capacity. A text's latency is the time until the work before it is done, plus
its batch. A day of 50 million texts takes seconds instead of hours; tests compare the approximation
with `texts.py`, which runs the production queue and balancing text by text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedfleet.autoscaling import Observation, ability
from embedfleet.autoscaling.sliding_windows import LEAST_SECONDS
from embedfleet.simulator.cluster import Cluster
from embedfleet.simulator.profiles import Profile
from embedfleet.simulator.scalers import Scaler
from embedfleet.simulator.score import Answers, Point, Score, quantiles, score_of
from embedfleet.simulator.traffic import Trace

BIN_S = 0.1
"""Finer than any latency that is promised."""
EDGES = np.array([0, 64, 128, 256, 512, 1024, 2048, 3072, 4096, 5120, 6144, 7168, 8192, 2**31])
"""Classes of texts by length."""
NEGLIGIBLE_TOKENS = 1e-3
"""Less work than this is a rounding error."""
MOST_USED = 0.95
"""Batches are counted as if a replica were never busier than this: fewer and fuller ones follow."""
FAST_S, SLOW_S, LATELY_S = 10.0, 60.0, 30.0
"""Windows of the rates and of the latencies that policies see."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Flow:
    """Texts summed by time and length."""

    counts: NDArray[np.int32]
    """Texts, shape [bins, classes]."""
    lengths: Floats
    """Mean token count of each class."""
    tokens: Floats
    """Tokens, shape [bins]."""

    @property
    def seconds(self) -> float:
        return len(self.tokens) * BIN_S

    @classmethod
    def of(cls, parts: Iterable[tuple[Floats, NDArray[np.int64]]], seconds: float) -> Flow:
        """Sum up arrivals (seconds, token counts)."""
        bins = math.ceil(seconds / BIN_S)
        counts = np.zeros((bins, len(EDGES) - 1), np.int32)
        tokens = np.zeros(bins)
        of_class, in_class = np.zeros(len(EDGES) - 1), np.zeros(len(EDGES) - 1)
        for at, lengths in parts:
            place = np.minimum((at / BIN_S).astype(np.int64), bins - 1)
            kind = np.searchsorted(EDGES, lengths, side="left") - 1
            np.add.at(counts, (place, kind), 1)
            tokens += np.bincount(place, lengths, bins)
            of_class += np.bincount(kind, minlength=len(of_class))
            in_class += np.bincount(kind, lengths, len(of_class))
        return cls(counts, in_class / np.maximum(1, of_class), tokens)

    @classmethod
    def of_trace(cls, trace: Trace) -> Flow:
        return cls.of([(trace.arrival_s, trace.tokens)], trace.seconds + BIN_S)


class _Run:
    """One policy on one flow."""

    def __init__(self, flow: Flow, scaler: Scaler, profile: Profile, seed: int) -> None:
        self.flow, self.scaler, self.profile = flow, scaler, profile
        self.cluster = Cluster(profile, np.random.default_rng(seed))
        self.texts = flow.counts.sum(axis=1).astype(np.float64)
        self.arrived = np.concatenate([[0.0], np.cumsum(flow.tokens)])
        self.arrived_texts = np.concatenate([[0.0], np.cumsum(self.texts)])
        self.mean_tokens = self.arrived[-1] / max(1.0, self.arrived_texts[-1])
        self.done = np.zeros(len(self.arrived))
        self.able = np.zeros(len(flow.tokens))
        self.tokens_per_s = profile.most_per_s
        self.ability = ability(profile.cost, self.mean_tokens, profile.batch_tokens, 0.25)
        squares = float((flow.counts.sum(axis=0) * flow.lengths**2).sum())
        self.typical_s = squares / max(1.0, float(self.arrived[-1])) / profile.tokens_per_s
        self.longest_s = longest_batch_s(profile)
        self.line: list[Point] = []
        self._waited = 0
        """The bin after the last at whose end work was left."""
        self._bins_of_a_step = np.arange(1.0, len(flow.tokens) + 1.0)

    def serve(self, first: int, last: int) -> None:
        """Let the ready replicas work through some bins."""
        able = len(self.cluster.ready) * self.tokens_per_s
        self.able[first:last] = able
        arrived = self.arrived[first + 1 : last + 1]
        # As in `served`, from what is done so far.
        steps = self._bins_of_a_step[: last - first] * (able * BIN_S)
        slack = np.minimum.accumulate(arrived - steps)
        np.minimum(slack, self.done[first], out=slack)
        slack += steps
        self.done[first + 1 : last + 1] = slack
        left = np.flatnonzero(arrived - slack > NEGLIGIBLE_TOKENS)
        if len(left):
            self._waited = first + int(left[-1]) + 1

    def observe(self, place: int) -> Observation:
        """What a policy sees at the end of a bin."""
        now, ready = place * BIN_S, len(self.cluster.ready)
        backlog = float(self.arrived[place] - self.done[place])
        lately = slice(max(0, place - round(LATELY_S / BIN_S)), place)
        wait_p95 = wait_p99 = 0.0
        if self._waited > lately.start:
            shares = (0.95, 0.99)
            wait_p95, wait_p99 = quantiles(self._waits(lately), self.texts[lately], shares)
        slow = self._rate(self.arrived, place, SLOW_S)
        used = self._rate(self.done, place, self.scaler.period_s) / max(
            1.0, ready * self.tokens_per_s
        )
        texts_per_s = self._rate(self.arrived_texts, place, SLOW_S)
        busy = self.busy(min(1.0, used), texts_per_s / max(1, ready))
        queued = backlog / max(1.0, self.mean_tokens)
        # What is being computed, by Little's law; long texts weigh more.
        fixed_s = self.profile.per_batch_s / max(0.02, 1.0 - used)
        computing = self._rate(self.arrived, place, 1.0) * (self.typical_s + fixed_s)
        computing = min(computing, ready * self.profile.window_tokens)
        return Observation(
            now=now,
            ready=ready,
            starting=len(self.cluster.starting),
            standby=len(self.cluster.standby),
            arriving_fast=self._rate(self.arrived, place, FAST_S),
            arriving_slow=slow,
            waiting_tokens=backlog + computing,
            tokens_per_s=self.ability,
            start_up_s=self.cluster.start_up_s,
            latency_p99_s=wait_p99 + min(wait_p99, self.longest_s) + self._own_s(),
            wait_p95_s=wait_p95,
            utilisation=busy,
            texts_per_s=texts_per_s,
            texts_fast=self._rate(self.arrived_texts, place, FAST_S),
            waiting_texts=round(queued + computing / max(1.0, self.mean_tokens)),
            queued_texts=round(queued),
            burstiness=self._burstiness(place),
            seconds=self._seconds(place),
        )

    def busy(self, used: float, texts_per_s: float) -> float:
        """Share of the time that a replica computes.

        It starts a batch for each text that finds it idle, and after each batch for all that came
        meanwhile: fewer and fuller batches as load grows.
        """
        batches = texts_per_s / (1.0 + texts_per_s * self.profile.per_batch_s / max(0.02, 1 - used))
        return min(1.0, used + batches * self.profile.per_batch_s)

    def _own_s(self) -> float:
        return self.profile.per_batch_s + float(self.mean_tokens) / self.profile.tokens_per_s

    def _rate(self, cumulative: Floats, place: int, window_s: float) -> float:
        first = max(0, place - round(window_s / BIN_S))
        return float(cumulative[place] - cumulative[first]) / max(BIN_S, (place - first) * BIN_S)

    def _seconds(self, place: int) -> tuple[float, ...]:
        """As `Arrivals.seconds` has it."""
        second = round(1.0 / BIN_S)
        first = max(place % second, place - round(FAST_S / BIN_S))
        return tuple(np.diff(self.arrived[first : place + 1 : second]).tolist())

    def _burstiness(self, place: int) -> float:
        """As `Arrivals.burstiness` has it."""
        second = round(1.0 / BIN_S)
        first = max(place % second, place - round(SLOW_S / BIN_S))
        if place - first < LEAST_SECONDS * second:
            return math.nan
        tokens = np.diff(self.arrived[first : place + 1 : second])
        total = float(self.arrived[place] - self.arrived[first])
        texts = float(self.arrived_texts[place] - self.arrived_texts[first])
        if not total:
            return math.nan
        steps = np.diff(tokens)
        variance = float(steps @ steps) / (2.0 * len(steps))
        return variance / (2.0 * total / len(tokens) * total / texts)

    def _waits(self, bins: slice) -> Floats:
        """Estimated by the replicas there were: the future is not known yet."""
        left = (
            self.arrived[bins.start + 1 : bins.stop + 1] - self.done[bins.start + 1 : bins.stop + 1]
        )
        return np.asarray(left / np.maximum(1.0, self.able[bins]))

    def run(self) -> None:
        """Through the whole flow and until all is done, an hour at most."""
        bins = len(self.flow.tokens)
        place, due = 0, self.scaler.period_s
        while place < bins:
            starting = [each.ready_s for each in self.cluster.starting.values()]
            until = min([due, *starting])
            last = min(bins, max(place + 1, round(until / BIN_S)))
            self.serve(place, last)
            place = last
            now = place * BIN_S
            self.cluster.advance(now)
            for member in list(self.cluster.starting.values()):
                if member.ready_s <= now + 1e-9:
                    self.cluster.arrived(member.name)
            if now + 1e-9 >= due:
                self._decide(place)
                due += self.scaler.period_s

    def _decide(self, place: int) -> None:
        seen = self.observe(place)
        order = self.scaler.order(seen)
        changes = self.cluster.follow(order, lambda _: 0.0)
        for name in changes.leaving:
            self.cluster.gone(name)
        self.line.append(
            Point(
                seen.now,
                seen.arriving_fast,
                order.planned,
                seen.ready,
                seen.wait_p95_s,
                seen.latency_p99_s,
                order.why,
            )
        )

    def answers(self) -> Answers:
        """Waits and latencies in hindsight."""
        return answers(self.flow, self.profile, self.able, self.done)


def served(flow: Flow, able: Floats) -> Floats:
    """Tokens done by the end of each bin, shape [bins + 1], where the fleet is known beforehand.

    `able` are tokens per second by bin. Work done is what was possible, or all that has arrived:
    the least over where the queue was empty last (Lindley's recursion, unrolled).
    """
    possible = np.concatenate([[0.0], np.cumsum(able * BIN_S)])
    arrived = np.concatenate([[0.0], np.cumsum(flow.tokens)])
    return np.asarray(possible + np.minimum.accumulate(arrived - possible))


def answers(flow: Flow, profile: Profile, able: Floats, done: Floats) -> Answers:
    """Waits and latencies by bin and class of length, of work that was `done` by a fleet that was
    `able` to do so much.
    """
    wait_s, fixed_s = _hindsight(flow, profile, able, done)
    own_s = flow.lengths / profile.tokens_per_s
    batch_s = np.minimum(wait_s, longest_batch_s(profile))[:, None]
    latency_s = (wait_s + fixed_s)[:, None] + np.maximum(own_s[None, :], batch_s)
    kept = flow.counts > 0
    waits = np.broadcast_to(wait_s[:, None], kept.shape)
    return Answers(waits[kept], latency_s[kept], flow.counts[kept].astype(np.float64))


def late(flow: Flow, profile: Profile, able: Floats, done: Floats, slo_s: float) -> float:
    """How many of these texts were not answered within the SLO."""
    wait_s, fixed_s = _hindsight(flow, profile, able, done)
    batch_s = np.minimum(wait_s, longest_batch_s(profile))
    missed = 0
    for own_s, counts in zip(flow.lengths / profile.tokens_per_s, flow.counts.T, strict=True):
        missed += int(counts[wait_s + fixed_s + np.maximum(own_s, batch_s) > slo_s].sum())
    return float(missed)


def _hindsight(flow: Flow, profile: Profile, able: Floats, done: Floats) -> tuple[Floats, Floats]:
    """By bin, the wait of a text and what any batch took then, in seconds."""
    bins = len(flow.tokens)
    arrived = np.concatenate([[0.0], np.cumsum(flow.tokens)])
    # What is left at the end is served by the last fleet.
    tail_s = max(0.0, float(arrived[-1] - done[-1])) / max(1.0, able[-1])
    times = np.concatenate([np.arange(bins + 1) * BIN_S, [bins * BIN_S + tail_s + 1e-6]])
    done = np.concatenate([done, [arrived[-1]]])
    middle = (arrived[:-1] + arrived[1:]) / 2
    finished = np.interp(middle, done + np.arange(len(done)) * 1e-6, times)
    wait_s = np.maximum(0.0, finished - (np.arange(bins) + 0.5) * BIN_S)
    used = np.clip(flow.tokens / np.maximum(1e-9, able * BIN_S), 0.0, MOST_USED)
    return np.asarray(wait_s), np.asarray(profile.per_batch_s / (1.0 - used))


def longest_batch_s(profile: Profile) -> float:
    """Seconds that a full batch computes, beside what any batch takes."""
    return profile.batch_tokens / profile.tokens_per_s


def attained(
    flow: Flow, scaler: Scaler, profile: Profile, *, ready: int, slo_s: float = 0.5, seed: int = 0
) -> tuple[float, float]:
    """The share of texts in time and the replica-hours of one policy: `simulate` in half the time
    where nothing else is asked for.
    """
    run = _Run(flow, scaler, profile, seed)
    run.cluster.begin(ready, 0)
    run.run()
    missed = late(flow, profile, run.able, run.done, slo_s)
    return 1.0 - missed / max(1.0, run.arrived_texts[-1]), run.cluster.replica_s / 3600.0


def simulate(
    flow: Flow,
    scaler: Scaler,
    profile: Profile,
    *,
    ready: int,
    standby: int = 0,
    slo_s: float = 0.5,
    seed: int = 0,
) -> Score:
    """Run one policy; `ready` and `standby` replicas are there at the start."""
    run = _Run(flow, scaler, profile, seed)
    run.cluster.begin(ready, standby)
    run.run()
    return score_of(run, seed, slo_s=slo_s, seconds=flow.seconds)
