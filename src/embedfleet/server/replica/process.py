"""Lifecycle of a replica process: listen, load, serve, drain, exit.

It listens before the model is loaded, so that probes see the process is alive, and prints its
address on standard output. The process exits when its engine is lost; its supervisor restarts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import uvloop

from embedfleet.api.endpoint import Endpoint
from embedfleet.api.formats.openai import RequestLimits
from embedfleet.api.served_model import ServedModel
from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.engines.protocol import Engine
from embedfleet.models.description import ModelDescription, describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.files import Snapshot
from embedfleet.models.source import ResolvedModel, resolve
from embedfleet.runtime.background import Background, cancelled
from embedfleet.runtime.process import (
    collect_rarely,
    is_first,
    raise_descriptor_limit,
    reap_orphans,
    shrink_heap,
)
from embedfleet.runtime.settings import Settings, is_loopback
from embedfleet.runtime.telemetry.logs import configure_logging, say
from embedfleet.runtime.telemetry.metrics import ReplicaMetrics
from embedfleet.runtime.telemetry.tracing import Tracing, opened
from embedfleet.server.replica.service import BatcherBackend, Replica
from embedfleet.transport.access import Access, OpenAccess
from embedfleet.transport.access.guarded_routes import OPEN, behind, key_guard
from embedfleet.transport.access.setup import one_key
from embedfleet.transport.access.watching import Watch
from embedfleet.transport.access.web_pages import NoPages
from embedfleet.transport.asgi import App, Receive, Request, Response, Router, Scope, Send
from embedfleet.transport.description import ANNOUNCEMENT
from embedfleet.transport.serving import Listener, StopSignal, bind, serving
from embedfleet.vocabulary import EngineHungError, EngineLostError, ModelError, ServiceError

log = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0005
ENGINE_LOST = 1
"""The exit code when nothing can be computed any more; a new process may."""
LOOP_FAILED = 1
"""The exit code when a bug has ended a loop of the process."""
ENGINE_HUNG = 3
"""The exit code when a batch did not end; a new process may compute."""
HUNG_GRACE_S = 2.0
"""How long the errors of what such an engine left may take to be sent."""
MOST_LOADS = 100
"""Attempts while the files change. A copy that outlasts them ends the replica."""
CHANGING_PAUSE_S = 0.5
"""Before and after it is looked at whether a model's files are still being written to."""
SETTLED_S = 10.0
"""Files that are older are not being written to."""


class Stop(Protocol):
    """A source of the stop request of a process."""

    async def wait(self) -> Any:
        """Return once it is to."""
        ...


class LoadingError(ServiceError):
    code = "loading"


class LoadingApp:
    """An ASGI app in front of another one that comes later: until then, it says `loading`."""

    def __init__(self) -> None:
        self._inside: App = Router(
            {("GET", "/health/live"): self._live},
            {("GET", "/"): self._loading, ("POST", "/"): self._loading},
        )

    def open(self, app: App) -> None:
        self._inside = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._inside(scope, receive, send)

    async def _live(self, _request: Request) -> Response:
        return Response(b'{"status":"live"}')

    async def _loading(self, _request: Request) -> Response:
        raise LoadingError("the model is being loaded", retry_after_s=1)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to compute."""

    description: ModelDescription
    encoder: Encoder
    engine: Engine
    files: Snapshot
    """In the state in which they were read."""
    seconds: float


def run(settings: Settings) -> int:
    """Serve one model until a signal says stop or the engine is lost; return the exit code.

    Raises SetupError.
    """
    settings.only_pool()  # raises before anything listens
    configure_logging(settings.log, log_name(settings))
    raise_descriptor_limit()
    with opened(settings.tracing, "embedfleet-replica") as tracing:
        code = uvloop.run(_run(settings, tracing))
    if code == ENGINE_HUNG:
        # Python would wait for the thread that hangs.
        logging.shutdown()
        os._exit(code)
    return code


def log_name(settings: Settings) -> str:
    """Who writes a line, where a gateway's replicas write to one place: pool and replica."""
    if not settings.replica.exit_with_parent or not settings.pools:
        return ""
    pool = settings.pools[0]
    name = pool.served_names[0] if pool.served_names else pool.model
    return f"{name}/local-{settings.replica.place}"


def fronted(app: App, access: Access, host: str, *, ours: bool = False) -> App:
    """A replica's app behind its key; without one, out of reach of web pages.

    One that a gateway started (`ours`) has a key that no other process knows, Prometheus included:
    its metrics are open on loopback, though not to pages.
    """
    keyed = behind(app, key_guard(access, (*OPEN, "/metrics") if ours else OPEN, paths=()))
    if ours or isinstance(access, OpenAccess):
        return behind(keyed, NoPages(by_name=not is_loopback(host)))
    return keyed


async def _run(settings: Settings, tracing: Tracing | None) -> int:
    ours = settings.replica.exit_with_parent
    stop = StopSignal(by_signals=not ours)
    loading_app = LoadingApp()
    host, port = settings.replica.host, settings.replica.port
    access, watches = one_key(settings.replica.key_file, "replica.key_file")
    if isinstance(access, OpenAccess) and not is_loopback(host):
        log.warning(
            "authentication is disabled: anyone who can reach %s can use this replica (set "
            "replica.key_file)",
            host,
        )
    listener = Listener(fronted(loading_app, access, host, ours=ours), bind(host, port))
    announcement = f"{ANNOUNCEMENT}http://{listener.address}"
    if not ours:
        say(f"{announcement}\n")
    else:
        print(announcement, flush=True)  # noqa: T201  a provider reads it
        os.dup2(2, 1)  # it is no longer read: a library that prints would block forever
    async with contextlib.AsyncExitStack() as stack:
        background = Background()
        stack.push_async_callback(background.close)
        if is_first():
            background.start(reap_orphans(), "collecting orphans")
        for watch in watches:
            background.start(watch.run(), f"watching {watch}")
        await stack.enter_async_context(
            serving([listener], stop_timeout_s=settings.replica.drain_timeout_s)
        )
        if ours:
            _end_with_input(stop)
        loading = asyncio.create_task(asyncio.to_thread(load, settings))
        stopping = asyncio.create_task(stop_requested(stop, background))
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            code = await serve(loading.result(), settings, loading_app, stopping, tracing, watches)
            return code or (LOOP_FAILED if background.failed.is_set() else 0)
        if background.failed.is_set():
            return LOOP_FAILED
        log.info("stopped while loading the model")
    return 0


async def stop_requested(stop: Stop, background: Background) -> None:
    """Wait for the stop request, or for a bug that ended one of the loops."""
    ends = [asyncio.create_task(end) for end in (stop.wait(), background.failed.wait())]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancelled(*ends)


def load(settings: Settings) -> LoadedModel:
    """Find and load the model of the only pool. Raises SetupError.

    Files that are written to meanwhile are read again, so that all are of one model: whoever copies
    a model over another one restarts its replicas, and may do so too early.
    """
    started = time.monotonic()
    source = resolve(settings.only_pool().model, progress=False)
    for _ in range(MOST_LOADS):
        files = Snapshot.of(source.directory)
        try:
            loaded = _read(source, settings, files, started)
        except ModelError:
            if files.age_s() < SETTLED_S:  # who copies has not written to it in this very moment
                time.sleep(CHANGING_PAUSE_S)
            changed = files.first_changed()
            if changed is None:
                raise
        else:
            changed = files.first_changed()
            if changed is None:
                return loaded
            loaded.engine.close()
        log.warning("%s changed while the model was being loaded; loading it again", changed)
        time.sleep(CHANGING_PAUSE_S)
    raise ModelError(
        f"{source.directory}: its files are being written to; each of {MOST_LOADS} attempts to "
        "load it found them changed meanwhile"
    )


def _read(
    source: ResolvedModel, settings: Settings, files: Snapshot, started: float
) -> LoadedModel:
    options = settings.engine
    pool = settings.only_pool()
    description = describe(
        source.directory, name=source.name, max_tokens=options.max_tokens, task=pool.wanted_task
    )
    encoder = Encoder(description)
    shrink_heap()
    engine = load_engine(
        source.directory,
        EngineOptions(
            device=options.device,
            dtype=options.dtype,
            threads=options.threads,
            batch_tokens=options.batch_tokens,
            memory_mib=options.memory_mib,
            max_tokens=description.identity.max_tokens,
            task=description.identity.task,
            deterministic=options.deterministic,
            at_least=settings.only_pool().precision,
            place=settings.replica.places_before + settings.replica.place,
            kernels=options.kernels,
            instructions=options.instructions,
        ),
    )
    if engine.info.in_flight > 1:
        # The thread that feeds the device must not wait 5 ms for the one that answers requests.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
    return LoadedModel(description, encoder, engine, files, time.monotonic() - started)


async def serve(
    loaded: LoadedModel,
    settings: Settings,
    loading_app: LoadingApp,
    stopping: asyncio.Task[None],
    tracing: Tracing | None,
    watches: Sequence[Watch] = (),
) -> int:
    """Answer until told to stop or the engine is lost, then until nothing is left to answer.

    Returns the exit code.
    """
    pool = settings.only_pool()
    identity = loaded.description.identity
    names = pool.served_names or (identity.name,)
    metrics = ReplicaMetrics()
    metrics.load_duration.set(loaded.seconds)
    for watch in watches:
        metrics.reload_failing.labels(str(watch)).set_function(watch.is_failing)
    replica = Replica(
        loaded.engine,
        identity,
        served_names=names,
        files=loaded.files,
        max_body_bytes=settings.replica.max_body_bytes,
        max_queued_tokens=settings.replica.max_queued_tokens,
        metrics=metrics,
        hung_after_s=settings.replica.batch_timeout_s,
    )
    backend = BatcherBackend(replica)
    served = ServedModel(identity, names, loaded.encoder, backend, created=int(time.time()))
    endpoint = _endpoint(dict.fromkeys(names, served), settings)
    batching = asyncio.create_task(replica.batcher.run())
    collect_rarely()
    loading_app.open(replica.app(endpoint, tracing))
    _log_ready(names[0], loaded, replica.batcher.budget_tokens)
    await asyncio.wait({stopping, batching}, return_when=asyncio.FIRST_COMPLETED)
    replica.draining = True
    error = batching.exception() if batching.done() else None
    if error is not None:
        log.critical("the engine is lost; exiting", exc_info=error)
    hung = isinstance(error, EngineHungError)
    await _until_idle(replica, HUNG_GRACE_S if hung else settings.replica.drain_timeout_s)
    endpoint.close()
    if error is not None:  # a lost device can't be asked to give its memory back
        return ENGINE_HUNG if hung else ENGINE_LOST
    batching.cancel()
    return await asyncio.to_thread(_closed, loaded.engine)


def _log_ready(name: str, loaded: LoadedModel, batch_tokens: int) -> None:
    info = loaded.engine.info
    log.info(
        "%s is ready after %.1f s: %s, %s, %d dimensions, batches of %d tokens",
        name,
        loaded.seconds,
        info.device,
        info.precision,
        info.width,
        batch_tokens,
    )


def _closed(engine: Engine) -> int:
    """Close it; the exit code."""
    try:
        engine.close()
    except EngineLostError:
        log.exception("the engine was lost before shutdown")
        return ENGINE_LOST
    return 0


def _endpoint(models: Mapping[str, ServedModel], settings: Settings) -> Endpoint:
    limits = settings.gateway
    return Endpoint(
        lambda: models,
        limits=RequestLimits(max_texts=limits.max_texts),
        max_body_bytes=settings.replica.max_body_bytes,
        max_held_bytes=limits.max_queued_bytes,
        timeout_s=limits.request_timeout_s,
        tokenizer_threads=limits.tokenizer_threads,
        answered=lambda _: None,
    )


async def _until_idle(replica: Replica, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not replica.idle:
        if time.monotonic() > deadline:
            log.warning("gave up draining after %g s: %r", timeout_s, replica.batcher)
            return
        await asyncio.sleep(0.02)


def _end_with_input(stop: StopSignal) -> None:
    """Stop at the end of standard input: the parent wants it, or has exited."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            stop.set()

    loop.add_reader(0, read)
