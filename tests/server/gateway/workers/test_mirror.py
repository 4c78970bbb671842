"""A worker's fleet is the primary's, and its calls count there."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.fleet.fleet import Fleet
from embedfleet.fleet.measured import LEAST_MEASUREMENTS, MEASUREMENTS, Work
from embedfleet.fleet.states import Event
from embedfleet.server.gateway.workers.messages import CallReport, MemberUpdate
from embedfleet.server.gateway.workers.mirror import MirroredFleet, Publisher
from embedfleet.vocabulary import ReplicaState


class Pair:
    """A primary's fleet and a worker's, with the journey of messages between them."""

    def __init__(self) -> None:
        self.fleet, self.mirror = Fleet(), MirroredFleet(0)
        self.publisher = Publisher(0, self.fleet, self._travel)
        self.heard: list[tuple[str, ReplicaState]] = []
        self.mirror.listen(lambda member, _left: self.heard.append((member.name, member.state)))

    def _travel(self, update: MemberUpdate) -> None:
        self.mirror.follow(
            msgspec.msgpack.decode(msgspec.msgpack.encode(update), type=MemberUpdate)
        )

    def bring_back(self, now: float) -> None:
        """What the worker's calls did, as the primary hears it."""
        for calls in self.mirror.calls():
            self.publisher.take(calls, now)

    @property
    def states(self) -> dict[str, ReplicaState]:
        return {member.name: member.state for member in self.fleet}


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", *Event]), st.sampled_from("abc")), min_size=1, max_size=60
)


@given(STEPS)
def test_whatever_happens_in_the_primary_the_worker_sees_the_same(
    steps: list[tuple[str | Event, str]],
) -> None:
    pair = Pair()
    for now, (what, name) in enumerate(steps):
        members = {member.name: member for member in pair.fleet}
        if isinstance(what, Event):
            if name in members:
                pair.fleet.apply(members[name], what, float(now), "why")
        else:
            pair.fleet.add(name, f"http://{name}:{now}", float(now))
        assert {each.name: each.state for each in pair.mirror} == pair.states
        for member in pair.mirror:
            original = pair.fleet[member.name]
            seen = (member.url, member.since, member.reason, member.weight)
            assert seen == (original.url, original.since, original.reason, original.weight)


@given(STEPS)
def test_a_worker_that_starts_late_sees_the_same_as_one_that_was_there(
    steps: list[tuple[str | Event, str]],
) -> None:
    pair, late = Pair(), MirroredFleet(0)
    for now, (what, name) in enumerate(steps):
        members = {member.name: member for member in pair.fleet}
        if isinstance(what, Event):
            if name in members:
                pair.fleet.apply(members[name], what, float(now), "why")
        else:
            pair.fleet.add(name, f"http://{name}:{now}", float(now))
    for update in pair.publisher.everything():
        late.follow(update)

    assert {each.name: each.state for each in late} == pair.states


def ready(pair: Pair, *names: str) -> None:
    for name in names:
        member = pair.fleet.add(name, f"http://{name}", 0.0)
        for event in (Event.ANSWERED, Event.VERIFIED):
            pair.fleet.apply(member, event, 0.0)
        assert member.state is ReplicaState.READY


def test_failures_of_a_workers_calls_eject_a_replica_for_all() -> None:
    pair = Pair()
    ready(pair, "a", "b", "c")
    for _ in range(10):
        pair.mirror.failed(pair.mirror["a"], 1.0, "it is silent")
    pair.bring_back(1.0)

    assert pair.fleet["a"].state is not ReplicaState.READY
    assert "it is silent" in pair.fleet["a"].reason
    assert pair.mirror["a"].state is pair.fleet["a"].state


def test_checks_that_a_replica_fails_are_known_to_workers() -> None:
    """Its wrong vectors are believed less there, too."""
    pair = Pair()
    ready(pair, "a", "b")
    pair.publisher.refresh()
    for failing in ({"probe": "it is silent"}, {"probe": "it is silent still"}, {}):
        for check, why in failing.items():
            pair.fleet.check_failed(pair.fleet["a"], check, why)
        if not failing:
            pair.fleet.check_passed(pair.fleet["a"], "probe")
        pair.publisher.refresh()
        assert pair.mirror["a"].failing_checks == pair.fleet["a"].failing_checks == failing
        assert pair.mirror["a"].explained == pair.fleet["a"].explained
        assert not pair.mirror["b"].failing_checks
    pair.heard.clear()
    pair.publisher.refresh()
    assert not pair.heard, "nothing changed"


def test_a_success_among_failures_keeps_a_replica() -> None:
    pair = Pair()
    ready(pair, "a", "b")
    for _ in range(10):
        pair.mirror.failed(pair.mirror["a"], 1.0, "slow")
        pair.mirror.succeeded(pair.mirror["a"], 1.0)
    pair.bring_back(1.0)

    assert pair.fleet["a"].state is ReplicaState.READY
    assert not pair.mirror.calls(), "what was told is not told again"


@given(st.lists(st.sampled_from(["succeeded", "failed", "lost"]), max_size=6))
def test_a_report_tells_what_has_happened_since_the_last_success(calls: list[str]) -> None:
    """A connection that broke before a success does not count with a failure after it."""
    pair, alone = Pair(), Pair()
    ready(pair, "a", "b", "c")
    ready(alone, "a", "b", "c")
    last = max((place for place, call in enumerate(calls) if call == "succeeded"), default=0)
    for place, call in enumerate(calls):
        for fleet in (pair.mirror, alone.fleet) if place >= last else (pair.mirror,):
            if call == "succeeded":
                fleet.succeeded(fleet["a"], 1.0)
            else:
                fleet.failed(fleet["a"], 1.0, "it fails", lost=call == "lost")
    pair.bring_back(1.0)

    assert pair.fleet["a"].state is alone.fleet["a"].state
    assert pair.fleet["a"].conduct.outlier is alone.fleet["a"].conduct.outlier


def test_a_replica_that_refuses_one_worker_drains_for_all() -> None:
    pair = Pair()
    ready(pair, "a", "b")
    pair.mirror.refused(pair.mirror["a"], 1.0, "it drains")
    pair.bring_back(1.0)

    assert pair.mirror["a"].state is ReplicaState.DRAINING


def test_calls_to_a_replica_that_is_gone_are_of_no_consequence() -> None:
    pair = Pair()
    ready(pair, "a", "b")
    pair.mirror.failed(pair.mirror["a"], 1.0, "lost", lost=True)
    pair.fleet.apply(pair.fleet["a"], Event.LOST, 1.0)
    pair.bring_back(2.0)

    assert pair.states == {"b": ReplicaState.READY}


WORKS = st.lists(st.tuples(st.integers(0, 1), st.floats(0.001, 10.0)), max_size=60)


@given(WORKS, st.integers(1, 20))
def test_what_workers_measure_of_a_replica_the_primary_knows(
    works: list[tuple[int, float]], tell_every: int
) -> None:
    """Else it would have the claims of busy replicas alone to tell a slow one by."""
    fleet, mirrors = Fleet(), [MirroredFleet(0), MirroredFleet(0)]

    def tell(update: MemberUpdate) -> None:
        for each in mirrors:
            each.follow(update)

    publisher = Publisher(0, fleet, tell)
    member = fleet.add("a", "http://a", 0.0)
    told: list[Work] = []
    for now, (worker, seconds) in enumerate(works):
        work = Work(1, 100, 10_000, seconds)
        mirrors[worker].measure(mirrors[worker]["a"], work, float(now))
        if now % tell_every == 0:
            for mirror in mirrors:
                for report in mirror.calls():
                    packed = msgspec.msgpack.encode(report)
                    told += report.works
                    publisher.take(msgspec.msgpack.decode(packed, type=CallReport), float(now))
    assert list(member.measured.works) == told[-MEASUREMENTS:]
    assert len(told) >= min(len(works) // tell_every, MEASUREMENTS)


def test_a_replica_that_starts_again_is_measured_anew() -> None:
    """In the primary, and in its workers."""
    pair = Pair()
    member = pair.fleet.add("a", "http://a", 0.0)
    for event in (Event.ANSWERED, Event.VERIFIED):
        pair.fleet.apply(member, event, 0.0)
    for _ in range(LEAST_MEASUREMENTS):
        pair.mirror.measure(pair.mirror["a"], Work(1, 100, 10_000, 1.0), 1.0)
    pair.bring_back(1.0)
    assert member.measured.known
    assert pair.mirror["a"].measured.known

    for event in (Event.FAILED, Event.RELEASED):
        pair.fleet.apply(member, event, 2.0)
    assert pair.mirror["a"].state is ReplicaState.STARTING
    assert not member.measured.known
    assert not pair.mirror["a"].measured.known
