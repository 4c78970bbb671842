"""A Deployment that follows the autoscaler, set here or by KEDA, against a stand-in API server."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from random import Random
from typing import Any

import pytest

from embedfleet.autoscaling import Observation, Scaler, Target
from embedfleet.fleet.fleet import Fleet
from embedfleet.fleet.kubernetes.api_client import Connection
from embedfleet.fleet.kubernetes.cluster import ClusterError, RetryPolicy
from embedfleet.fleet.kubernetes.deletion_cost import ANNOTATION, VICTIM
from embedfleet.fleet.kubernetes.deployment import Deployment, parse
from embedfleet.fleet.kubernetes.targets import (
    SETTLED_S,
    Costs,
    DeploymentSize,
    Direct,
    Exported,
    Pods,
)
from embedfleet.fleet.states import Event
from embedfleet.runtime.settings import AutoscalingSettings
from embedfleet.vocabulary import ReplicaState, SettingError
from tests.fleet.kubernetes.test_fleet_sync import until
from tests.stand_ins.kubernetes import ApiServer, Fault, api_server

DEPLOYMENTS = "/apis/apps/v1/namespaces/embedfleet/deployments"
PODS = "/api/v1/namespaces/embedfleet/pods"
HPAS = "/apis/autoscaling/v2/namespaces/embedfleet/horizontalpodautoscalers"
SCALED = "/apis/keda.sh/v1alpha1/namespaces/embedfleet/scaledobjects"
S = ReplicaState


@dataclass
class Cluster:
    """A Deployment whose pods are a fleet in traffic."""

    server: ApiServer
    fleet: Fleet
    pods: Pods
    count: DeploymentSize
    work: dict[str, int] = field(default_factory=dict)

    @property
    def replicas(self) -> int:
        return int(self.server.collections[DEPLOYMENTS]["engine"]["spec"]["replicas"])

    def cost(self, pod: str) -> str | None:
        annotations = self.server.collections[PODS][pod]["metadata"].get("annotations", {})
        found: str | None = annotations.get(ANNOTATION)
        return found

    def owned_by(self, path: str, target: dict[str, Any]) -> None:
        self.server.put(path, {"metadata": {"name": "o"}, "spec": {"scaleTargetRef": target}})


@contextlib.asynccontextmanager
async def deployed(*names: str) -> AsyncIterator[Cluster]:
    async with api_server() as server:
        server.put(DEPLOYMENTS, {"metadata": {"name": "engine"}, "spec": {"replicas": len(names)}})
        fleet, connection = Fleet(), Connection.at(server.url)
        work: dict[str, int] = {}
        deployment = Deployment(
            connection, "embedfleet", "engine", RetryPolicy(0.002, 0.01), Random(1)
        )
        pods = Pods(fleet, deployment, lambda name: work.get(name, 0))
        count = DeploymentSize(pods)
        for name in names:
            server.put(PODS, {"metadata": {"name": name}})
            fleet.add(name, f"http://{name}", time.monotonic())
            for event in (Event.ANSWERED, Event.VERIFIED):
                fleet.apply(fleet[name], event, time.monotonic())
        await count.first()
        try:
            yield Cluster(server, fleet, pods, count, work)
        finally:
            await connection.close()


def direct(cluster: Cluster, drain_s: float = 5.0) -> Direct:
    return Direct(cluster.pods, cluster.count, drain_s, asyncio.create_task)


@pytest.mark.parametrize("text", ["engine", "a/b/c", "A/b", "a/"])
def test_an_invalid_deployment_name_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SettingError, match="embedfleet/engine"):
        parse(text)


async def test_a_restarted_gateway_goes_on_from_what_the_deployment_has() -> None:
    async with deployed("a", "b", "c") as cluster:
        target = direct(cluster)

        assert target.planned == 3
        assert math.isnan(target.start_up_s)


async def test_more_replicas_are_a_patch_of_the_scale_and_of_nothing_else() -> None:
    async with deployed("a", "b") as cluster:
        target = direct(cluster)
        await target.scale_to(5, 0, "a burst")

        assert (cluster.replicas, target.planned) == (5, 5)
        writes = [each for each in cluster.server.asked if each[0] != "GET"]
        assert writes == [("PATCH", f"{DEPLOYMENTS}/engine/scale", {"spec": {"replicas": 5}})]


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (HPAS, {"apiVersion": "apps/v1", "kind": "Deployment", "name": "engine"}),
        (SCALED, {"name": "engine"}),
    ],
)
async def test_nothing_is_set_where_another_autoscaler_owns_the_number(
    path: str, target: dict[str, Any]
) -> None:
    async with deployed("a", "b") as cluster:
        cluster.owned_by(path, target)
        with pytest.raises(ClusterError, match=r"belongs to \w+ o: the number of replicas"):
            await direct(cluster).scale_to(5, 0, "a burst")

        assert cluster.replicas == 2


async def test_autoscalers_of_other_objects_do_not_matter() -> None:
    async with deployed("a", "b") as cluster:
        cluster.owned_by(HPAS, {"kind": "Deployment", "name": "gateway"})
        cluster.owned_by(SCALED, {"kind": "StatefulSet", "name": "engine"})
        await direct(cluster).scale_to(3, 0, "more")

        assert cluster.replicas == 3


async def test_a_cluster_without_keda_has_no_scaled_objects() -> None:
    async with deployed("a", "b") as cluster:
        cluster.server.absent.add("scaledobjects")
        await direct(cluster).scale_to(3, 0, "more")

        assert cluster.replicas == 3


async def test_fewer_replicas_the_idle_one_drains_and_is_named_before_the_number_falls() -> None:
    async with deployed("a", "b", "c") as cluster:
        cluster.work.update(a=5000, b=100, c=9000)
        target = direct(cluster)
        await target.scale_to(2, 0, "quiet")

        await until(lambda: cluster.fleet["b"].state is S.DRAINING)
        assert cluster.cost("b") == str(VICTIM)
        assert cluster.fleet["b"].leaving
        assert (cluster.replicas, target.planned) == (3, 2)  # ordered, and it still works

        cluster.work["b"] = 0
        await until(lambda: cluster.replicas == 2)
        assert {cluster.fleet[name].state for name in "ac"} == {S.READY}
        await target.close()


async def test_a_replica_that_does_not_finish_in_time_goes_nevertheless() -> None:
    """Kubernetes gives it its grace period, and what is left goes to others."""
    async with deployed("a", "b") as cluster:
        cluster.work["a"] = cluster.work["b"] = 100
        target = direct(cluster, drain_s=0.05)
        await target.scale_to(1, 0, "quiet")
        await until(lambda: cluster.replicas == 1)
        await target.close()


async def test_a_burst_during_a_scale_down_keeps_the_replicas_that_were_to_go() -> None:
    async with deployed("a", "b") as cluster:
        cluster.work["a"] = cluster.work["b"] = 100
        target = direct(cluster)
        await target.scale_to(1, 0, "quiet")
        await until(lambda: cluster.fleet["a"].state is S.DRAINING)
        await target.scale_to(4, 0, "a burst")

        assert cluster.replicas == 4
        assert cluster.fleet["a"].state is S.STARTING  # and on to traffic, once verified
        assert not cluster.fleet["a"].leaving
        assert target.planned == 4


@pytest.mark.parametrize("status", [0, 409, 429, 500, 503])
async def test_a_server_that_fails_for_a_while_gets_the_number_in_the_end(status: int) -> None:
    """409 can't happen to a merge patch without a version, and is raised for the next tick."""
    async with deployed("a", "b") as cluster:
        cluster.server.faults.append(Fault("PATCH", "scale", status, times=3))
        target = direct(cluster)
        for _ in range(4):
            with contextlib.suppress(ClusterError):
                await target.scale_to(4, 0, "a burst")

        assert cluster.replicas == 4


def test_retry_after_of_a_server_is_honoured() -> None:
    """`Retry-After` of a 429; otherwise pauses double up to a ceiling, and differ by chance."""
    retry, rng = RetryPolicy(0.2, 30.0), Random(1)

    assert retry.pause_s(1, rng, 7.0) == 7.0
    pauses = [retry.pause_s(failures, rng) for failures in range(1, 20)]
    assert all(0.1 <= pause <= 30.0 for pause in pauses)
    assert min(pauses[9:]) >= 15.0


async def test_a_server_that_stays_away_is_an_error_and_changes_nothing() -> None:
    async with deployed("a", "b") as cluster:
        cluster.server.faults.append(Fault("GET", "horizontalpod", 503, times=100))
        target = direct(cluster)
        with pytest.raises(ClusterError):
            await target.scale_to(4, 0, "a burst")

        assert (cluster.replicas, target.planned) == (2, 2)


async def test_a_number_that_a_person_set_is_what_it_goes_on_from() -> None:
    async with deployed("a", "b") as cluster:
        target = direct(cluster)
        cluster.server.put(DEPLOYMENTS, {"metadata": {"name": "engine"}, "spec": {"replicas": 6}})
        await cluster.count.refresh()

        assert target.planned == 6


async def test_start_ups_are_timed_from_the_order_to_traffic() -> None:
    async with deployed("a") as cluster:
        target = direct(cluster)
        await target.scale_to(2, 0, "more")
        cluster.fleet.add("b", "http://b", time.monotonic())
        for event in (Event.ANSWERED, Event.VERIFIED):
            cluster.fleet.apply(cluster.fleet["b"], event, time.monotonic())

        assert 0.0 <= target.start_up_s < 60.0


async def test_standby_is_not_kept_as_pods() -> None:
    async with deployed("a") as cluster:
        for target in (direct(cluster), Exported(cluster.count)):
            with pytest.raises(ClusterError, match="placeholder"):
                await target.scale_to(1, 1, "")


async def test_a_published_number_counts_as_ordered_until_kubernetes_had_its_time() -> None:
    async with deployed("a", "b") as cluster:
        now = 1000.0
        target = Exported(cluster.count, lambda: now)
        assert target.planned == 2

        await target.scale_to(5, 0, "a burst")
        assert target.planned == 5
        assert cluster.replicas == 2  # an HPA sets it

        now += SETTLED_S  # and did not: its maximum, a quota
        assert target.planned == 2


class AllServe:
    """A pool of eight in which each serves, whatever was ordered; six could not carry it."""

    async def observe(self, now: float) -> Observation:
        rate = 40_000.0
        return Observation(
            now,
            ready=8,
            arriving_fast=rate,
            arriving_slow=rate,
            waiting_tokens=0.0,
            tokens_per_s=10_000.0,
        )


async def orders(target: Target) -> list[int]:
    """Numbers that an autoscaler orders in a quarter of an hour, each once."""
    scaler = Scaler("p", AllServe(), target, AutoscalingSettings(max_replicas=8))
    start = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
    ordered = [
        (await scaler.tick(float(now), start + timedelta(seconds=now))).ordered
        for now in range(5, 900, 5)
    ]
    return [number for number, _ in groupby(ordered)]


async def test_a_published_number_falls_and_stays_while_who_goes_still_serves() -> None:
    async with deployed(*"abcdefgh") as cluster:
        assert await orders(Exported(cluster.count)) == [8, 7]


async def test_a_deployment_shrinks_while_who_goes_still_serves() -> None:
    async with deployed(*"abcdefgh") as cluster:
        cluster.work.update(dict.fromkeys("abcdefgh", 100))
        target = direct(cluster)
        assert await orders(target) == [8, 7]

        cluster.work.clear()
        await until(lambda: cluster.replicas == 7)
        await target.close()


async def test_a_further_step_down_waits_for_the_one_under_way() -> None:
    """A drain may last longer than the pause between steps; begun anew it would never end."""
    async with deployed("a", "b", "c") as cluster:
        cluster.work.update(a=100, b=200, c=300)
        first, second = cluster.fleet["a"], cluster.fleet["b"]
        target = direct(cluster)
        await target.scale_to(2, 0, "quiet")
        await until(lambda: first.state is S.DRAINING)
        await target.scale_to(1, 0, "quieter")
        assert (first.state, second.state) == (S.DRAINING, S.READY)
        assert (cluster.replicas, target.planned) == (3, 1)

        cluster.work["a"] = 0
        await until(lambda: cluster.replicas == 2)
        cluster.fleet.apply(first, Event.LOST, time.monotonic())
        await until(lambda: second.state is S.DRAINING)
        cluster.work["b"] = 0
        await until(lambda: cluster.replicas == 1)
        assert cluster.fleet["c"].state is S.READY
        await target.close()


async def test_a_bug_in_a_scale_down_is_raised_where_it_was_started() -> None:
    """It would else be seen when somebody collects the task, if ever."""

    def broken(_name: str) -> int:
        raise ZeroDivisionError("a bug")

    async with deployed("a", "b") as cluster:
        pods = Pods(cluster.fleet, cluster.pods.deployment, cluster.pods.outstanding)

        async def shrinking() -> None:
            async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
                target = Direct(pods, cluster.count, 5.0, tasks.create_task)
                await target.scale_to(1, 0, "quiet")
                object.__setattr__(pods, "outstanding", broken)
                await asyncio.Event().wait()

        with pytest.raises(ExceptionGroup) as raised:
            await shrinking()
        assert raised.group_contains(ZeroDivisionError)
        assert not any(member.leaving for member in cluster.fleet)


async def test_a_scale_down_that_is_aborted_takes_its_deletion_cost_back() -> None:
    """Else an HPA, or the next step, would take who has become the busiest meanwhile."""
    async with deployed("a", "b") as cluster:
        cluster.work.update(a=100, b=200)
        costs, target = Costs(cluster.pods), direct(cluster)
        await costs.tell()
        await target.scale_to(1, 0, "quiet")
        await until(lambda: cluster.fleet["a"].state is S.DRAINING)
        assert cluster.cost("a") == str(VICTIM)

        await target.scale_to(2, 0, "a burst")
        for event in (Event.ANSWERED, Event.VERIFIED):
            cluster.fleet.apply(cluster.fleet["a"], event, time.monotonic())
        await costs.tell()
        assert cluster.cost("a") == "0"


async def test_costs_leave_those_alone_that_were_chosen_to_go() -> None:
    async with deployed("a", "b") as cluster:
        cluster.work.update(a=100, b=200)
        costs, target = Costs(cluster.pods), direct(cluster)
        await costs.tell()
        await target.scale_to(1, 0, "quiet")
        await until(lambda: cluster.fleet["a"].state is S.DRAINING)
        await costs.tell()

        assert cluster.cost("a") == str(VICTIM)
        await target.close()


async def test_costs_are_written_once_and_again_when_they_change() -> None:
    async with deployed("a", "b") as cluster:
        cluster.work["b"] = 50_000
        costs = Costs(cluster.pods)
        await costs.tell()
        assert cluster.cost("a") == "0"
        assert int(cluster.cost("b") or 0) > 0

        done = len(cluster.server.asked)
        await costs.tell()
        assert len(cluster.server.asked) == done

        cluster.fleet.apply(cluster.fleet["b"], Event.REFUSED, time.monotonic())
        await costs.tell()
        assert int(cluster.cost("b") or 0) < 0


async def test_costs_of_pods_that_are_gone_and_a_server_that_fails_do_no_harm() -> None:
    async with deployed("a", "b", "c") as cluster:
        cluster.server.remove(PODS, "a")
        cluster.server.faults.append(Fault("PATCH", "pods/b", 403))
        costs = Costs(cluster.pods)
        await costs.tell()
        await costs.tell()

        assert cluster.cost("b") == "0"
        assert cluster.cost("c") == "0"
