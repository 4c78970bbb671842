"""A gateway's pools in Kubernetes: whose pods they follow.

Decides whether a cluster is needed and when its API server is spoken to. Refuses to know what
endpoints are (`kubernetes/`) and what a replica is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

from embedfleet.fleet.fleet import Fleet
from embedfleet.kubernetes import endpoints
from embedfleet.kubernetes.cluster import Cluster
from embedfleet.kubernetes.connection import Connection
from embedfleet.kubernetes.follower import Follower
from embedfleet.settings import Pool as PoolSettings
from embedfleet.vocabulary import SettingError


class InCluster:
    """What a gateway does in the cluster that it runs in."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._followers: list[Follower] = []

    def follow(self, service: str, fleet: Fleet) -> None:
        """Keep a fleet to the pods of `namespace/name:port`. Raises SettingError."""
        follower = Follower(fleet, endpoints.parse(service), self.cluster)
        follower.start()
        self._followers.append(follower)

    async def close(self) -> None:
        await asyncio.gather(*(follower.close() for follower in self._followers))


@contextlib.asynccontextmanager
async def in_cluster(pools: Iterable[PoolSettings]) -> AsyncIterator[InCluster | None]:
    """The cluster, where a pool needs one. Raises SettingError and ClusterSetupError."""
    if not any(pool.replica_service for pool in pools):
        yield None
        return
    connection = await Connection.open()
    inside = InCluster(connection)
    try:
        yield inside
    finally:
        await inside.close()
        await connection.close()


def needed(inside: InCluster | None) -> InCluster:
    """The cluster that a pool asks for."""
    if inside is None:
        raise SettingError("pools.replica_service needs a cluster, and this gateway opened none")
    return inside
