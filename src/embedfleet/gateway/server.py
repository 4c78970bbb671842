"""A gateway process: pools, their fleets, the public and the admin address.

Decides what is started in which order, and stopped in the reverse one. Refuses to hold logic that
could be tested without sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import tempfile
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from random import Random

import uvloop

from embedfleet.access import OpenAccess
from embedfleet.background import Background, cancelled
from embedfleet.encoding.encoder import Encoder
from embedfleet.endpoint import Endpoint, ServedModel
from embedfleet.fleet.balancing import POLICIES
from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.fleet.prober import Prober
from embedfleet.fleet.providers.local import SETUP_FAILED
from embedfleet.fleet.supervisor import Supervisor
from embedfleet.gateway.app import listeners
from embedfleet.gateway.attaching import replica_client
from embedfleet.gateway.caching import CacheTrust, vector_cache
from embedfleet.gateway.contact import ModelContact
from embedfleet.gateway.counting import RequestCounter, StateGauge
from embedfleet.gateway.delivery.pool import Pool
from embedfleet.gateway.greeting import announced, farewell, greet
from embedfleet.gateway.guards import Guards
from embedfleet.gateway.in_cluster import InCluster, in_cluster, needed
from embedfleet.gateway.names import UNNAMED, Names, configured, with_short
from embedfleet.gateway.preflight import Suits, refuse_hopeless
from embedfleet.gateway.scaling import Scaling
from embedfleet.gateway.starting import provider, supervisor
from embedfleet.gateway.upstream import Upstream
from embedfleet.machine import memory_used
from embedfleet.model.description import ModelDescription, describe, with_revision
from embedfleet.model.source import resolve
from embedfleet.serving import ClientLimits, StopSignal, bind, serving
from embedfleet.settings import Pool as PoolSettings
from embedfleet.settings import Settings
from embedfleet.telemetry.logs import configure_logging
from embedfleet.telemetry.metrics import GatewayMetrics
from embedfleet.telemetry.tracing import Tracing, opened
from embedfleet.vocabulary import ReplicaState
from embedfleet.wire.headers import trusted_networks
from embedfleet.wire.openai import RequestLimits

log = logging.getLogger(__name__)

LOOP_FAILED = 1
"""The exit code when a bug has ended a loop of the process; a new process may do without it."""


def run(
    settings: Settings,
    api_keys: Sequence[str] | None = None,
    suits: Suits = lambda _directory, _engine: None,
) -> int:
    """Serve until a signal says stop; return the exit code. Raises SetupError.

    `api_keys` are keys beside those of the file, None where none were given. `suits` refuses a
    model or options that embedfleet's own engine can't load: a gateway loads no engine to know.
    """
    configure_logging(settings.log)
    settings_check(settings)
    with (
        opened(settings.tracing, "embedfleet-gateway") as tracing,
        tempfile.TemporaryDirectory(prefix="embedfleet-") as scratch,
    ):
        # Before the event loop: a download may take long, and shows its progress meanwhile.
        models = [local_model(pool, settings.engine.max_tokens) for pool in settings.pools]
        Names(list(zip(settings.pools, models, strict=True)))
        refuse_hopeless(settings, models, suits)
        return uvloop.run(_run(settings, models, Path(scratch), tracing, api_keys))


def settings_check(settings: Settings) -> None:
    if not settings.pools:
        settings.only_pool()  # says how to name a model


def local_model(pool: PoolSettings, max_tokens: int | None) -> ModelDescription | None:
    """The model of a pool whose files are to be on this machine; None where replicas bring it."""
    if pool.tokenizer_dir is not None:
        return with_revision(describe(pool.tokenizer_dir, max_tokens=max_tokens), pool.revision)
    if not pool.model:
        return None
    source = resolve(pool.model, progress=True)
    # Replicas of our own are told the limit themselves.
    own = pool.engine == "embedfleet"
    return describe(source.directory, name=source.name, max_tokens=None if own else max_tokens)


class Gateway:
    """Everything that serves requests, without the sockets."""

    def __init__(
        self,
        settings: Settings,
        scratch: Path,
        tracing: Tracing | None = None,
        inside: InCluster | None = None,
        api_keys: Sequence[str] | None = None,
    ) -> None:
        """`inside` is the cluster, where a pool's replicas are pods."""
        self.settings = settings
        self.guards = Guards.of(settings, api_keys, self._first_name)
        self._inside = inside
        self.tracing = tracing
        self.metrics = GatewayMetrics()
        self.pools: list[Pool] = []
        self._names = Names()
        self.models: dict[str, ServedModel] = {}
        self.draining = False
        self.hopeless = asyncio.Event()
        """Set when a pool has no replica and never will."""
        self.background = Background()
        self._scratch = scratch
        self.scaling = Scaling(settings.autoscaling, self.metrics)
        self._supervisors: list[Supervisor] = []
        self._deciding: list[asyncio.Task[None]] = []
        """Loops that say how many replicas there are to be."""
        self._upstream = Upstream.open(
            connect_timeout_s=settings.fleet.connect_timeout_s,
            probe_timeout_s=settings.fleet.probe_timeout_s,
        )
        self.cache = vector_cache(settings.cache, self.metrics)
        limits = settings.gateway
        self._counter = RequestCounter(self.metrics)
        for watch in self.guards.watches:
            self.background.start(watch.run(), f"watching {watch}")
        if inside is not None and inside.peers is not None:
            self.background.start(inside.peers.run(), "following the other gateways")
        self.endpoint = Endpoint(
            lambda: self.models,
            limits=RequestLimits(max_texts=limits.max_texts),
            max_body_bytes=limits.max_body_bytes,
            max_held_bytes=limits.max_queued_bytes,
            timeout_s=limits.request_timeout_s,
            trusted_proxies=trusted_networks(limits.trusted_proxies),
            tokenizer_threads=limits.tokenizer_threads,
            answered=self._counter.count,
            access=self.guards.callers,
            cache=self.cache,
            no_model=self._no_model,
        )

    def add_pool(self, settings: PoolSettings, model: ModelDescription | None) -> None:
        """Start a pool: its local replicas, and the watch over those elsewhere."""
        place, names = len(self.pools), configured(settings, model)
        name, *_ = self._names.claim(place, names or (UNNAMED,))
        fleet = Fleet()
        client = replica_client(self._upstream, settings, model)
        StateGauge(name, fleet, self.metrics)
        pool = Pool(
            name,
            fleet,
            client,
            POLICIES[settings.balancing](Random()),
            gateway=self.settings.gateway,
            settings=self.settings.fleet,
            metrics=self.metrics,
        )

        async def introduced(known: ModelDescription) -> None:
            offered = self._names.offer(place, names or with_short(known.identity.name))
            self._serve(pool, offered, known, await asyncio.to_thread(Encoder, known), contact)

        contact = ModelContact(
            settings,
            client,
            self._scratch,
            known=model,
            introduced=introduced,
            refused=self.metrics.golden_mismatches.labels(name).inc,
            drifted=self.metrics.golden_drift.labels(name).observe,
            trust=CacheTrust(self.cache, name, fleet) if self.cache is not None else None,
        )
        self.pools.append(pool)
        self.background.start(pool.run(), f"the pool {name}")
        self.scaling.see(pool, memory_used if settings.replicas else lambda: None)
        self._watch(pool, contact)
        if model is not None:
            self._serve(pool, names, model, Encoder(model), contact)
        weights = settings.replica_weights or (1.0,) * len(settings.replica_urls)
        for number, (url, weight) in enumerate(zip(settings.replica_urls, weights, strict=True)):
            fleet.add(f"remote-{number}", url.rstrip("/"), time.monotonic(), weight=weight)
        if settings.replica_service is not None:
            self._follow(pool, settings)
        if settings.replicas and model is not None:
            self._supervise(pool, settings, model)

    def _watch(self, pool: Pool, contact: ModelContact) -> None:
        """Have a pool's replicas looked at from now on."""

        def forget(member: Member, _left: ReplicaState) -> None:
            if member.state is ReplicaState.GONE:
                contact.forget(member.url)

        pool.fleet.listen(forget)
        chosen = self.settings.fleet
        prober = Prober(
            pool.fleet,
            contact,
            interval_s=chosen.probe_interval_s,
            verify_interval_s=chosen.verify_interval_s,
            verify_timeout_s=chosen.verify_timeout_s,
            pool=pool.name,
        )
        self.background.start(prober.run(), f"watching the replicas of {pool.name}")

    def _no_model(self) -> str:
        """What clients are told while no model is known: without addresses and what replicas say,
        which is for operators (`/fleet`).
        """
        troubles = [member.trouble for pool in self.pools for member in pool.fleet]
        last = next((f"; of one, {each}" for each in troubles if each), "")
        return f"no replica has answered yet, so no model is known{last}; try again soon"

    def ready(self) -> bool:
        """Whether every pool has a replica that may get traffic."""
        return bool(self.pools) and all(pool.fleet.count(ReplicaState.READY) for pool in self.pools)

    def requests(self) -> dict[int, int]:
        """Requests that ended, by HTTP status."""
        return self._counter.totals()

    async def close(self) -> None:
        """Stop replicas and break off what is still in flight."""
        grace = self.settings.gateway.drain_timeout_s
        await cancelled(*self._deciding)
        await asyncio.gather(*(supervisor.stop(grace) for supervisor in self._supervisors))
        if self.cache is not None:
            await self.cache.close()
        await asyncio.gather(*(pool.close() for pool in self.pools))
        await self.background.close()
        self.endpoint.close()
        await self._upstream.close()

    def _first_name(self, name: str) -> str:
        served = self.models.get(name)
        return name if served is None else served.names[0]

    def _serve(
        self,
        pool: Pool,
        names: tuple[str, ...],
        model: ModelDescription,
        encoder: Encoder,
        contact: ModelContact,
    ) -> None:
        """Make a model known to callers, by all its names."""
        pool.width, now = model.identity.width, int(time.time())
        served = ServedModel(model.identity, names, encoder, pool, now, contact.promise)
        self.models.update(dict.fromkeys(names, served))

    def _follow(self, pool: Pool, settings: PoolSettings) -> None:
        """Replicas are pods: follow them, and where it is asked for, decide how many."""
        inside = needed(self._inside)
        if settings.scale_target is not None:
            own = self.scaling.sights[pool.name]
            sight = inside.together(pool.name, own, self._upstream.session)
            leadership = inside.scaling(pool, settings, self.scaling, self.metrics, sight)
            self._decide(leadership.run(), pool)
        follower = inside.following(settings.replica_service or "", pool.fleet)
        self.background.start(follower.run(), f"following the pods of {pool.name}")

    def _decide(self, loop: Coroutine[None, None, None], pool: Pool) -> None:
        self._deciding.append(self.background.start(loop, f"the autoscaler of {pool.name}"))

    def _supervise(self, pool: Pool, settings: PoolSettings, model: ModelDescription) -> None:
        scaled = self.settings.autoscaling
        starts = provider(
            self.settings, settings, model, configured(settings, model), self._scratch
        )
        keeps = supervisor(pool, starts, self.settings, self.metrics, lambda _: self._give_up(pool))
        self._supervisors.append(keeps)
        keeps.start(scaled.min_replicas if scaled.enabled else settings.replicas)
        self.background.start(keeps.run(), f"the replicas of {pool.name}")
        if scaled.enabled:
            self._decide(self.scaling.scaler(pool.name, keeps).run(), pool)

    def _give_up(self, pool: Pool) -> None:
        """A replica can never start; without any other one there is nothing to serve."""
        if not len(pool.fleet):
            self.hopeless.set()


async def _run(
    settings: Settings,
    models: Sequence[ModelDescription | None],
    scratch: Path,
    tracing: Tracing | None,
    api_keys: Sequence[str] | None,
) -> int:
    stop = StopSignal()
    public = bind(settings.gateway.host, settings.gateway.port)
    admin = None
    if settings.admin.port is not None:
        admin = bind(
            settings.admin.host,
            settings.admin.port,
            "--admin-port or admin.host (--admin-port 0 takes any free one)",
        )
    drain_s = settings.gateway.drain_timeout_s
    async with contextlib.AsyncExitStack() as stack:
        inside = await stack.enter_async_context(in_cluster(settings))
        gateway = Gateway(settings, scratch, tracing, inside, api_keys)
        doors = listeners(gateway, public, admin)
        log.info("%s", announced(settings.pools, [each.url for each in doors]))
        stack.push_async_callback(gateway.close)
        limits = ClientLimits.of(settings.gateway)
        await stack.enter_async_context(serving(doors, stop_timeout_s=drain_s, limits=limits))
        for pool, model in zip(settings.pools, models, strict=True):
            gateway.add_pool(pool, model)
        _collect_rarely()
        greeting = asyncio.create_task(_greet(gateway, [each.url for each in doors]))
        stack.callback(greeting.cancel)
        ends = (stop.wait(), gateway.hopeless.wait(), gateway.background.failed.wait())
        waiting = [asyncio.create_task(end) for end in ends]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        gateway.draining = True
        await cancelled(*waiting)
    log.info("%s", farewell(gateway.requests()))
    if gateway.background.failed.is_set():
        return LOOP_FAILED
    return SETUP_FAILED if gateway.hopeless.is_set() else 0


def _collect_rarely() -> None:
    """Let the garbage collector leave alone what lives as long as the process.

    It looks less often at the rest, because every request waits while it looks: measured on a
    loaded machine, 6 % of a request's time and half of the p99 under full load.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _greet(gateway: Gateway, urls: Sequence[str]) -> None:
    """Once everything is ready, say so."""
    while not gateway.ready():
        await asyncio.sleep(0.05)
    names = list({served.names[0]: None for served in gateway.models.values()})
    greet(names, urls, keys=not isinstance(gateway.guards.callers, OpenAccess))
