"""A gateway without its sockets: pools and their fleets, and what serves requests of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from random import Random

from embedfleet.api.batches.openapi import described
from embedfleet.api.batches.routes import BatchRoutes
from embedfleet.api.endpoint import Endpoint
from embedfleet.api.formats.embedding_request import RequestLimits
from embedfleet.api.served_model import ModelVersion, ServedModel
from embedfleet.fleet.balancing import POLICIES
from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.fleet.prober import Prober
from embedfleet.fleet.replica_client import ReplicaClient
from embedfleet.fleet.resolving import Resolving, resolvable
from embedfleet.fleet.supervisor import Supervisor
from embedfleet.models.description import ModelDescription
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.runtime.background import Background, cancelled
from embedfleet.runtime.machine import memory_used
from embedfleet.runtime.process import shrink_heap
from embedfleet.runtime.settings import Pool as PoolSettings
from embedfleet.runtime.settings import Settings
from embedfleet.runtime.telemetry.metrics import GatewayMetrics
from embedfleet.runtime.telemetry.tracing import Tracing
from embedfleet.scheduling.delivery.pool import Pool
from embedfleet.server.gateway.batch_api import CONTRACTS, batches_of
from embedfleet.server.gateway.caching import CacheCounter, CacheTrust, vector_cache
from embedfleet.server.gateway.front import (
    Guards,
)
from embedfleet.server.gateway.in_cluster import InCluster, needed
from embedfleet.server.gateway.pools.model import ModelContact, Trust
from embedfleet.server.gateway.pools.names import UNNAMED, Names, configured, with_short
from embedfleet.server.gateway.pools.scratch import Scratch
from embedfleet.server.gateway.pools.setup import provider, replica_client, supervisor
from embedfleet.server.gateway.recording import (
    ClientLimitCounter,
    KeyCounter,
    RequestCounter,
    StateGauge,
)
from embedfleet.server.gateway.replicas.upstream import Upstream
from embedfleet.server.gateway.scaling import Scaling
from embedfleet.server.gateway.workers.primary import Workers, WorkersObserver
from embedfleet.transport.access.ledger import Ledger
from embedfleet.transport.headers import trusted_networks
from embedfleet.vocabulary import ReplicaState, Truncation

log = logging.getLogger(__name__)


class Gateway:
    """Everything that serves requests, without the sockets."""

    def __init__(
        self,
        settings: Settings,
        tracing: Tracing | None = None,
        inside: InCluster | None = None,
        api_keys: Sequence[str] | None = None,
        *,
        workers: Workers | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """`inside` is the cluster, if a pool's replicas are pods. `workers` serve clients instead
        of this process; `ledger` is the quota ledger that a worker shares with the others.
        """
        self.settings, self.workers = settings, workers
        self.guards = Guards.of(settings, api_keys, self._first_name, ledger)
        self._inside = inside
        self.tracing = tracing
        self.metrics = GatewayMetrics()
        self.pools: list[Pool] = []
        self._truncations: list[Truncation] = []
        """Each pool's default truncation."""
        self._names = Names()
        self.models: dict[str, ServedModel] = {}
        self._served: set[int] = set()
        """Indices of the pools whose model is known."""
        self.draining = False
        self.hopeless = asyncio.Event()
        """Set when a pool has no replica and can never have one."""
        self.background = Background()
        self._scratch = Scratch()
        self.scaling = Scaling(settings.autoscaling, self.metrics)
        self._supervisors: list[Supervisor] = []
        self._states: list[StateGauge] = []
        self._watching: list[asyncio.Task[None]] = []
        """Probing tasks."""
        self._deciding: list[asyncio.Task[None]] = []
        """Autoscaling tasks."""
        self._upstream = Upstream.open(
            connect_timeout_s=settings.fleet.connect_timeout_s,
            probe_timeout_s=settings.fleet.probe_timeout_s,
        )
        self.cache = vector_cache(settings.cache, self.metrics)
        self._counter = RequestCounter(self.metrics)
        self._keys = KeyCounter(self.guards.callers, self.metrics)
        self._cached = CacheCounter(self.cache, self.metrics)
        self._start_watches()
        self.endpoint = self._endpoint()
        self.limits = ClientLimitCounter(settings.gateway, self.endpoint.answers, self.metrics)
        self.batches = self._batches()

    def _endpoint(self) -> Endpoint:
        limits, batches = self.settings.gateway, self.settings.batches.directory
        return Endpoint(
            lambda: self.models,
            limits=RequestLimits(
                max_texts=limits.max_texts,
                blank_texts=limits.blank_texts == "embed",
                unknown_fields=limits.unknown_fields == "ignore",
                input_ids=limits.input_ids,
                by_item=limits.on_error == "item",
            ),
            max_body_bytes=limits.max_body_bytes,
            max_held_bytes=limits.max_queued_bytes,
            max_answer_bytes=limits.max_answer_bytes,
            timeout_s=limits.request_timeout_s,
            trusted_proxies=trusted_networks(limits.trusted_proxies),
            tokenizer_threads=limits.tokenizer_threads,
            answered=self._counter.count,
            access=self.guards.callers,
            cache=self.cache,
            no_model=self._no_model,
            described=[] if batches is None else [described(list(CONTRACTS))],
        )

    def _batches(self) -> BatchRoutes | None:
        return batches_of(
            self.settings.batches,
            self.guards.callers,
            self.endpoint,
            self.background,
            self._inside,
            self.metrics.batch_storage_failures.inc,
        )

    def _start_watches(self) -> None:
        self.background.start(self._scratch.keep(), "keeping the replicas' files")
        for watch in self.guards.watches:
            self.metrics.reload_failing.labels(str(watch)).set_function(watch.is_failing)
            self.background.start(watch.run(), f"watching {watch}")
        if self._inside is not None and self._inside.peers is not None:
            self.background.start(self._inside.peers.run(), "following the other gateways")

    def add_pool(self, settings: PoolSettings, model: ModelDescription | None) -> None:
        """Start a pool: its local replicas, and probing of the remote ones."""
        place, names = len(self.pools), configured(settings, model)
        name, *_ = self._names.claim(place, names or (UNNAMED,))
        fleet = Fleet()
        client = replica_client(self._upstream, settings, model)
        pool = self._pool(name, settings, fleet, client)

        async def introduced(known: ModelDescription, encoder: Encoder) -> None:
            offered = self._names.offer(place, names or with_short(known.identity.name))
            self.serve(place, offered, known, encoder, contact.version)

        contact = ModelContact(
            settings,
            client,
            self._scratch,
            known=model,
            introduced=introduced,
            refused=self.metrics.golden_mismatches.labels(name).inc,
            drifted=self.metrics.golden_drift.labels(name).observe,
            trust=self._trust(pool),
        )
        self._watch(pool, contact)
        if model is not None:
            encoder = Encoder(model)
            shrink_heap()
            self.serve(place, names, model, encoder, contact.version)
        weights = settings.replica_weights or (1.0,) * len(settings.replica_urls)
        for number, (url, weight) in enumerate(zip(settings.replica_urls, weights, strict=True)):
            self._attach(pool, settings, f"remote-{number}", url.rstrip("/"), weight)
        if settings.replica_service is not None:
            self._follow(pool, settings)
        if settings.replicas and model is not None:
            self._supervise(pool, settings, model)

    def serve(
        self,
        place: int,
        names: tuple[str, ...],
        model: ModelDescription,
        encoder: Encoder,
        version: Callable[[], ModelVersion | None],
    ) -> None:
        """Serve the model of a pool under all its names."""
        pool = self.pools[place]
        pool.width, now = model.identity.width, int(time.time())
        truncate = self._truncations[place]
        served = ServedModel(
            model.identity, names, encoder, pool, now, version, model.pooling, truncate
        )
        self.models.update(dict.fromkeys(names, served))
        self._served.add(place)
        if self.workers is not None:
            self.workers.introduce(place, names, model, version)

    def mirror_pool(self, name: str, settings: PoolSettings, fleet: Fleet) -> None:
        """Start a pool whose fleet another process owns."""
        self._pool(name, settings, fleet, replica_client(self._upstream, settings, None))

    def observe(self) -> None:
        """Bring the gauges up to date, just before they are read."""
        for pool in self.pools:
            pool.observe()
        for states in self._states:
            states.observe()
        self.metrics.active_requests.set(self.endpoint.active)
        self._keys.observe()
        self._cached.observe()
        self.limits.observe()

    def _trust(self, pool: Pool) -> Trust | None:
        """The cache that golden checks are reported to, here or in the workers."""
        if self.workers is not None:
            return self.workers.trust(self.pools.index(pool))
        return None if self.cache is None else CacheTrust(self.cache, pool.name, pool.fleet)

    def _watch(self, pool: Pool, contact: ModelContact) -> None:
        """Start to probe a pool's replicas."""

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
            outstanding=pool.outstanding,
        )
        loop = self.background.start(prober.run(), f"watching the replicas of {pool.name}")
        self._watching.append(loop)

    def _no_model(self) -> str:
        """The message for clients while no model is known, without addresses and replicas' own
        messages, which are for operators (`/fleet`).
        """
        troubles = [member.trouble for pool in self.pools for member in pool.fleet]
        last = next((f"; one replica: {each}" for each in troubles if each), "")
        return f"no replica has answered yet, so no model is known{last}; try again soon"

    def ready(self) -> bool:
        """Whether every pool has a known model and a ready replica."""
        return bool(self.pools) and all(
            place in self._served and pool.fleet.count(ReplicaState.READY)
            for place, pool in enumerate(self.pools)
        )

    def requests(self) -> dict[int, int]:
        """Requests that ended, by HTTP status."""
        ended = Counter(self._counter.totals())
        if self.workers is not None:
            ended += self.workers.requests
        return ended

    def leave(self) -> None:
        """Report not ready, and continue serving."""
        self.draining = True
        if self.workers is not None:
            self.workers.leave()

    async def drain(self) -> None:
        """Report not ready; stop autoscaling and restarts."""
        self.draining = True
        for each in self._supervisors:
            each.drain()
        await cancelled(*self._deciding)

    async def close(self, grace: float | None = None) -> None:
        """Stop replicas within `grace` seconds, and abort what is still in flight."""
        if grace is None:
            grace = self.settings.gateway.drain_timeout_s
        await self.drain()
        await cancelled(*self._watching)  # or stopping would be reported as failures
        await asyncio.gather(*(supervisor.stop(grace) for supervisor in self._supervisors))
        if self.cache is not None:
            await self.cache.close()
        await asyncio.gather(*(pool.close() for pool in self.pools))
        await self.background.close()
        self.endpoint.close()
        self._upstream.close()
        self._scratch.close()

    def _pool(self, name: str, settings: PoolSettings, fleet: Fleet, client: ReplicaClient) -> Pool:
        self._states.append(StateGauge(name, fleet, self.metrics))
        if self.cache is not None:
            fleet.listen(CacheTrust(self.cache, name, fleet).follow)
        pool = Pool(
            name,
            fleet,
            client,
            POLICIES[settings.balancing](Random()),
            gateway=self.settings.gateway,
            settings=self.settings.fleet,
            metrics=self.metrics,
        )
        self.pools.append(pool)
        self._truncations.append(Truncation(settings.truncate))
        self.background.start(pool.run(), f"the pool {name}")
        observer = self.scaling.see(pool, memory_used if settings.replicas else lambda: None)
        if self.workers is not None:
            pool.elsewhere = self.workers.publish(name, fleet)
            self.scaling.wholes[name] = WorkersObserver(name, observer, self.workers)
        return pool

    def _first_name(self, name: str) -> str:
        served = self.models.get(name)
        return name if served is None else served.names[0]

    def _attach(
        self, pool: Pool, settings: PoolSettings, name: str, url: str, weight: float
    ) -> None:
        """Add a remote replica, or one for each address of its name."""
        if settings.replica_dns == "one" or not resolvable(url):
            pool.fleet.add(name, url, time.monotonic(), weight=weight)
            return
        following = Resolving(
            pool.fleet,
            name,
            url,
            weight=weight,
            interval_s=self.settings.fleet.resolve_interval_s,
            grace_s=self.settings.gateway.drain_timeout_s,
            outstanding=pool.outstanding,
        )
        self.background.start(following.run(), f"following the addresses of {url}")

    def _follow(self, pool: Pool, settings: PoolSettings) -> None:
        """Follow the pods that are the replicas, and scale their Deployment if configured."""
        inside = needed(self._inside)
        if settings.scale_target is not None:
            own = self.scaling.whole(pool.name)
            observer = inside.aggregated(pool.name, own, self._upstream.connections)
            leadership = inside.scaling(pool, settings, self.scaling, self.metrics, observer)
            self._decide(leadership.run(), pool)
        follower = inside.following(settings.replica_service or "", pool.fleet)
        self.background.start(follower.run(), f"following the pods of {pool.name}")

    def _decide(self, loop: Coroutine[None, None, None], pool: Pool) -> None:
        self._deciding.append(self.background.start(loop, f"the autoscaler of {pool.name}"))

    def _supervise(self, pool: Pool, settings: PoolSettings, model: ModelDescription) -> None:
        starts = provider(self.settings, settings, model, configured(settings, model))
        keeps = supervisor(pool, starts, self.settings, self.metrics, lambda _: self._give_up(pool))
        self._supervisors.append(keeps)
        keeps.start(self.settings.started_replicas(settings))
        self.background.start(keeps.run(), f"the replicas of {pool.name}")
        if self.settings.autoscaling.enabled:
            self._decide(self.scaling.run(self.scaling.scaler(pool.name, keeps)), pool)

    def _give_up(self, pool: Pool) -> None:
        """A replica can never start; without another one there is nothing to serve."""
        if not len(pool.fleet):
            self.hopeless.set()
