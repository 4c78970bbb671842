"""A gateway's integration with Kubernetes: endpoint discovery, leader election and scaling.

Decides from the settings whether a cluster is needed, and assembles what a pool needs to scale a
Deployment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp

from embedfleet.autoscaling import ObservationSource, Target
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
from embedfleet.server.gateway.peer_aggregation import PeerAggregator
from embedfleet.server.gateway.scaling import Scaling
from embedfleet.server.gateway.third_party.http import read_key
from embedfleet.vocabulary import SettingError

log = logging.getLogger(__name__)


class InCluster:
    """What a gateway does in the cluster that it runs in."""

    def __init__(self, cluster: Cluster, settings: Settings, me: str) -> None:
        """`me` is this pod's name."""
        self.cluster = cluster
        self._settings = settings
        self._me = me
        self.peers: Peers | None = None
        """To be run, where gateways tell each other what they see."""
        if settings.admin.peer_service is not None:
            self.peers = Peers(cluster, endpoints.parse(settings.admin.peer_service), me)

    def following(self, service: str, fleet: Fleet) -> FleetSync:
        """What keeps a fleet to the pods of `namespace/name:port`. Raises SettingError."""
        return FleetSync(fleet, endpoints.parse(service), self.cluster)

    def scaling(
        self,
        pool: Pool,
        settings: PoolSettings,
        scalers: Scaling,
        metrics: GatewayMetrics,
        source: ObservationSource,
    ) -> Leadership:
        """What has the policy decide about a pool's Deployment, here or in another gateway."""
        pods = Pods(pool.fleet, self._deployment(settings), pool.outstanding)
        started = metrics.start_up.labels(pool.name, "start").observe
        count = DeploymentSize(
            pods, ScalingListener(metrics.deployed.labels(pool.name).set, started)
        )
        drain_s = self._settings.gateway.drain_timeout_s
        # If no gateway ever gets the lease, alerts can still see since when nothing was decided.
        metrics.decided.labels(pool.name).set(time.time())

        async def decide() -> None:
            await count.first()
            async with asyncio.TaskGroup() as tasks:
                target: Target = Exported(count)
                if settings.scaling == "direct":
                    target = Direct(pods, count, drain_s, tasks.create_task)
                # A new one: it shrinks nothing yet.
                scaler = scalers.scaler(pool.name, target, source)
                for loop in (scalers.run(scaler), count.keep(), Costs(pods).keep()):
                    tasks.create_task(loop)
                try:
                    await asyncio.Event().wait()
                finally:
                    if scalers.scalers.get(pool.name) is scaler:
                        del scalers.scalers[pool.name]  # by hand is a matter of who decides

        name = f"{pods.deployment.name}-autoscaler"
        namespace = pods.deployment.namespace
        return Leadership(self.cluster, namespace, name, self._me, decide)

    def leading(self, name: str, work: Callable[[], Awaitable[None]]) -> Leadership:
        """Work in one gateway at a time, of those whose pods are in one namespace."""
        services = (pool.replica_service for pool in self._settings.pools)
        namespace = next(each.partition("/")[0] for each in services if each)
        return Leadership(self.cluster, namespace, name, self._me, work)

    def aggregated(
        self, pool: str, own: ObservationSource, session: aiohttp.ClientSession
    ) -> ObservationSource:
        """What all gateways of the cluster see, where they are named; else what this one does."""
        if self.peers is None:
            return own
        key = read_key(self._settings.admin.key_file)
        return PeerAggregator(pool, own, self.peers.urls, session, key)

    async def check(self) -> None:
        """Refuse to scale what another autoscaler owns. Raises SettingError.

        An API server that can't be asked now is asked again before anything is set.
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
    """The cluster, where a pool needs one. Raises SettingError and ClusterSetupError."""
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
    """The cluster that a pool asks for."""
    if inside is None:
        raise SettingError(
            "pools.replica_service needs a cluster, and this gateway is not connected to one"
        )
    return inside
