"""A gateway process: its sockets, and the order of start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import uvloop

from embedfleet.fleet.providers.local import SETUP_FAILED, keyed
from embedfleet.models.description import ModelDescription
from embedfleet.runtime.background import cancelled
from embedfleet.runtime.machine import usable_processors
from embedfleet.runtime.process import (
    collect_rarely,
    connections_within,
    is_first,
    raise_descriptor_limit,
    reap_orphans,
    trim_heap,
)
from embedfleet.runtime.settings import Settings
from embedfleet.runtime.settings.addresses import places
from embedfleet.runtime.telemetry.logs import configure_logging, say
from embedfleet.runtime.telemetry.tracing import Tracing, opened
from embedfleet.server.gateway.app import admin_listeners, public_listeners, served
from embedfleet.server.gateway.front import (
    admin_socket,
    banner,
    shutdown_line,
    startup_line,
)
from embedfleet.server.gateway.in_cluster import in_cluster
from embedfleet.server.gateway.pools.names import Names
from embedfleet.server.gateway.pools.preflight import Suits, refuse_hopeless
from embedfleet.server.gateway.pools.setup import local_model
from embedfleet.server.gateway.server import Gateway
from embedfleet.server.gateway.workers.primary import Workers
from embedfleet.transport.access import OpenAccess
from embedfleet.transport.serving import (
    StopSignal,
    listening,
)

log = logging.getLogger(__name__)

MOST_WORKERS = 8
"""More processes than this are started only if configured."""

HURRY_S = 1.0
"""Grace period of replicas after a second stop signal."""
LOOP_FAILED = 1
"""Exit code after a background task of the process has failed, which is a bug."""


def run(
    settings: Settings,
    api_keys: Sequence[str] | None = None,
    suits: Suits = lambda _model, _engine: None,
) -> int:
    """Serve until a signal says stop; return the exit code. Raises SetupError.

    `api_keys` are keys in addition to the file's, None if none were given. `suits` refuses a model
    or options that embedfleet's own engine can't load; the gateway itself loads no engine.
    """
    configure_logging(settings.log)
    settings = with_room(settings)
    if not settings.pools:
        settings.only_pool()  # says how to name a model
    with opened(settings.tracing, "embedfleet-gateway") as tracing:
        # Before the event loop: a download may take long, and shows its progress meanwhile.
        models = [local_model(pool, settings.engine.max_tokens) for pool in settings.pools]
        Names(list(zip(settings.pools, models, strict=True)))
        refuse_hopeless(settings, models, suits)
        with keyed(settings) as own:
            return uvloop.run(_run(own, models, tracing, api_keys))


def with_room(settings: Settings) -> Settings:
    """The settings with connections bounded by the limit on open files."""
    room = connections_within(settings.gateway.max_connections, raise_descriptor_limit())
    return replace(settings, gateway=replace(settings.gateway, max_connections=room))


async def _run(
    settings: Settings,
    models: Sequence[ModelDescription | None],
    tracing: Tracing | None,
    api_keys: Sequence[str] | None,
) -> int:
    stop = StopSignal()
    workers: Workers | None = None
    async with contextlib.AsyncExitStack() as stack:
        count = worker_count(settings)
        at = places(settings.gateway.host, settings.gateway.port)
        sockets = stack.enter_context(listening(at, count))
        if count > 1:
            workers = Workers(settings, api_keys, sockets)
        operators = admin_socket(settings.admin)
        inside = await stack.enter_async_context(in_cluster(settings))
        gateway = Gateway(settings, tracing, inside, api_keys, workers=workers)
        public = public_listeners(gateway, sockets[0])
        admin = admin_listeners(gateway, operators)
        urls = [each.url for each in public], next((each.url for each in admin), None)
        log.info("%s", startup_line(settings, *urls))
        gateway.guards.warn(settings.gateway.host, urls[0])
        stack.push_async_callback(_close, gateway, stop)
        answered = [*public, *admin] if workers is None else admin
        cut = await stack.enter_async_context(served(gateway, answered))
        stop.hurry = cut if workers is None else partial(_cut, cut, workers)
        for pool, model in zip(settings.pools, models, strict=True):
            gateway.add_pool(pool, model)
        if workers is not None:
            gateway.background.start(workers.run(), "the workers")
            stack.push_async_callback(workers.drain)
        if is_first():
            gateway.background.start(reap_orphans(), "collecting orphans")
        collect_rarely()
        gateway.background.start(trim_heap(), "trimming the heap")
        printing = asyncio.create_task(_print_banner(gateway, *urls))
        stack.callback(printing.cancel)
        ends = (stop.wait(), gateway.hopeless.wait(), gateway.background.failed.wait())
        waiting = [asyncio.create_task(end) for end in ends]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await cancelled(*waiting)
        if stop.is_set:
            gateway.leave()
            await stop.pause(settings.gateway.drain_delay_s)
        await gateway.drain()
    log.info("%s", shutdown_line(gateway.requests()))
    if gateway.background.failed.is_set():
        return LOOP_FAILED
    return SETUP_FAILED if gateway.hopeless.is_set() else 0


def _cut(here: Callable[[], None], workers: Workers) -> None:
    here()
    workers.cut()


async def _close(gateway: Gateway, stop: StopSignal) -> None:
    await gateway.close(HURRY_S if stop.hurried else None)


def worker_count(settings: Settings) -> int:
    """The number of processes that serve clients.

    By default one for every three processors, and one if local replicas compute on the CPU.
    """
    if settings.gateway.workers is not None:
        return settings.gateway.workers
    computes = any(pool.replicas and settings.engine.device != "cuda" for pool in settings.pools)
    return 1 if computes else max(1, min(MOST_WORKERS, usable_processors() // 3))


async def _print_banner(gateway: Gateway, public: Sequence[str], admin: str | None) -> None:
    """Print the banner once everything is ready."""
    while not gateway.ready():
        await asyncio.sleep(0.05)
    if gateway.workers is not None:
        await gateway.workers.ready()
    names = {served.names[0]: served.identity.task for served in gateway.models.values()}
    keys = not isinstance(gateway.guards.callers, OpenAccess)
    say(banner(names, public, admin, keys=keys))
