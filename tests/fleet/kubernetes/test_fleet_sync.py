"""A fleet that follows a Service, against a stand-in of the API server, by the real client."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.fleet.fleet import Fleet
from embedfleet.fleet.kubernetes.api_client import Connection
from embedfleet.fleet.kubernetes.cluster import RetryPolicy
from embedfleet.fleet.kubernetes.endpoints import Service
from embedfleet.fleet.kubernetes.fleet_sync import FleetSync
from embedfleet.fleet.states import Event
from embedfleet.vocabulary import ReplicaState
from tests.fleet.kubernetes.test_endpoints import pod, slice_of
from tests.loops import running, settle
from tests.stand_ins.kubernetes import ApiServer, Fault, api_server

SLICES = "/apis/discovery.k8s.io/v1/namespaces/embedfleet/endpointslices"
S = ReplicaState


@contextlib.asynccontextmanager
async def following(server: ApiServer) -> AsyncIterator[Fleet]:
    fleet, cluster = Fleet(), Connection.at(server.url)
    follower = FleetSync(
        fleet,
        Service("embedfleet", "engine", "http"),
        cluster,
        RetryPolicy(first_s=0.005, most_s=0.02),
        Random(1),
    )
    async with running(follower.run()):
        yield fleet
    await cluster.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.002)


async def until_told(server: ApiServer, holds: Callable[[], bool]) -> None:
    """The same, while the server tells its version, as it does once a minute."""
    async with asyncio.timeout(60):
        while not holds():
            server.bookmark(SLICES)
            await asyncio.sleep(0.02)


def names(fleet: Fleet) -> set[str]:
    return {member.name for member in fleet}


def serve(fleet: Fleet, name: str) -> None:
    """Let the replica come as far as traffic; that is the prober's work."""
    for event in (Event.ANSWERED, Event.VERIFIED):
        fleet.apply(fleet[name], event, time.monotonic())


def ready(*pods: str) -> dict[str, Any]:
    return slice_of(*(pod(name, f"10.0.0.{ord(name)}", ready=True) for name in pods))


async def test_pods_that_are_there_join_and_later_ones_as_they_become_ready() -> None:
    async with api_server() as server:
        server.put(SLICES, ready("a"))
        async with following(server) as fleet:
            await until(lambda: names(fleet) == {"a"})
            server.put(SLICES, slice_of(pod("a", "10.0.0.97"), pod("b", "10.0.0.98", ready=False)))
            server.put(SLICES, ready("a", "b"))
            await until(lambda: names(fleet) == {"a", "b"})

            assert fleet["b"].state is S.STARTING  # verified first, as any other
            assert fleet["b"].url == "http://10.0.0.98:9000"


async def test_slices_of_other_services_are_not_ours() -> None:
    async with api_server() as server:
        other = ready("x")
        other["metadata"] = {
            "name": "other-1",
            "labels": {"kubernetes.io/service-name": "other"},
        }
        server.put(SLICES, other)
        server.put(SLICES, ready("a"))
        async with following(server) as fleet:
            await until(lambda: names(fleet) == {"a"})
            other["endpoints"] = ready("y")["endpoints"]
            server.put(SLICES, other)
            server.put(SLICES, ready("a", "b"))
            await until(lambda: names(fleet) == {"a", "b"})


async def test_a_pod_that_terminates_finishes_what_it_has_and_gets_nothing_new() -> None:
    async with api_server() as server:
        server.put(SLICES, ready("a"))
        async with following(server) as fleet:
            await until(lambda: len(fleet) == 1)
            serve(fleet, "a")
            leaving = pod("a", "10.0.0.97", ready=False, serving=True, terminating=True)
            server.put(SLICES, slice_of(leaving))
            await until(lambda: fleet["a"].state is S.DRAINING)
            assert fleet["a"].leaving

            server.put(SLICES, slice_of())
            await until(lambda: not len(fleet))


async def test_a_pod_that_was_unready_for_a_while_is_verified_again() -> None:
    async with api_server() as server:
        server.put(SLICES, ready("a"))
        async with following(server) as fleet:
            await until(lambda: len(fleet) == 1)
            serve(fleet, "a")
            server.put(SLICES, slice_of(pod("a", "10.0.0.97", ready=False)))
            await until(lambda: fleet["a"].state is S.DRAINING)
            server.put(SLICES, ready("a"))
            await until(lambda: fleet["a"].state is S.STARTING)

            assert not fleet["a"].leaving


async def test_a_pod_that_leaves_before_it_had_started_is_forgotten() -> None:
    async with api_server() as server:
        server.put(SLICES, ready("a"))
        async with following(server) as fleet:
            await until(lambda: len(fleet) == 1)
            member = fleet["a"]
            server.put(SLICES, slice_of(pod("a", "10.0.0.97", ready=False)))
            await until(lambda: not len(fleet))
            assert member.leaving  # it was let go, not lost
            server.put(SLICES, ready("a"))
            await until(lambda: len(fleet) == 1)


async def test_a_watch_that_ended_goes_on_from_its_last_version() -> None:
    """A bookmark counts: without it the version would be too old after a quiet hour."""
    async with api_server() as server:
        server.put(SLICES, ready("a"))
        async with following(server) as fleet:
            await until(lambda: server.watches == 1)
            server.bookmark(SLICES)
            version = server.version
            await settle()  # until it has come
            server.end_watches()
            await until(lambda: server.count("GET", f"resourceVersion={version}") == 1)
            server.put(SLICES, ready("a", "b"))
            await until(lambda: names(fleet) == {"a", "b"})

            assert server.count("GET", "limit=") == 1


async def test_an_expired_version_makes_it_list_again_and_miss_nothing() -> None:
    async with api_server() as server:
        server.put(SLICES, ready("a", "b"))
        async with following(server) as fleet:
            await until(lambda: server.watches == 1)
            server.faults.append(Fault("GET", "watch=true", times=2))
            server.end_watches()
            await until(lambda: not server.watches)
            server.put(SLICES, ready("c"))
            server.forget()
            await until(lambda: names(fleet) == {"c"})

            assert server.count("GET", "limit=") == 2


@pytest.mark.parametrize("status", [0, 429, 500, 503])
async def test_while_the_server_is_away_the_fleet_stays_as_it_was(status: int) -> None:
    async with api_server() as server:
        server.put(SLICES, ready("a"))
        async with following(server) as fleet:
            await until(lambda: server.watches == 1)
            server.faults.append(Fault("GET", "endpointslices", status, times=5))
            server.end_watches()
            await until(lambda: not server.faults[0].times)
            assert names(fleet) == {"a"}
            server.put(SLICES, ready("a", "b"))
            await until(lambda: names(fleet) == {"a", "b"})


@pytest.mark.parametrize("waits", [False, True], ids=["refuses", "waits"])
async def test_a_store_that_was_restored_from_a_backup_is_listed_again(waits: bool) -> None:
    """Its versions went back. A server says so, or sends an event of a version that was before."""
    async with api_server() as server:
        server.waits_for_versions = waits
        server.put(SLICES, ready("a"))
        backup, version = server.collections, server.version
        server.put(SLICES, ready("a"))
        backup = copy.deepcopy(backup)
        for pods in ("ab", "abc"):
            server.put(SLICES, ready(*pods))
        async with following(server) as fleet:
            await until(lambda: names(fleet) == {"a", "b", "c"})
            server.restore(backup, version)
            server.end_watches()
            await until_told(server, lambda: names(fleet) == {"a"})
            server.put(SLICES, ready("a", "d"))
            await until(lambda: names(fleet) == {"a", "d"})


async def test_a_watch_without_events_has_an_unknown_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There are bookmarks at least; a restored server that waits for the version sends none."""
    monkeypatch.setattr("embedfleet.fleet.kubernetes.informer.SILENT_S", 0.01)
    async with api_server() as server:
        server.waits_for_versions = True
        server.put(SLICES, ready("a"))
        async with following(server) as fleet:
            await until(lambda: server.watches == 1)
            server.collections[SLICES]["engine-1"] = ready("b")
            await asyncio.sleep(0.05)
            server.end_watches()
            await until(lambda: names(fleet) == {"b"})


@dataclass
class History:
    """What happens to a server."""

    server: ApiServer
    kept: dict[str, dict[str, Any]]

    def put(self, pods: set[str]) -> None:
        self.server.put(SLICES, ready(*sorted(pods)))

    def remove(self) -> None:
        if self.server.collections[SLICES]:
            self.server.remove(SLICES, "engine-1")

    def back_up(self) -> None:
        self.kept = copy.deepcopy(self.server.collections)

    def restore(self) -> None:
        self.server.restore(self.kept, self.server.version // 2)
        self.server.end_watches()

    def fail(self, status: int) -> None:
        self.server.faults.append(Fault("GET", "endpointslices", status, times=2))

    def compact(self) -> None:
        self.server.forget()

    def end(self) -> None:
        self.server.end_watches()


STEPS = st.one_of(
    st.tuples(st.just("put"), st.sets(st.sampled_from("abcd"), min_size=1)),
    st.tuples(st.sampled_from(["remove", "compact", "back_up", "restore", "end"])),
    st.tuples(st.just("fail"), st.sampled_from([0, 410, 429, 500, 503, 504])),
)


@settings(max_examples=30, deadline=None)
@given(st.booleans(), st.lists(STEPS, max_size=20))
def test_whatever_happens_to_the_server_the_fleet_is_what_it_has_in_the_end(
    waits: bool, steps: list[tuple[Any, ...]]
) -> None:
    """Compacted, restored from a backup, away for a while, with watches that end in between."""

    async def happen() -> None:
        async with api_server() as server:
            server.waits_for_versions = waits
            server.put(SLICES, ready("a"))
            history = History(server, copy.deepcopy(server.collections))
            async with following(server) as fleet:
                for step, *given in steps:
                    getattr(history, step)(*given)
                    await asyncio.sleep(0.002)
                for fault in server.faults:
                    fault.times = 0
                server.put(SLICES, ready("e"))
                await until_told(server, lambda: names(fleet) == {"e"})

    asyncio.run(happen())


async def test_a_list_that_comes_in_pages_is_one_state() -> None:
    async with api_server() as server:
        server.page = 2
        for name in "abcde":
            each = ready(name)
            each["metadata"]["name"] = f"engine-{name}"
            server.put(SLICES, each)
        async with following(server) as fleet:
            await until(lambda: len(fleet) > 0)

            assert names(fleet) == set("abcde")
            assert server.count("GET", "continue=") == 2


async def test_a_server_that_refuses_at_once_is_not_asked_all_the_time() -> None:
    async with api_server() as server:
        server.faults.append(Fault("GET", "endpointslices", 403, times=1000))
        async with following(server):
            await asyncio.sleep(0.3)

            assert len(server.asked) < 100  # pauses of 5 to 20 ms
