"""Which pools need a cluster."""

from __future__ import annotations

import pytest

from embedfleet.fleet.fleet import Fleet
from embedfleet.gateway.in_cluster import InCluster, in_cluster, needed
from embedfleet.kubernetes.connection import Connection
from embedfleet.settings import Pool
from embedfleet.vocabulary import SettingError
from tests.kubernetes.test_follower import SLICES, ready, until
from tests.stand_ins.kubernetes import api_server


async def test_a_gateway_without_pods_speaks_to_no_api_server() -> None:
    async with in_cluster([Pool(model="builtin")]) as inside:
        assert inside is None
    with pytest.raises(SettingError, match="needs a cluster"):
        needed(None)


async def test_each_pool_follows_a_service_of_its_own() -> None:
    async with api_server() as server:
        cluster = Connection.at(server.url)
        inside, first, second = InCluster(cluster), Fleet(), Fleet()
        other = ready("z")
        other["metadata"] = {"name": "o", "labels": {"kubernetes.io/service-name": "other"}}
        server.put(SLICES, ready("a"))
        server.put(SLICES, other)
        inside.follow("embedfleet/engine:http", first)
        inside.follow("embedfleet/other:9000", second)
        await until(lambda: len(first) == len(second) == 1)

        assert [member.name for member in (*first, *second)] == ["a", "z"]
        await inside.close()
        await cluster.close()


async def test_a_service_that_is_none_is_refused_at_once() -> None:
    async with api_server() as server:
        cluster = Connection.at(server.url)
        with pytest.raises(SettingError, match="embedfleet/engine:http"):
            InCluster(cluster).follow("engine", Fleet())
        await cluster.close()
