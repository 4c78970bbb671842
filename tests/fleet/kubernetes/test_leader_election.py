"""Who may act: leases, decided and held against a stand-in of the API server."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.fleet.kubernetes.api_client import Connection
from embedfleet.fleet.kubernetes.cluster import ClusterError
from embedfleet.fleet.kubernetes.leader_election import (
    Candidacy,
    Leadership,
    LeaseAction,
    Times,
    written,
)
from embedfleet.runtime.background import Background, cancelled
from tests.fakes.virtual_time import run as run_virtually
from tests.fleet.kubernetes.test_fleet_sync import until
from tests.stand_ins.kubernetes import ApiServer, Fault, api_server

LEASES = "/apis/coordination.k8s.io/v1/namespaces/embedfleet/leases"
QUICK = Times(lease_s=0.6, act_s=0.4, retry_s=0.02)


def lease(holder: str, renewed: str = "1") -> dict[str, Any]:
    return {"metadata": {"name": "x"}, "spec": {"holderIdentity": holder, "renewTime": renewed}}


def test_a_lease_without_a_holder_is_acquired() -> None:
    assert Candidacy("a").read(None, 0.0).next_action(0.0) is LeaseAction.TAKE
    assert Candidacy("a").read(lease(""), 0.0).next_action(0.0) is LeaseAction.TAKE


def test_a_holder_that_renews_keeps_it() -> None:
    candidate = Candidacy("a")
    for second in range(60):
        candidate = candidate.read(lease("b", str(second)), float(second))
        assert candidate.next_action(second + 0.5) is LeaseAction.WAIT
        assert not candidate.leads(second)


def test_a_silent_holder_loses_it_after_the_time_of_the_lease_by_our_own_clock() -> None:
    candidate = Candidacy("a").read(lease("b"), 1000.0).read(lease("b"), 1010.0)

    assert candidate.next_action(1015.0) is LeaseAction.WAIT
    assert candidate.next_action(1015.1) is LeaseAction.TAKE


def test_who_could_not_renew_stops_before_others_may_begin() -> None:
    ours = written(None, "x", "a", "t", 15.0)
    holder = Candidacy("a").read(None, 0.0).wrote(ours, 0.0)
    other = Candidacy("b").read(ours, 0.0)

    assert holder.leads(9.9)
    assert not holder.leads(10.0)
    assert other.next_action(15.0) is LeaseAction.WAIT


def test_a_restarted_holder_of_the_same_name_must_write_before_it_acts() -> None:
    again = Candidacy("a").read(lease("a"), 5.0)

    assert again.next_action(5.0) is LeaseAction.RENEW
    assert not again.leads(5.0)


def test_a_lease_that_is_taken_over_counts_so_and_keeps_its_version() -> None:
    before = {
        "metadata": {"name": "x", "resourceVersion": "7"},
        "spec": {"holderIdentity": "b", "leaseTransitions": 2, "acquireTime": "s"},
    }
    after = written(before, "x", "a", "t", 15.0)

    assert after["metadata"]["resourceVersion"] == "7"
    assert after["spec"] == {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "acquireTime": "t",
        "renewTime": "t",
        "leaseTransitions": 3,
    }
    assert written(after, "x", "a", "u", 15.0)["spec"]["leaseTransitions"] == 3


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.floats(0.1, 6.0), st.floats(0.0, 4.0), st.booleans()),
        max_size=40,
    )
)
def test_two_never_lead_at_once_however_late_they_read_and_write(
    looks: list[tuple[str, float, float, bool]],
) -> None:
    """Each look comes after a pause, its write takes time, and may be lost on the way."""
    held: dict[str, Any] | None = None
    candidates = {name: Candidacy(name) for name in "ab"}
    now, stamp = 0.0, 0
    for name, pause, takes, lost in looks:
        now += pause
        assert sum(each.leads(now) for each in candidates.values()) <= 1
        asked_at = now
        candidates[name] = candidates[name].read(held, now)
        if candidates[name].next_action(now) is LeaseAction.WAIT:
            continue
        now += takes
        stamp += 1
        body = written(held, "x", name, str(stamp), 15.0)
        if not lost:
            held = body
            candidates[name] = candidates[name].wrote(body, asked_at)
        assert sum(each.leads(now) for each in candidates.values()) <= 1


class Work:
    """Something that only one may do."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.began: list[str] = []

    async def of(self, name: str) -> None:
        self.running.add(name)
        self.began.append(name)
        try:
            await asyncio.Event().wait()
        finally:
            self.running.discard(name)


@contextlib.asynccontextmanager
async def candidates(
    server: ApiServer, work: Work, *names: str, times: Times = QUICK
) -> AsyncIterator[dict[str, asyncio.Task[None]]]:
    cluster = Connection.at(server.url)
    found = {
        name: Leadership(
            cluster,
            "embedfleet",
            "engine-autoscaler",
            name,
            partial(work.of, name),
            times=times,
            rng=Random(1),
        )
        for name in names
    }
    background = Background()
    runs = {name: background.start(each.run(), name) for name, each in found.items()}
    try:
        yield runs
    finally:
        await background.close()
        await cluster.close()
    assert not background.failed.is_set()


async def test_one_of_several_works_and_another_goes_on_when_it_leaves() -> None:
    async with api_server() as server:
        work = Work()
        async with candidates(server, work, "a", "b", "c") as found:
            await until(lambda: bool(work.running))
            (first,) = work.running
            await cancelled(found[first])
            await until(lambda: bool(work.running - {first}))

            assert len(work.running) == 1
            held = server.collections[LEASES]["engine-autoscaler"]
            assert held["spec"]["holderIdentity"] in work.running
            assert held["spec"]["leaseTransitions"] >= 1


async def test_a_leader_that_cannot_renew_stops_working_and_begins_again_later() -> None:
    async with api_server() as server:
        work = Work()
        async with candidates(server, work, "a"):
            await until(lambda: bool(work.running))
            fault = Fault("GET", "leases", 503, times=10_000)
            server.faults.append(fault)
            await until(lambda: not work.running)
            fault.times = 0
            await until(lambda: bool(work.running))

            assert work.began == ["a", "a"]


@pytest.mark.parametrize("status", [0, 409, 429, 500])
async def test_occasional_failed_writes_do_not_lose_the_lease(status: int) -> None:
    async with api_server() as server:
        work, times = Work(), replace(QUICK, lease_s=60.0, act_s=40.0)  # longer than any pause
        async with candidates(server, work, "a", times=times):
            await until(lambda: bool(work.running))
            for _ in range(3):
                done = len(server.asked)
                server.faults.append(Fault("PUT", "leases", status))
                await until(lambda done=done: len(server.asked) > done + 4)  # type: ignore[misc]

            assert work.running == {"a"}
            assert work.began == ["a"]


async def test_a_bug_of_the_work_comes_out_and_gives_the_lease_up() -> None:
    """The process ends by it; another begins at once."""
    async with api_server() as server:

        async def failing() -> None:
            raise ZeroDivisionError("a bug")

        cluster = Connection.at(server.url)
        leadership = Leadership(cluster, "embedfleet", "x", "a", failing, times=QUICK)
        with pytest.raises(ExceptionGroup) as raised:
            await leadership.run()
        assert raised.group_contains(ZeroDivisionError)
        assert server.collections[LEASES]["x"]["spec"]["holderIdentity"] == ""
        await cluster.close()


class Far:
    """An API server that one candidate reaches well, slowly, or so that its requests hang; what was
    asked may be done though the answer never comes.
    """

    def __init__(self, held: dict[str, Any], moods: list[tuple[float, str, float]]) -> None:
        self._held = held
        self._moods = moods
        """For so many seconds: what becomes of requests, and how long each way takes."""

    def _mood(self) -> tuple[str, float]:
        now = asyncio.get_running_loop().time() - 1000.0
        for lasts_s, kind, takes_s in self._moods:
            if now < lasts_s:
                return kind, takes_s
            now -= lasts_s
        return "well", 0.05

    async def ask(
        self, method: str, path: str, *, query: object = None, body: Any = None
    ) -> dict[str, Any]:
        kind, takes_s = self._mood()
        if kind == "refuses":
            raise ClusterError("503", code=503)
        await self._way(kind, takes_s)
        found = self._held.get("lease")
        if method != "GET":
            version = (body.get("metadata") or {}).get("resourceVersion")
            if found is not None and version != found["metadata"]["resourceVersion"]:
                raise ClusterError("the object has been modified", code=409)
            number = 1 + int(found["metadata"]["resourceVersion"] if found else 0)
            metadata = {**body["metadata"], "resourceVersion": str(number)}
            found = self._held["lease"] = {**body, "metadata": metadata}
        elif found is None:
            raise ClusterError("not found", code=404)
        answer = copy.deepcopy(found)
        kind, takes_s = self._mood()
        await self._way(kind, takes_s)
        return answer

    async def _way(self, kind: str, takes_s: float) -> None:
        await asyncio.sleep(10_000.0 if kind == "hangs" else takes_s)
        if kind == "loses":
            raise ClusterError("the connection was reset")


MOODS = st.lists(
    st.tuples(
        st.floats(0.5, 40.0),
        st.sampled_from(["well", "slow", "hangs", "refuses", "loses"]),
        st.floats(0.0, 20.0),
    ),
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(MOODS, st.floats(0.9, 1.1), st.floats(-1e6, 1e6)), min_size=2, max_size=3),
    st.integers(0, 2**32),
)
def test_two_never_act_at_once_whatever_their_api_servers_and_clocks_do(
    replicas: list[tuple[list[tuple[float, str, float]], float, float]], seed: int
) -> None:
    """Servers that hang, are slow, refuse and lose answers; clocks that are wrong by any offset and
    go a tenth faster or slower. In virtual time.
    """
    acting: set[int] = set()
    acted = set()

    async def happen() -> None:
        loop, held = asyncio.get_running_loop(), dict[str, Any]()

        def clock(offset: float) -> float:
            return loop.time() + offset

        candidates: list[Leadership] = []
        for number, (moods, rate, offset) in enumerate(replicas):

            async def work(me: int = number) -> None:
                assert not acting, "another one acts"
                acting.add(me)
                acted.add(me)
                try:
                    while True:
                        assert candidates[me].leads, "its time is over"
                        await asyncio.sleep(0.07)
                finally:
                    acting.discard(me)

            candidates.append(
                Leadership(
                    Far(held, moods),  # type: ignore[arg-type]
                    "embedfleet",
                    "x",
                    f"gateway-{number}",
                    work,
                    rng=Random(seed + number),
                    # A clock that goes faster is one by which all that lasts is shorter.
                    times=Times(15.0 / rate, 10.0 / rate, 2.0 / rate),
                    clock=partial(clock, offset),
                )
            )
        runs = [asyncio.create_task(each.run()) for each in candidates]
        await asyncio.wait(runs, timeout=400, return_when=asyncio.FIRST_EXCEPTION)
        over = [run.exception() for run in runs if run.done()]
        await cancelled(*runs)
        assert not over, over
        assert acted, "nobody ever led, though all is well in the end"

    run_virtually(happen())
