"""The primary: starts and restarts workers, distributes the fleet and aggregates their metrics.

Each worker has its own listening socket on the same port (SO_REUSEPORT), so that the kernel spreads
connections. The primary keeps all of these sockets open: connections to the socket of a worker that
just died wait in its backlog for the replacement.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import generate_latest

from embedfleet.api.served_model import ModelVersion
from embedfleet.autoscaling import Observation, ObservationSource, total
from embedfleet.fleet.backoff import Backoff
from embedfleet.fleet.fleet import Fleet
from embedfleet.models.description import ModelDescription
from embedfleet.runtime.process import interpreter
from embedfleet.runtime.settings import Settings, as_toml
from embedfleet.runtime.telemetry.merging import (
    Family,
    Merged,
    as_families,
    cumulative,
    families,
    merged,
)
from embedfleet.runtime.telemetry.metrics import GatewayMetrics
from embedfleet.server.gateway.workers.channel import Answer, Channel, ChannelClosedError, Question
from embedfleet.server.gateway.workers.messages import (
    Alive,
    Begin,
    CallReport,
    CheckUpdate,
    Counted,
    Cut,
    Drain,
    Leaving,
    ModelUpdate,
    Serving,
    Synced,
    ToPrimary,
    ToWorker,
    VersionUpdate,
)
from embedfleet.server.gateway.workers.mirror import Publisher
from embedfleet.transport.access.ledger import Ledger
from embedfleet.vocabulary import ServiceError

log = logging.getLogger(__name__)

RESTART = Backoff(0.1, 10.0)
"""Pauses before a worker that exited is restarted."""
STEADY_S = 30.0
"""After so long without an exit the pause is the shortest again."""
REFRESH_S = 0.25
"""How often workers get changes other than of states: costs, model versions."""
POLL_S = 0.05
"""How often workers are polled until they are ready."""
WATCH_S = 5.0
"""How often it is looked whether a worker has said anything; its loop says each second that it
turns."""
MOST_MISSED = 6
"""Looks in a row at which a worker had said nothing, after which it is killed: half a minute, as in
gunicorn. They are counted, not timed: a pause of the whole machine is one of them."""
KILL_AFTER_S = 5.0
"""Time beyond the drain timeout before a worker that has not exited is killed."""


class _Worker:
    """One worker: its sockets and its process."""

    def __init__(self, number: int, listening: Sequence[socket.socket]) -> None:
        self.number = number
        self.listening = listening
        self.channel: Channel[ToPrimary] | None = None
        self.process: asyncio.subprocess.Process | None = None
        self.serving = asyncio.Event()
        self.heard = asyncio.Event()
        self.families: list[Family] = []
        """Its metrics when they were last collected."""


class Workload:
    """Outstanding work of the replicas, as the workers last reported it."""

    def __init__(self) -> None:
        self._outstanding: dict[str, int] = {}

    def outstanding(self, replica: str) -> int:
        """Tokens that a replica still has to answer."""
        return self._outstanding.get(replica, 0)

    def take(self, reports: Sequence[dict[str, int]]) -> None:
        """Outstanding tokens by replica, one report per worker."""
        self._outstanding = {}
        for owed in reports:
            for replica, tokens in owed.items():
                self._outstanding[replica] = self._outstanding.get(replica, 0) + tokens


class WorkersTrust:
    """Forwards golden checks to the workers, which hold the cached vectors."""

    def __init__(self, pool: int, send: Callable[[ToWorker], None]) -> None:
        self._pool = pool
        self._send = send

    def checking(self, url: str) -> None:
        self._send(CheckUpdate(self._pool, url, "checking"))

    def trusted(self, url: str) -> None:
        self._send(CheckUpdate(self._pool, url, "trusted"))

    async def distrusted(self, url: str) -> None:
        self._send(CheckUpdate(self._pool, url, "distrusted"))


class WorkersObserver:
    """The observation of a pool summed over all workers, for the autoscaler."""

    def __init__(self, pool: str, own: ObservationSource, workers: Workers) -> None:
        """`own` adds what is not of requests: the host's memory."""
        self._pool = pool
        self._own = own
        self._workers = workers

    async def observe(self, now: float) -> Observation:
        """Raises ServiceError when a worker does not answer."""
        own = await self._own.observe(now)
        return total([own, *await self._workers.observations(self._pool, now)])


class Workers:
    """All workers of a primary."""

    def __init__(
        self,
        settings: Settings,
        api_keys: Sequence[str] | None,
        listening: Sequence[Sequence[socket.socket]],
    ) -> None:
        """`listening` has the sockets of each worker."""
        self._settings = as_toml(settings)
        self._api_keys = None if api_keys is None else tuple(api_keys)
        self._drain_s = settings.gateway.drain_timeout_s
        self._ledger = Ledger.create()
        self._accounts = Ledger(self._ledger, len(listening))
        self._workers = [_Worker(number, each) for number, each in enumerate(listening)]
        self._names: list[str] = []
        self._publishers: list[Publisher] = []
        self._models: dict[int, ModelUpdate] = {}
        self._versions: dict[int, VersionUpdate] = {}
        self._asked: dict[int, Callable[[], ModelVersion | None]] = {}
        self._ended: list[Family] = []
        """Counters of workers that exited."""
        self._workloads: list[Workload] = []
        self.requests: Counter[int] = Counter()
        """Requests to workers that exited in order, by HTTP status."""
        self._leaving = self._draining = False

    def __len__(self) -> int:
        return len(self._workers)

    # -- to the workers ----------------------------------------------------------------

    def publish(self, name: str, fleet: Fleet) -> Workload:
        """Publish the fleet of the next pool to the workers; returns their outstanding work."""
        self._publishers.append(Publisher(len(self._publishers), fleet, self._broadcast))
        self._names.append(name)
        self._workloads.append(Workload())
        return self._workloads[-1]

    def introduce(
        self,
        pool: int,
        names: tuple[str, ...],
        model: ModelDescription,
        version: Callable[[], ModelVersion | None],
    ) -> None:
        """Let the workers serve a pool's model, and send them its version once it is known."""
        identity = model.identity
        update = ModelUpdate(
            pool,
            names,
            str(model.directory),
            identity.name,
            identity.max_tokens,
            identity.task,
            identity.revision,
        )
        self._models[pool], self._asked[pool] = update, version
        self._broadcast(update)

    def trust(self, pool: int) -> WorkersTrust:
        """The observer of golden checks of a pool's replicas."""
        return WorkersTrust(pool, self._broadcast)

    def _send_versions(self) -> None:
        for pool, version in self._asked.items():
            made = version()
            if made is None:
                continue
            update = VersionUpdate(pool, made.revision, made.precision)
            if self._versions.get(pool) != update:
                self._versions[pool] = update
                self._broadcast(update)

    def _broadcast(self, message: ToWorker) -> None:
        for worker in self._workers:
            if worker.channel is not None:
                worker.channel.send(message)

    # -- from the workers --------------------------------------------------------------

    async def ask(self, what: str) -> list[Any]:
        """The answers of all running workers; one that exits meanwhile has none."""

        async def one(channel: Channel[ToPrimary]) -> Any:
            with contextlib.suppress(ChannelClosedError):
                return await channel.ask(what)
            return None

        asked = [each.channel for each in self._workers if each.channel is not None]
        answers = await asyncio.gather(*map(one, asked))
        return [answer for answer in answers if answer is not None]

    async def observations(self, pool: str, now: float) -> list[Observation]:
        """Each worker's observation of a pool."""
        observed = await self.ask("observations")
        return [Observation(**(each[pool] | {"now": now})) for each in observed if pool in each]

    async def exposition(self, metrics: GatewayMetrics) -> bytes:
        """The Prometheus exposition, merged over this process and all workers."""

        async def collect(worker: _Worker) -> None:
            if worker.channel is not None:
                with contextlib.suppress(ChannelClosedError):
                    worker.families = as_families(await worker.channel.ask("metrics"))

        await asyncio.gather(*map(collect, self._workers))
        live = [worker.families for worker in self._workers]
        ended = self._ended
        return await asyncio.to_thread(
            lambda: generate_latest(Merged(merged(families(metrics.registry), [ended, *live])))
        )

    # -- processes ---------------------------------------------------------------------

    async def run(self) -> None:
        """Run and restart the workers until cancelled."""
        async with asyncio.TaskGroup() as group:
            for worker in self._workers:
                group.create_task(self._keep(worker))
            group.create_task(self._refresh())

    async def ready(self) -> None:
        """Return once every worker serves, and knows all models."""
        for worker in self._workers:
            await worker.serving.wait()
        while not all(await self.ask("ready")):
            await asyncio.sleep(POLL_S)

    def leave(self) -> None:
        """Let all of them report not ready, and continue serving."""
        self._leaving = True
        self._broadcast(Leaving())

    async def drain(self) -> None:
        """Let all of them finish accepted requests and exit; kill those that do not."""
        self._draining = True
        self._broadcast(Drain())
        for worker in self._workers:
            for each in worker.listening:
                each.close()  # or connections would wait in a backlog without an acceptor
        processes = [each.process for each in self._workers if each.process is not None]
        try:
            async with asyncio.timeout(self._drain_s + KILL_AFTER_S):
                await asyncio.gather(*(process.wait() for process in processes))
        except TimeoutError:
            log.warning("workers did not exit within %g s; killing them", self._drain_s)
            self.kill()

    def cut(self) -> None:
        """Let them answer every open request with the error of a stopping server."""
        self._broadcast(Cut())

    def kill(self) -> None:
        """Kill them at once."""
        for worker in self._workers:
            if worker.process is not None and worker.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    worker.process.kill()

    async def _keep(self, worker: _Worker) -> None:
        failures = 0
        while not self._draining:
            began = time.monotonic()
            try:
                end = _spelled(await self._live(worker))
            except OSError as error:  # no memory for a process, no descriptor for its channel
                end = f"it could not be started: {error.strerror or error}"
            if self._draining:
                return
            failures = 0 if time.monotonic() - began > STEADY_S else failures + 1
            pause_s = RESTART.after(max(1, failures))
            log.error(
                "worker %d exited (%s), closing its connections; restarting it in %.1f s",
                worker.number,
                end,
                pause_s,
            )
            await asyncio.sleep(pause_s)

    async def _live(self, worker: _Worker) -> int:
        """Run one process of a worker; returns its exit code."""
        here, there = socket.socketpair()
        descriptors = [there.fileno(), *(each.fileno() for each in worker.listening)]
        with there, contextlib.ExitStack() as undo:
            undo.callback(here.close)
            worker.process = process = await asyncio.create_subprocess_exec(
                *interpreter("-m", "embedfleet.server.gateway.workers.worker"),
                *map(str, descriptors),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=[*descriptors, self._ledger],
                start_new_session=True,
            )
            undo.pop_all()
        channel: Channel[ToPrimary] = await Channel.over(here, ToPrimary)
        worker.channel = channel
        watch = asyncio.create_task(self._watch(worker, process))
        try:
            self._begin_with(worker.number, channel)
            async for message in channel.messages():
                worker.heard.set()
                self._take(worker, message)
            return await process.wait()
        finally:
            watch.cancel()
            worker.channel = None
            worker.serving.clear()
            self._ended = merged(self._ended, [cumulative(worker.families)])
            worker.families = []
            self._accounts.forget(worker.number)
            if process.returncode is None:
                process.kill()

    async def _watch(self, worker: _Worker, process: asyncio.subprocess.Process) -> None:
        worker.heard.clear()
        await worker.heard.wait()
        await until_silent(worker.heard)
        log.error("worker %d hangs; killing it", worker.number)
        with contextlib.suppress(ProcessLookupError):
            process.kill()

    def _begin_with(self, number: int, channel: Channel[ToPrimary]) -> None:
        """Send a worker that has just started the full state."""
        pools, count = tuple(self._names), len(self._workers)
        begin = Begin(self._settings, self._api_keys, pools, count, number, self._ledger)
        channel.send(begin)
        for publisher in self._publishers:
            for member in publisher.everything():
                channel.send(member)
        for update in (*self._models.values(), *self._versions.values()):
            channel.send(update)
        channel.send(Synced())
        if self._leaving:
            channel.send(Leaving())

    def _take(self, worker: _Worker, message: ToPrimary | Question) -> None:
        match message:
            case CallReport():
                self._publishers[message.pool].take(message, time.monotonic())
            case Serving():
                worker.serving.set()
            case Counted():
                worker.families = message.families
                self.requests.update(message.requests)
            case Alive():
                pass
            case Question() if worker.channel is not None:
                worker.channel.send(Answer(message.id, error="the primary does not answer"))

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            self._send_versions()
            for publisher in self._publishers:
                publisher.refresh()
            try:
                reports = await self.ask("workloads")
            except ServiceError as error:
                log.warning("a worker did not report its workload: %s", error)
                continue
            for pool, workload in enumerate(self._workloads):
                workload.take([each[pool] for each in reports if pool < len(each)])


async def until_silent(heard: asyncio.Event, every_s: float = WATCH_S) -> None:
    """Wait until a worker's event loop no longer turns: the kernel would go on giving the process
    its share of all connections.
    """
    missed = 0
    while missed < MOST_MISSED:
        heard.clear()
        await asyncio.sleep(every_s)
        missed = 0 if heard.is_set() else missed + 1


def _spelled(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
