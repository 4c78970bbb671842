"""A gateway in a cluster: whose pods it follows, and how its decisions become replicas."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest

from embedfleet.autoscaling import Observation
from embedfleet.fleet.balancing import POLICIES
from embedfleet.fleet.fleet import Fleet
from embedfleet.fleet.kubernetes.api_client import Connection
from embedfleet.runtime.settings import Settings, load
from embedfleet.runtime.telemetry.metrics import GatewayMetrics
from embedfleet.scheduling.delivery.pool import Pool
from embedfleet.server.gateway.in_cluster import InCluster, in_cluster, needed
from embedfleet.server.gateway.pools.setup import replica_client
from embedfleet.server.gateway.replicas.upstream import Upstream
from embedfleet.server.gateway.scaling import Scaling
from embedfleet.server.gateway.server import Gateway
from embedfleet.vocabulary import SettingError
from tests.fleet.kubernetes.test_fleet_sync import SLICES, ready, until
from tests.fleet.kubernetes.test_targets import DEPLOYMENTS, HPAS
from tests.loops import running
from tests.stand_ins.kubernetes import ApiServer, Fault, api_server

POOL = "embeddings"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/embedfleet/leases"
BUSY = Observation(
    now=0.0,
    ready=2,
    arriving_fast=100_000.0,
    arriving_slow=100_000.0,
    waiting_tokens=0.0,
    tokens_per_s=20_000.0,
)
"""Asks for nine replicas: 100,000 tokens/s at 60 % of 20,000 each."""


@dataclass
class Seen:
    """What a gateway sees, as a test says it."""

    observation: Observation = BUSY
    asked: int = field(default=0)

    async def observe(self, now: float) -> Observation:
        self.asked += 1
        return replace(self.observation, now=now)


def settings(scaling: str | None = None) -> Settings:
    toml = (
        "[autoscaling]\ntick_s = 0.02\nmax_replicas = 12\n"
        f"[[pools]]\nserved_names = ['{POOL}']\nreplica_service = 'embedfleet/engine:http'\n"
    )
    if scaling is not None:
        toml += f"scale_target = 'embedfleet/engine'\nscaling = '{scaling}'\n"
    return load(toml, {}, {})


@dataclass
class Here:
    """A gateway's pool whose Deployment is scaled, and what the gateway sees."""

    pool: Pool
    scaling: Scaling
    metrics: GatewayMetrics
    seen: Seen

    @property
    def decides(self) -> bool:
        return POOL in self.scaling.scalers


@contextlib.asynccontextmanager
async def here(
    server: ApiServer, scaling: str, observation: Observation = BUSY, me: str = "gateway-a"
) -> AsyncIterator[Here]:
    chosen = settings(scaling)
    cluster, upstream = (
        Connection.at(server.url),
        Upstream.open(connect_timeout_s=30, probe_timeout_s=30),
    )
    inside, metrics, seen = InCluster(cluster, chosen, me), GatewayMetrics(), Seen(observation)
    pool = Pool(
        POOL,
        Fleet(),
        replica_client(upstream, chosen.pools[0], None),
        POLICIES["least-work"](Random(1)),
        gateway=chosen.gateway,
        settings=chosen.fleet,
        metrics=metrics,
    )
    scales = Scaling(chosen.autoscaling, metrics)
    scales.see(pool, lambda: None)
    leadership = inside.scaling(pool, chosen.pools[0], scales, metrics, seen)
    try:
        async with running(leadership.run()):
            yield Here(pool, scales, metrics, seen)
    finally:
        await pool.close()
        upstream.close()
        await cluster.close()


def replicas(server: ApiServer) -> int:
    return int(server.collections[DEPLOYMENTS]["engine"]["spec"]["replicas"])


def deploy(server: ApiServer, count: int) -> None:
    server.put(DEPLOYMENTS, {"metadata": {"name": "engine"}, "spec": {"replicas": count}})


async def test_a_gateway_without_pods_speaks_to_no_api_server() -> None:
    async with in_cluster(load("[[pools]]\nmodel = 'builtin'", {}, {})) as inside:
        assert inside is None
    with pytest.raises(SettingError, match="needs a cluster"):
        needed(None)


async def test_a_pool_follows_its_service(tmp_path: Path) -> None:
    async with api_server() as server:
        server.put(SLICES, ready("a", "b"))
        cluster = Connection.at(server.url)
        made = Gateway(settings(), inside=InCluster(cluster, settings(), "gateway-a"))
        made.add_pool(settings().pools[0], None)
        (pool,) = made.pools
        await until(lambda: {member.name for member in pool.fleet} == {"a", "b"})

        assert not server.count("GET", "leases")
        await made.close()
        await cluster.close()


async def test_a_service_that_is_none_is_refused_at_once() -> None:
    async with api_server() as server:
        cluster = Connection.at(server.url)
        with pytest.raises(SettingError, match="embedfleet/engine:http"):
            InCluster(cluster, settings(), "gateway-a").following("engine", Fleet())
        await cluster.close()


async def test_direct_the_decision_is_set_by_who_holds_the_lease() -> None:
    async with api_server() as server:
        deploy(server, 2)
        async with here(server, "direct") as at:
            counted = f'embedfleet_autoscaling_deployment_replicas{{pool="{POOL}"}} 9.0'
            await until(lambda: counted in at.metrics.exposition().decode())

            assert replicas(server) == 9
            holder = server.collections[LEASES]["engine-autoscaler"]["spec"]["holderIdentity"]
            assert holder == "gateway-a"
            assert at.scaling.find(POOL).pool == POOL


async def test_external_the_decision_is_published_and_nothing_is_set() -> None:
    async with api_server() as server:
        deploy(server, 2)
        async with here(server, "external") as at:
            published = f'embedfleet_autoscaling_planned_replicas{{pool="{POOL}"}} 9.0'
            await until(lambda: published in at.metrics.exposition().decode())

            assert replicas(server) == 2
            assert not server.count("PATCH", "scale")


async def test_a_gateway_that_never_gets_the_lease_reports_since_when_nothing_was_decided() -> None:
    """The alert about it compares that with now; what has no series is older than nothing."""
    async with api_server() as server:
        deploy(server, 2)
        server.faults.append(Fault("GET", "leases", 403, times=10_000))
        before = time.time()
        async with here(server, "direct") as at:
            text = at.metrics.exposition().decode()
            series = "embedfleet_autoscaling_decision_timestamp_seconds"
            (found,) = re.findall(rf'^{series}{{pool="{POOL}"}} (\S+)$', text, re.MULTILINE)
            assert before <= float(found) <= time.time()
            assert "embedfleet_autoscaling_planned_replicas{" not in text
            assert not at.decides


async def test_of_two_gateways_one_decides_and_its_successor_does_not_shrink_at_first() -> None:
    quiet = replace(BUSY, arriving_fast=0.0, arriving_slow=0.0, ready=6)
    async with api_server() as server:
        deploy(server, 6)
        async with here(server, "direct", quiet, "gateway-b") as second:
            async with here(server, "direct", quiet, "gateway-a") as first:
                await until(lambda: first.decides or second.decides)
                await until(lambda: first.seen.asked + second.seen.asked > 3)
                assert first.decides != second.decides
            await until(
                lambda: second.decides and second.scaling.find(POOL).journal.last is not None
            )

            last = second.scaling.find(POOL).journal.last
            assert last is not None
            assert last.decision.winner == "restart"
            assert replicas(server) == 6


async def test_direct_is_refused_where_an_hpa_owns_the_deployment() -> None:
    async with api_server() as server:
        deploy(server, 2)
        target = {"kind": "Deployment", "name": "engine"}
        server.put(HPAS, {"metadata": {"name": "h"}, "spec": {"scaleTargetRef": target}})
        cluster = Connection.at(server.url)
        with pytest.raises(SettingError, match="HorizontalPodAutoscaler h owns"):
            await InCluster(cluster, settings("direct"), "a").check()
        await InCluster(cluster, settings("external"), "a").check()
        await cluster.close()


async def test_an_api_server_that_is_away_at_the_start_is_no_reason_not_to_serve() -> None:
    async with api_server() as server:
        server.faults.append(Fault("GET", "horizontalpodautoscalers", 403, times=9))
        cluster = Connection.at(server.url)
        await InCluster(cluster, settings("direct"), "a").check()
        await cluster.close()
