"""The other gateways of a Service."""

from __future__ import annotations

import asyncio

from embedfleet.fleet.kubernetes.api_client import Connection
from embedfleet.fleet.kubernetes.endpoints import Service
from embedfleet.fleet.kubernetes.fleet_sync import Peers
from tests.fleet.kubernetes.test_endpoints import pod, slice_of
from tests.fleet.kubernetes.test_fleet_sync import SLICES, ready
from tests.loops import running
from tests.stand_ins.kubernetes import api_server


async def test_others_are_asked_and_this_one_and_those_that_leave_are_not() -> None:
    async with api_server() as server:
        cluster = Connection.at(server.url)
        peers = Peers(cluster, Service("embedfleet", "engine", "8081"), "b")
        waiting = asyncio.create_task(peers.urls())
        server.put(SLICES, ready("a", "b", "c"))
        async with running(peers.run()):
            assert await waiting == ["http://10.0.0.97:8081", "http://10.0.0.99:8081"]

            leaving = pod("a", "10.0.0.97", ready=False, serving=True, terminating=True)
            server.put(SLICES, slice_of(leaving, pod("b", "10.0.0.98"), pod("c", "10.0.0.99")))
            async with asyncio.timeout(60):
                while await peers.urls() != ["http://10.0.0.99:8081"]:
                    await asyncio.sleep(0.002)
        await cluster.close()
