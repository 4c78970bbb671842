"""The autoscalers of a gateway: one for each pool whose replicas it can start.

Connects each scaler with the pool's observations, its target, and the metrics of its decisions.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from embedfleet.autoscaling import (
    Entry,
    Experience,
    Mode,
    Observation,
    ObservationSource,
    Scaler,
    Target,
    learned,
    recording,
)
from embedfleet.runtime.background import cancelled
from embedfleet.runtime.folders import LocalStore
from embedfleet.runtime.settings import AutoscalingSettings
from embedfleet.runtime.telemetry.metrics import GatewayMetrics
from embedfleet.scheduling.delivery.pool import Pool
from embedfleet.server.gateway.load_observer import LoadObserver
from embedfleet.vocabulary import CallerError

log = logging.getLogger(__name__)

TERMS = (
    "minimum",
    "schedule",
    "traffic",
    "surge",
    "trend",
    "rhythm",
    "reserve",
    "peak",
    "backlog",
    "slo",
    "utilisation",
)
"""Every reason to have replicas."""
HOLDS = ("held", "memory", "pace", "quiet", "restart", "safety")
"""Everything that may keep a decision from following its winning term."""

RECORDED = 720
"""Observations kept for `embedfleet autoscale record`: an hour of ticks of 5 s, half a megabyte."""
SAVED_EVERY_S = 300.0
"""How much of what was learned a crash may cost."""


class Scaling:
    """Which pools are seen, and which of them are scaled here."""

    def __init__(self, settings: AutoscalingSettings, metrics: GatewayMetrics) -> None:
        self.settings = settings
        folder = settings.state_directory
        self._folder = None if folder is None else LocalStore(Path(folder), alone=False)
        self.observers: dict[str, LoadObserver] = {}
        """What this process sees."""
        self.wholes: dict[str, ObservationSource] = {}
        """What all processes of this gateway see, where there are several."""
        self.scalers: dict[str, Scaler] = {}
        self.recorded: dict[str, deque[bytes]] = {}
        """The last observations of each pool that is scaled here, as lines of a recording."""
        self._metrics = metrics

    def whole(self, pool: str) -> ObservationSource:
        """What this gateway sees of a pool, in all of its processes."""
        return self.wholes.get(pool) or self.observers[pool]

    def see(self, pool: Pool, memory_used: Callable[[], float | None]) -> LoadObserver:
        """What stands before the pool from now on."""
        observer = self.observers[pool.name] = LoadObserver(pool, self.settings, memory_used)
        return observer

    def scaler(
        self, pool: str, target: Target, observer: ObservationSource | None = None
    ) -> Scaler:
        """What lets load decide how many replicas a pool has, while it is run; looked at from here
        unless said otherwise. It takes the place of the pool's last one.

        SettingError when the schedule can't be read.
        """
        counter = ScalingCounter(pool, self.settings.max_replicas, self._metrics)
        recorded = self.recorded[pool] = deque(maxlen=RECORDED)

        def decided(entry: Entry) -> None:
            counter.count(entry)
            recorded.append(recording.line(entry))

        scaler = Scaler(
            pool, observer or self.whole(pool), target, self.settings, on_decision=decided
        )
        self.scalers[pool] = scaler
        return scaler

    async def run(self, scaler: Scaler) -> None:
        """Run a pool's scaler until cancelled; what it learns outlives it where that is set."""
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
        """A pool's scaler by its name, or the only one. CallerError when there is none such."""
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
            log.warning("%s can't be used, autoscaling learns anew: %s", self._path, error)
            return Experience()
        log.info("autoscaling goes on from what was learned, %s", self._path)
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
