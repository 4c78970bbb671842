"""A worker process: serves clients and follows the primary's fleet.

    python -m embedfleet.server.gateway.workers.worker CHANNEL LISTENING…

The arguments are file descriptors that the primary opened. A worker obeys only its channel: signals
to the process group are handled by the primary, and when the primary exits, the worker finishes the
requests that it accepted and exits, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from embedfleet.api.served_model import ModelVersion
from embedfleet.models.description import describe, with_revision
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.runtime.background import cancelled
from embedfleet.runtime.process import collect_rarely, trim_heap
from embedfleet.runtime.settings import Settings, load
from embedfleet.runtime.telemetry.logs import configure_logging
from embedfleet.runtime.telemetry.merging import families
from embedfleet.runtime.telemetry.tracing import opened
from embedfleet.server.gateway.admin.cache import figures_of as cache_figures
from embedfleet.server.gateway.admin.overview import overview
from embedfleet.server.gateway.app import public_listeners, served
from embedfleet.server.gateway.caching import CacheTrust
from embedfleet.server.gateway.server import Gateway
from embedfleet.server.gateway.workers.channel import Answer, Channel, Question
from embedfleet.server.gateway.workers.messages import (
    Alive,
    Begin,
    CheckUpdate,
    Counted,
    Cut,
    Drain,
    Leaving,
    MemberUpdate,
    ModelUpdate,
    Serving,
    Synced,
    ToWorker,
    VersionUpdate,
)
from embedfleet.server.gateway.workers.mirror import MirroredFleet
from embedfleet.transport.access.ledger import Ledger
from embedfleet.vocabulary import EmbedfleetError

log = logging.getLogger(__name__)

BEAT_S = 1.0
TELL_S = 0.1
"""How often results of calls are reported to the primary."""


def share(settings: Settings, workers: int) -> Settings:
    """The settings of one worker: its part of what is bounded for all of them, and no replicas."""
    limits, cache = settings.gateway, settings.cache
    return dataclasses.replace(
        settings,
        gateway=dataclasses.replace(
            limits,
            max_queued_tokens=max(1, limits.max_queued_tokens // workers),
            max_queued_bytes=max(limits.max_body_bytes, limits.max_queued_bytes // workers),
            max_connections=max(1, limits.max_connections // workers),
            max_answer_bytes=max(1, limits.max_answer_bytes // workers),
        ),
        cache=dataclasses.replace(cache, memory_mib=cache.memory_mib // workers),
        autoscaling=dataclasses.replace(settings.autoscaling, enabled=False),
        pools=tuple(
            dataclasses.replace(
                pool, replicas=0, replica_urls=(), replica_service=None, scale_target=None
            )
            for pool in settings.pools
        ),
    )


class Worker:
    """What a worker does with what the primary says."""

    def __init__(self, gateway: Gateway, channel: Channel[ToWorker], names: Sequence[str]) -> None:
        """`names` are those of the pools."""
        self._gateway = gateway
        self._channel = channel
        self.cut: Callable[[], None] = lambda: None
        """Answers every open request that the server stops."""
        self._fleets: list[MirroredFleet] = []
        self._versions: list[ModelVersion | None] = []
        self._answers = {
            "ready": self._ready,
            "metrics": self._metrics,
            "observations": self._observations,
            "workloads": self._workloads,
            "overview": self._overview,
            "cache": self._cache,
            "clear_cache": self._clear_cache,
        }
        for number, (name, pool) in enumerate(zip(names, gateway.settings.pools, strict=True)):
            fleet = MirroredFleet(number)
            self._fleets.append(fleet)
            self._versions.append(None)
            gateway.mirror_pool(name, pool, fleet)

    async def follow(self, messages: AsyncIterator[ToWorker | Question]) -> bool:
        """Do as the primary says, until it has told all that it knows; False where this worker is
        to end, or the primary has ended itself.
        """
        async for message in messages:
            if isinstance(message, Synced | Drain):
                return isinstance(message, Synced)
            await self._take(message)
        return False

    async def _take(self, message: ToWorker | Question) -> None:
        match message:
            case MemberUpdate():
                self._fleets[message.pool].follow(message)
            case ModelUpdate():
                await self._introduce(message)
            case VersionUpdate():
                version = ModelVersion(message.revision, message.precision)
                self._versions[message.pool] = version
            case CheckUpdate():
                await self._check(message)
            case Question():
                await self._answer(message)
            case Leaving():
                self._gateway.draining = True
            case Cut():
                self.cut()

    async def _check(self, update: CheckUpdate) -> None:
        cache, pool = self._gateway.cache, self._gateway.pools[update.pool]
        if cache is None:
            return
        trust = CacheTrust(cache, pool.name, pool.fleet)
        if update.verdict == "distrusted":
            await trust.distrusted(update.url)
        elif update.verdict == "trusted":
            trust.trusted(update.url)
        else:
            trust.checking(update.url)

    async def tell(self) -> None:
        """Tell the primary how calls end, until cancelled."""
        while True:
            await asyncio.sleep(TELL_S)
            for fleet in self._fleets:
                for calls in fleet.calls():
                    self._channel.send(calls)

    async def _introduce(self, update: ModelUpdate) -> None:
        """Make the model of a pool known to callers."""
        directory = Path(update.directory)
        model = await asyncio.to_thread(
            describe, directory, name=update.name, max_tokens=update.max_tokens, task=update.task
        )
        model = with_revision(model, update.revision)
        encoder = await asyncio.to_thread(Encoder, model)
        version = partial(self._versions.__getitem__, update.pool)
        self._gateway.serve(update.pool, update.names, model, encoder, version)

    async def _answer(self, question: Question) -> None:
        try:
            value = await self._answers[question.what]()
        except EmbedfleetError as error:
            self._channel.send(Answer(question.id, error=error.message))
        else:
            self._channel.send(Answer(question.id, value))

    async def _ready(self) -> Any:
        return self._gateway.ready()

    async def _metrics(self) -> Any:
        self._gateway.observe()
        return families(self._gateway.metrics.registry)

    async def _observations(self) -> Any:
        seen = await self._gateway.scaling.observations()
        return {pool: asdict(each) for pool, each in seen.items()}

    async def _workloads(self) -> Any:
        """Of each pool the tokens that each replica still owes this process."""
        return [
            {member.name: pool.outstanding(member.name) for member in pool.fleet}
            for pool in self._gateway.pools
        ]

    async def _overview(self) -> Any:
        return overview(self._gateway, time.monotonic())

    async def _cache(self) -> Any:
        return None if self._gateway.cache is None else cache_figures(self._gateway.cache)

    async def _clear_cache(self) -> Any:
        return None if self._gateway.cache is None else await self._gateway.cache.clear()


async def beat(channel: Channel[ToWorker]) -> None:
    """Tell the primary that this event loop turns, until cancelled."""
    while True:
        channel.send(Alive())
        await asyncio.sleep(BEAT_S)


async def _run(connected: socket.socket, listening: Sequence[socket.socket]) -> int:
    channel: Channel[ToWorker] = await Channel.over(connected, ToWorker)
    messages = channel.messages()
    begin = await anext(messages, None)
    if not isinstance(begin, Begin):
        return 0  # the primary ended before it said anything
    settings = share(load(begin.settings, {}, {}), begin.workers)
    configure_logging(settings.log, f"worker-{begin.number}")
    ledger = None if begin.ledger is None else Ledger(begin.ledger, begin.number)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(cancelled, asyncio.create_task(beat(channel)))
        tracing = stack.enter_context(opened(settings.tracing, "embedfleet-gateway"))
        gateway = Gateway(settings, tracing, api_keys=begin.api_keys, ledger=ledger)
        stack.push_async_callback(gateway.close)
        worker = Worker(gateway, channel, begin.pools)
        if not await worker.follow(messages):
            return 0
        async with served(gateway, public_listeners(gateway, listening)) as worker.cut:
            collect_rarely()
            gateway.background.start(trim_heap(), "trimming the heap")
            channel.send(Serving())
            gateway.background.start(worker.tell(), "reporting how calls end")
            await worker.follow(messages)
            gateway.draining = True
            following = asyncio.create_task(worker.follow(messages))
    gateway.observe()
    channel.send(Counted(families(gateway.metrics.registry), gateway.requests()))
    await channel.finish()
    await cancelled(following)
    return 0


def main() -> None:
    """Run a worker on the descriptors that the primary left it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    channel, *listening = (socket.socket(fileno=int(each)) for each in sys.argv[1:])
    sys.exit(uvloop.run(_run(channel, listening)))


if __name__ == "__main__":
    main()
