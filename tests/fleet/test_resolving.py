"""Replicas behind one name: which addresses join and leave, and what the fleet sees of it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.fleet.fleet import Fleet
from embedfleet.fleet.resolving import KnownAddress, Resolving, addresses, at, moves, resolvable
from embedfleet.fleet.states import Event
from embedfleet.transport.host_names import HostNames
from embedfleet.vocabulary import ReplicaState
from tests.fleet.test_supervisor import until
from tests.loops import running, settle

S = ReplicaState
A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"


@pytest.mark.parametrize(
    ("url", "is_one"),
    [
        ("http://replica:9000", True),
        ("http://engine.example.org", True),
        ("http://10.0.0.5:9000", False),
        ("http://[::1]:9000", False),
        ("http://[fe80::1%25eth0]:9000", False),
        ("http://localhost:9000", False),
        ("http://replica.localhost:9000", False),
        ("https://engine.example.org", False),
    ],
)
def test_a_name_by_http_may_have_several_addresses(url: str, is_one: bool) -> None:
    assert resolvable(url) is is_one


def test_an_address_takes_the_place_of_the_name_alone() -> None:
    assert at("http://replica:9000", A) == "http://10.0.0.1:9000"
    assert at("http://replica", A) == "http://10.0.0.1"
    assert at("http://replica:9000", "fd00::1") == "http://[fd00::1]:9000"
    assert at("http://replica:9000/engine", A) == "http://10.0.0.1:9000/engine"


ANY = st.sampled_from([A, B, C])
KNOWN = st.dictionaries(ANY, st.builds(KnownAddress, st.booleans(), st.booleans()))


@given(KNOWN, st.lists(ANY, unique=True))
def test_no_change_of_a_name_takes_the_last_ready_replica_away(
    known: dict[str, KnownAddress], found: list[str]
) -> None:
    changes = list(moves(known, found))
    joined = {address for move, address in changes if move == "join"}
    left = {address for move, address in changes if move == "leave"}
    staying = {address for address, member in known.items() if not member.leaving} - left
    if found:
        assert joined == {each for each in found if each not in known or known[each].leaving}
        ready = {address for address in staying if known[address].ready}
        had = {address for address, m in known.items() if m.ready and not m.leaving}
        assert ready or not had
    else:
        assert not changes
    assert left.isdisjoint(found)
    if any(known[each].ready and not known[each].leaving for each in found if each in known):
        assert staying <= set(found), "what the name has no more leaves once another one is ready"


class Name:
    """A name whose addresses are what the test says."""

    def __init__(self, *found: str) -> None:
        self.found: Sequence[str] = found
        self.error: OSError | None = None
        self.asked: list[tuple[str, int]] = []
        self.owed: dict[str, int] = {}

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        if self.error is not None:
            raise self.error
        return self.found


@contextlib.asynccontextmanager
async def following(name: Name, *, grace_s: float = 60.0) -> AsyncIterator[Fleet]:
    fleet = Fleet()
    resolving = Resolving(
        fleet,
        "remote-0",
        "http://replica:9000",
        weight=2.0,
        interval_s=0.01,
        grace_s=grace_s,
        outstanding=lambda each: name.owed.get(each, 0),
        resolver=name.resolve,
    )
    async with running(resolving.run()):
        yield fleet


def urls(fleet: Fleet) -> set[str]:
    return {member.url for member in fleet}


def become_ready(fleet: Fleet, *names: str) -> None:
    for name in names:
        fleet.apply(fleet[name], Event.ANSWERED, time.monotonic())
        fleet.apply(fleet[name], Event.VERIFIED, time.monotonic())


async def test_each_address_of_a_name_is_a_replica() -> None:
    name = Name(A, B)
    async with following(name) as fleet:
        await until(lambda: len(fleet) == 2)
        assert urls(fleet) == {"http://10.0.0.1:9000", "http://10.0.0.2:9000"}
        assert [member.weight for member in fleet] == [2.0, 2.0]
        assert [member.state for member in fleet] == [S.STARTING] * 2
    assert set(name.asked) == {("replica", 9000)}


async def test_one_that_comes_joins_and_one_that_goes_finishes_what_it_has() -> None:
    name = Name(A, B)
    async with following(name) as fleet:
        await until(lambda: len(fleet) == 2)
        become_ready(fleet, f"remote-0-{A}", f"remote-0-{B}")
        gone = fleet[f"remote-0-{B}"]
        name.owed[gone.name] = 100
        name.found = (A, C)
        await until(lambda: gone.state is S.DRAINING)
        assert fleet[f"remote-0-{C}"].state is S.STARTING
        assert "no longer resolves here" in gone.reason
        await settle(0.05)
        assert gone.state is S.DRAINING
        name.owed.clear()
        await until(lambda: gone.state is S.GONE)
        assert urls(fleet) == {"http://10.0.0.1:9000", "http://10.0.0.3:9000"}


async def test_a_name_that_moves_altogether_keeps_its_old_replicas_until_a_new_one_is_ready() -> (
    None
):
    name = Name(A)
    async with following(name) as fleet:
        await until(lambda: len(fleet) == 1)
        become_ready(fleet, f"remote-0-{A}")
        old = fleet[f"remote-0-{A}"]
        name.found = (B,)
        await until(lambda: len(fleet) == 2)
        await settle(0.05)
        assert old.state is S.READY
        become_ready(fleet, f"remote-0-{B}")
        await until(lambda: urls(fleet) == {"http://10.0.0.2:9000"})


async def test_one_that_does_not_finish_is_lost_when_its_time_is_over() -> None:
    name = Name(A, B)
    async with following(name, grace_s=0.05) as fleet:
        await until(lambda: len(fleet) == 2)
        become_ready(fleet, f"remote-0-{A}", f"remote-0-{B}")
        name.owed[f"remote-0-{B}"] = 100
        name.found = (A,)
        await until(lambda: urls(fleet) == {"http://10.0.0.1:9000"})


async def test_one_that_comes_back_while_it_leaves_stays() -> None:
    """It starts over: what answers at its address may be another process by now."""
    name = Name(A, B)
    async with following(name) as fleet:
        await until(lambda: len(fleet) == 2)
        become_ready(fleet, f"remote-0-{A}", f"remote-0-{B}")
        member = fleet[f"remote-0-{B}"]
        name.owed[member.name] = 100
        name.found = (A,)
        await until(lambda: member.state is S.DRAINING)
        name.found = (A, B)
        await until(lambda: member.state is S.STARTING)
        assert not member.leaving
        name.owed.clear()
        await settle(0.05)
        assert fleet[member.name] is member


async def test_a_resolver_that_fails_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    name = Name(A, B)
    async with following(name) as fleet:
        await until(lambda: len(fleet) == 2)
        name.error = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        asked = len(name.asked)
        await until(lambda: len(name.asked) > asked + 3)
        assert len(fleet) == 2
    said = [line for line in caplog.messages if "is not resolved" in line]
    assert said == [
        "replica is not resolved, so its replicas stay: Temporary failure in name resolution"
    ]


async def test_a_name_that_has_no_address_yet_is_a_replica_that_says_why_it_does_not_come() -> None:
    name = Name(A)
    name.error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    async with following(name) as fleet:
        await until(lambda: len(fleet) == 1)
        (member,) = fleet
        await until(lambda: member.reason == "Name or service not known")
        assert member.url == "http://replica:9000"
        name.error = None
        await until(lambda: urls(fleet) == {"http://10.0.0.1:9000"})


@pytest.mark.parametrize("host", ["a..b", "a" * 64, "\udcff"])
async def test_a_name_that_no_resolver_takes_is_one_without_an_address(host: str) -> None:
    with pytest.raises(OSError, match="not a host name"):
        await addresses(host, 80, HostNames())


async def test_the_systems_resolver_is_asked_for_one_family() -> None:
    """A machine with an address in each is one replica."""
    assert await addresses("localhost", 9000, HostNames()) in (["127.0.0.1"], ["::1"])


async def test_a_resolver_that_does_not_answer_is_an_error_and_what_it_says_later_counts() -> None:
    answering = threading.Event()

    def look_up(_host: str, _port: int) -> list[tuple[object, ...]]:
        answering.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (A, 80))]

    names = HostNames(look_up)
    with pytest.raises(OSError, match=r"no answer within 0\.01 s"):
        await addresses("replica", 80, names, timeout_s=0.01)
    answering.set()
    assert await addresses("replica", 80, names, timeout_s=60) == [A]
