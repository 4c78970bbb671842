"""A gateway's integration with Kubernetes: endpoint discovery, leader election and scaling, and the
observations of a pool over all gateways in front of it.

Decides from the settings whether a cluster is needed, and assembles what a pool needs to scale a
Deployment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import fields

import msgspec

from embedfleet.autoscaling import Observation, ObservationSource, Target, total
from embedfleet.fleet.fleet import Fleet
from embedfleet.fleet.kubernetes import deployment, endpoints
from embedfleet.fleet.kubernetes.api_client import Connection
from embedfleet.fleet.kubernetes.cluster import Cluster, ClusterError
from embedfleet.fleet.kubernetes.deployment import Deployment
from embedfleet.fleet.kubernetes.fleet_sync import FleetSync, Peers
from embedfleet.fleet.kubernetes.leader_election import Leadership
from embedfleet.fleet.kubernetes.targets import (
    Costs,
    DeploymentSize,
    Direct,
    Exported,
    Pods,
    ScalingListener,
)
from embedfleet.runtime.settings import Pool as PoolSettings
from embedfleet.runtime.settings import Settings
from embedfleet.runtime.telemetry.metrics import GatewayMetrics
from embedfleet.scheduling.delivery.pool import Pool
from embedfleet.server.gateway.replicas.connections import (
    BrokenError,
    Connections,
    UnconnectedError,
    cause_of,
)
from embedfleet.server.gateway.replicas.third_party.http import read_key
from embedfleet.server.gateway.scaling import Scaling
from embedfleet.transport.untrusted import MOST_PAGE_BYTES
from embedfleet.vocabulary import ReplicaError, ServiceError, SettingError

log = logging.getLogger(__name__)

ASK_TIMEOUT_S = 3.0
REPORTED = {field.name for field in fields(Observation)} - {
    "now",
    "clock",
    "memory_used",
    "seconds",
}
"""Figures that gateways report to each other, beside those of seconds; clocks differ."""


class InCluster:
    """The Kubernetes side of a gateway."""

    def __init__(self, cluster: Cluster, settings: Settings, me: str) -> None:
        """`me` is this pod's name."""
        self.cluster = cluster
        self._settings = settings
        self._me = me
        self.peers: Peers | None = None
        """To be run if gateways exchange observations."""
        if settings.admin.peer_service is not None:
            self.peers = Peers(cluster, endpoints.parse(settings.admin.peer_service), me)

    def following(self, service: str, fleet: Fleet) -> FleetSync:
        """Synchronises a fleet with the pods of `namespace/name:port`. Raises SettingError."""
        return FleetSync(fleet, endpoints.parse(service), self.cluster)

    def scaling(
        self,
        pool: Pool,
        settings: PoolSettings,
        scalers: Scaling,
        metrics: GatewayMetrics,
        source: ObservationSource,
    ) -> Leadership:
        """The leader election and the scaler of a pool's Deployment."""
        pods = Pods(pool.fleet, self._deployment(settings), pool.outstanding)
        started = metrics.start_up.labels(pool.name, "start").observe
        count = DeploymentSize(
            pods, ScalingListener(metrics.deployed.labels(pool.name).set, started)
        )
        drain_s = self._settings.gateway.drain_timeout_s
        # So that alerts can tell how long no gateway has held the lease.
        metrics.decided.labels(pool.name).set(time.time())

        async def decide() -> None:
            await count.first()
            async with asyncio.TaskGroup() as tasks:
                target: Target = Exported(count)
                if settings.scaling == "direct":
                    target = Direct(pods, count, drain_s, tasks.create_task)
                # A new scaler does not scale down at first.
                scaler = scalers.scaler(pool.name, target, source)
                for loop in (scalers.run(scaler), count.keep(), Costs(pods).keep()):
                    tasks.create_task(loop)
                try:
                    await asyncio.Event().wait()
                finally:
                    if scalers.scalers.get(pool.name) is scaler:
                        del scalers.scalers[pool.name]  # manual orders are for the leader

        name = f"{pods.deployment.name}-autoscaler"
        namespace = pods.deployment.namespace
        return Leadership(self.cluster, namespace, name, self._me, decide)

    def leading(self, name: str, work: Callable[[], Awaitable[None]]) -> Leadership:
        """Run `work` in one gateway at a time, by leader election within the namespace."""
        services = (pool.replica_service for pool in self._settings.pools)
        namespace = next(each.partition("/")[0] for each in services if each)
        return Leadership(self.cluster, namespace, name, self._me, work)

    def aggregated(
        self, pool: str, own: ObservationSource, connections: Connections
    ) -> ObservationSource:
        """The source summed over all gateways if they are configured, else this one's."""
        if self.peers is None:
            return own
        key = read_key(self._settings.admin.key_file, "admin.key_file:")
        return PeerAggregator(pool, own, self.peers.urls, connections, key)

    async def check(self) -> None:
        """Refuse a Deployment that another autoscaler owns. Raises SettingError.

        If the API server can't be reached, this is checked again before anything is scaled.
        """
        for pool in self._settings.pools:
            if pool.scale_target is None or pool.scaling != "direct":
                continue
            found = self._deployment(pool)
            try:
                owners = await found.owners()
            except ClusterError as error:
                log.warning("could not check for other autoscalers of %s: %s", found, error.message)
                continue
            if owners:
                raise SettingError(
                    f"pools.scaling is direct, but {' and '.join(owners)} owns {found}: delete it, "
                    "or use pools.scaling = external"
                )

    def _deployment(self, settings: PoolSettings) -> Deployment:
        return Deployment(self.cluster, *deployment.parse(settings.scale_target or ""))


@contextlib.asynccontextmanager
async def in_cluster(settings: Settings) -> AsyncIterator[InCluster | None]:
    """The cluster if a pool needs one, else None. Raises SettingError and ClusterSetupError."""
    if not any(pool.replica_service for pool in settings.pools):
        yield None
        return
    connection = await Connection.open()
    try:
        inside = InCluster(connection, settings, socket.gethostname())
        await inside.check()
        yield inside
    finally:
        await connection.close()


def needed(inside: InCluster | None) -> InCluster:
    """The cluster; raises SettingError if there is none."""
    if inside is None:
        raise SettingError(
            "pools.replica_service needs a cluster, and this gateway is not connected to one"
        )
    return inside


class PeerAggregator:
    """Adds the observations of the other gateways to its own.

    All must answer: a gateway that is listed but silent carries an unknown amount of traffic.
    """

    def __init__(
        self,
        pool: str,
        own: ObservationSource,
        others: Callable[[], Awaitable[Sequence[str]]],
        connections: Connections,
        key: str = "",
    ) -> None:
        """`others` returns their admin addresses, `key` is the admin key."""
        self._pool = pool
        self._own = own
        self._others = others
        self._connections = connections
        self._headers = [("authorization", f"Bearer {key}")] if key else []

    async def observe(self, now: float) -> Observation:
        """Raises ServiceError if one of them does not answer."""
        own, others = await self._own.observe(now), await self._others()
        seen = await asyncio.gather(*(self._ask(url, now) for url in others))
        return total([own, *seen])

    async def _ask(self, url: str, now: float) -> Observation:
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                status, body, *_ = await self._connections.fetch(
                    "GET", f"{url}/observation", None, self._headers, MOST_PAGE_BYTES
                )
        except UnconnectedError as error:
            raise _silent(url, error.cause) from error
        except (BrokenError, ReplicaError, TimeoutError) as error:
            raise _silent(url, error) from error
        if status != 200:
            raise ServiceError(f"the gateway at {url} answers {status}")
        return self._read(body, url, now)

    def _read(self, body: bytes, url: str, now: float) -> Observation:
        try:
            pools = msgspec.json.decode(body, type=dict[str, dict[str, dict[str, object]]])
            reported = pools["pools"][self._pool]
            figures = {name: _figure(reported[name]) for name in REPORTED if name in reported}
            seconds = tuple(map(_figure, reported.get("seconds", ())))  # type: ignore[call-overload]
            return Observation(now=now, seconds=seconds, **figures)  # type: ignore[arg-type]  # each is a number
        except (msgspec.MsgspecError, ValueError, RecursionError, KeyError, TypeError) as error:
            raise ServiceError(
                f"the gateway at {url} reports no valid observation of {self._pool}"
            ) from error


def _silent(url: str, error: Exception) -> ServiceError:
    return ServiceError(f"the gateway at {url} does not answer: {cause_of(error)}")


def _figure(value: object) -> float:
    if value is None:
        return math.nan  # JSON has no word for it
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return value
