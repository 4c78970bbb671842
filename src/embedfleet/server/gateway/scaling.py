"""The autoscalers of a gateway and what they observe, one for each pool whose replicas it starts.

Connects each scaler with the pool's observations, its target, and the metrics of its decisions.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from statistics import mean
from urllib.parse import quote

from embedfleet.autoscaling import (
    Arrivals,
    Busy,
    Entry,
    Experience,
    Latencies,
    Mode,
    Observation,
    ObservationSource,
    Scaler,
    Target,
    ability,
    learned,
    recording,
)
from embedfleet.fleet.health import LEAST_BATCHES
from embedfleet.runtime.background import cancelled
from embedfleet.runtime.folders import LocalStore
from embedfleet.runtime.settings import AutoscalingSettings
from embedfleet.runtime.telemetry.metrics import GatewayMetrics
from embedfleet.scheduling.delivery.pool import Pool
from embedfleet.transport.description import ReplicaDescription
from embedfleet.vocabulary import CallerError, ReplicaState
from embedfleet.work import CostModel

log = logging.getLogger(__name__)

TERMS = (
    "minimum",
    "schedule",
    "traffic",
    "surge",
    "trend",
    "rhythm",
    "promise",
    "reserve",
    "peak",
    "backlog",
    "slo",
    "utilisation",
)
"""All terms of a decision."""
HOLDS = ("held", "memory", "pace", "quiet", "restart", "safety")
"""All reasons for which a decision may not follow its winning term."""

USUAL_TOKENS = 128.0
"""Assumed length of a text before any arrived."""

SAVED_EVERY_S = 300.0
"""How much learning a crash may lose."""


def _unknown() -> float | None:
    return None


class LoadObserver:
    """Observes a pool's load: arrivals, queue, latency and throughput.

    Refused texts count as arrivals. Latency covers interactive texts alone, as bulk texts wait by
    design. Throughput comes from the replicas' own measurements.
    """

    def __init__(
        self,
        pool: Pool,
        settings: AutoscalingSettings,
        memory_used: Callable[[], float | None] = _unknown,
    ) -> None:
        """`memory_used` returns the memory in use on the host that starts replicas, as a share."""
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
        """Whether that was measured rather than guessed."""

    def asked(self, tokens: int, texts: int, now: float) -> None:
        self._arrivals.add(tokens, now, texts)

    def ended(self, seconds: float, now: float, texts: int, *, left: bool) -> None:
        """A client that left before the SLO was violated tells nothing about latency; one that left
        later waited at least that long."""
        if not left or seconds > self._settings.slo_s:
            self._latencies.add(seconds, now, texts)

    def arriving(self, now: float) -> float:
        """Tokens per second that arrived recently and were not cached."""
        return self._arrivals.tokens_per_s(self._settings.fast_window_s, now)

    async def observe(self, now: float) -> Observation:
        """The observation at `now`, without the number of planned replicas."""
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
            texts_fast=arrivals.texts_per_s(settings.fast_window_s, now),
            queued_texts=pool.queued_texts,
            seconds=arrivals.seconds(settings.fast_window_s, now),
            burstiness=arrivals.burstiness(settings.slow_window_s, now),
            memory_used=() if used is None else (used,),
        )

    def _learn(self, described: Collection[ReplicaDescription]) -> None:
        """Take the throughput of replicas from those that have measured it.

        A new replica's own figure is a guess and counts only while there is no other: mixed with
        measured ones it would look like a slowdown at each growth, and order more replicas.
        """
        known = [each for each in described if each.batches >= LEAST_BATCHES]
        if known or (described and not self._measured):
            self._measured = bool(known)
            self._tokens_per_s = mean(map(self._ability, known or described))

    def _ability(self, described: ReplicaDescription) -> float:
        """Throughput in batches that leave half of the SLO's latency for waiting."""
        cost = CostModel(*described.cost)
        return ability(cost, self._length, described.batch_tokens, self._settings.slo_s / 2)


class Scaling:
    """The observers of all pools, and the scalers of those that are scaled here."""

    def __init__(self, settings: AutoscalingSettings, metrics: GatewayMetrics) -> None:
        self.settings = settings
        folder = settings.state_directory
        self._folder = None if folder is None else LocalStore(Path(folder), alone=False)
        self.observers: dict[str, LoadObserver] = {}
        """What this process sees."""
        self.wholes: dict[str, ObservationSource] = {}
        """Sources summed over all processes of this gateway, if there are several."""
        self.scalers: dict[str, Scaler] = {}
        self.recorded: dict[str, deque[bytes]] = {}
        """The last observations of each scaled pool, as lines of a recording."""
        self._metrics = metrics

    def whole(self, pool: str) -> ObservationSource:
        """The observation source of a pool over all processes of this gateway."""
        return self.wholes.get(pool) or self.observers[pool]

    def see(self, pool: Pool, memory_used: Callable[[], float | None]) -> LoadObserver:
        """Start to observe a pool."""
        observer = self.observers[pool.name] = LoadObserver(pool, self.settings, memory_used)
        return observer

    def scaler(
        self, pool: str, target: Target, observer: ObservationSource | None = None
    ) -> Scaler:
        """Create the scaler of a pool, replacing the previous one; `observer` defaults to the
        pool's own.

        Raises SettingError if the schedule is invalid.
        """
        counter = ScalingCounter(pool, self.settings.max_replicas, self._metrics)
        recorded = self.recorded[pool] = deque(maxlen=recording.REMEMBERED)
        run = secrets.token_hex(8)

        def decided(entry: Entry) -> None:
            counter.count(entry)
            recorded.append(recording.line(entry, run))

        scaler = Scaler(
            pool, observer or self.whole(pool), target, self.settings, on_decision=decided
        )
        self.scalers[pool] = scaler
        return scaler

    async def run(self, scaler: Scaler) -> None:
        """Run a pool's scaler until cancelled; persists what it learns if configured."""
        if self._folder is None:
            return await scaler.run()
        memory = LearnedFile(self._folder, scaler.pool)
        scaler.experience = await asyncio.to_thread(memory.read)
        saving = asyncio.create_task(memory.keep(scaler))
        try:
            await scaler.run()
        finally:
            await cancelled(saving)
            memory.write(scaler.experience)

    def find(self, pool: str | None) -> Scaler:
        """A pool's scaler by name, or the only one. Raises CallerError if there is none."""
        if pool is None and len(self.scalers) == 1:
            return next(iter(self.scalers.values()))
        if not self.scalers:
            raise CallerError(
                "no pool is autoscaled here; enable it with `serve --min-replicas N "
                "--max-replicas M`, or autoscaling.enabled = true"
            )
        if pool is None or pool not in self.scalers:
            named = "" if pool is None else f"no pool {pool} is scaled here: "
            raise CallerError(f"{named}name one of {', '.join(self.scalers)}", param="pool")
        return self.scalers[pool]

    async def observations(self) -> Mapping[str, Observation]:
        """This gateway's observation of each pool, for aggregation over several gateways."""
        now = time.monotonic()
        return {name: await self.whole(name).observe(now) for name in self.observers}


class LearnedFile:
    """The file that keeps what one pool's traffic has taught. A file that is missing, damaged or
    can't be written costs what was learned, never the autoscaler."""

    def __init__(self, folder: LocalStore, pool: str) -> None:
        self._folder = folder
        self._name = f"{quote(pool, safe='')}.json"
        self._trouble = ""

    def read(self) -> Experience:
        """What was kept; a fresh experience, and a warning, where it can't be read."""
        try:
            with self._folder.open(self._name) as file:
                experience = learned.restored(file.read(learned.MOST_BYTES + 1))
        except FileNotFoundError:
            return Experience()
        except (OSError, learned.LearnedError) as error:
            log.warning("%s can't be used; autoscaling learns from scratch: %s", self._path, error)
            return Experience()
        log.info("autoscaling resumes with what it has learned (%s)", self._path)
        return experience

    async def keep(self, scaler: Scaler) -> None:
        """Write what a scaler has learned so far every few minutes, until cancelled."""
        while True:
            await asyncio.sleep(SAVED_EVERY_S)
            await asyncio.to_thread(self.write, scaler.experience)

    def write(self, experience: Experience) -> None:
        """Keep an experience; warn where that fails, once for each reason."""
        trouble = ""
        try:
            self._folder.write(self._name, [learned.kept(experience)])
        except OSError as error:
            trouble = error.strerror or str(error)
            if trouble != self._trouble:
                log.warning("%s can't be written: %s", self._path, trouble)
        self._trouble = trouble

    @property
    def _path(self) -> Path:
        return self._folder.path / self._name


class ScalingCounter:
    """Brings decisions on one pool into the metrics; labels are terms and holds, never reasons."""

    def __init__(self, pool: str, most: int, metrics: GatewayMetrics) -> None:
        self._pool = pool
        self._metrics = metrics
        metrics.most.labels(pool).set(most)
        for direction in ("up", "down"):  # from the start, so that a first time is an increase
            metrics.scaled.labels(pool, direction)

    def count(self, entry: Entry) -> None:
        """Bring a decision in."""
        pool, metrics, decision = self._pool, self._metrics, entry.decision
        metrics.held.labels(pool).set(decision.held)
        metrics.by_hand.labels(pool).set(entry.mode is not Mode.AUTOMATIC)
        metrics.decided.labels(pool).set(entry.at.timestamp())
        metrics.planned.labels(pool).set(entry.ordered)
        metrics.standby.labels(pool).set(entry.standby)
        for name in (*TERMS, *HOLDS):
            metrics.winner.labels(pool, name).set(name == decision.winner)
        if entry.changed:
            direction = "up" if entry.ordered > entry.seen.planned else "down"
            metrics.scaled.labels(pool, direction).inc()
        if decision.held:
            return  # what was wanted and seen is unknown; the last figures stay
        metrics.wanted.labels(pool).set(decision.wanted)
        metrics.serving.labels(pool).set(entry.seen.ready)
        asked = {term.name: term.replicas for term in decision.terms}
        for name in TERMS:
            metrics.term.labels(pool, name).set(asked.get(name, 0))
