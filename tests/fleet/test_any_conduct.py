"""Whatever replicas do, in any order: what always holds of a fleet, in virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.fleet.health import (
    EJECTION,
    FAILURES,
    FORGIVEN_S,
    MOST_EJECTED,
    SERVING,
    Sign,
    released,
)
from embedfleet.fleet.states import Event
from embedfleet.vocabulary import ReplicaState

S, E = ReplicaState, Event

PINGS = (Sign.ANSWERED, Sign.MISSED)
STEPS = st.one_of(
    st.sampled_from([Sign.SUCCEEDED, Sign.FAILED, Sign.LOST, Sign.ANSWERED, Sign.MISSED]),
    st.floats(0.1, 400.0),
)


@dataclass
class Pool:
    """A fleet whose clock is moved by hand, looked after as the prober does."""

    size: int
    now: float = 0.0
    fleet: Fleet = field(default_factory=Fleet)
    trials: dict[str, bool] = field(default_factory=dict)
    """Whether each replica passes a trial."""

    def __post_init__(self) -> None:
        for number in range(self.size):
            member = self.fleet.add(f"r{number}", "", self.now)
            self.fleet.apply(member, E.ANSWERED, self.now)
            self.fleet.apply(member, E.VERIFIED, self.now)

    def pass_by(self, seconds: float) -> None:
        """Time passes; whoever's pause is over is tried."""
        self.now += seconds
        for member in self.fleet:
            wanted = self.fleet.wanted(member)
            since, conduct = member.since, member.conduct
            if not released(member.state, since, conduct, self.now, wanted=wanted):
                continue
            suspect = member.state is S.SUSPECT
            if not suspect:
                self.fleet.apply(member, E.RELEASED, self.now)
                self.fleet.apply(member, E.ANSWERED, self.now)
            sign = Sign.PROVEN if self.trials.get(member.name, True) else Sign.FAILED
            self.fleet.observe(member, sign, self.now, "a trial")
            if suspect and member.state is S.SUSPECT:
                self.fleet.tried(member, self.now)


@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 5), STEPS), max_size=200))
def test_no_probe_readmits_and_the_last_replica_stays(
    size: int, steps: list[tuple[int, Sign | float]]
) -> None:
    """At most half is ejected for failing, and somebody may always be asked."""
    pool = Pool(size)
    for number, step in steps:
        members = list(pool.fleet)
        member = members[number % size]
        before = member.state
        if isinstance(step, float):
            pool.pass_by(step)
            continue
        pool.fleet.observe(member, step, pool.now, "")
        if step in PINGS:
            assert not (before is not S.READY and member.state is S.READY)
        ejected = pool.fleet.count(S.EJECTED)
        assert ejected <= MOST_EJECTED * size
        assert any(each.state in SERVING for each in members)


@given(st.integers(2, 6), st.booleans(), st.integers(1, 30))
def test_a_replica_that_fails_all_its_traffic_is_out_for_longer_and_longer(
    size: int, passes_trials: bool, rounds: int
) -> None:
    """Also when it passes its trials and answers every ping: one call is all that each costs."""
    pool = Pool(size)
    bad = next(iter(pool.fleet))
    pool.trials[bad.name] = passes_trials
    pauses, calls = [], 0
    for _ in range(rounds):
        while bad.state is S.READY:
            pool.fleet.observe(bad, Sign.ANSWERED, pool.now, "")
            pool.fleet.failed(bad, pool.now, "an error")
            calls += 1
        assert bad.state is S.EJECTED
        left = pool.now
        while pool.now - left < EJECTION.after(bad.ejections):
            assert bad.state is S.EJECTED
            pool.fleet.observe(bad, Sign.ANSWERED, pool.now, "")
            pauses.append(EJECTION.after(bad.ejections))
            pool.pass_by(EJECTION.after(bad.ejections))
    assert pauses == sorted(pauses)
    assert pauses[:5] == [5.0, 10.0, 20.0, 40.0, 40.0][: len(pauses)]
    assert calls <= FAILURES + (rounds - 1 if passes_trials else 0)


@given(st.integers(1, 5), st.lists(st.tuples(st.integers(0, 4), STEPS), max_size=100))
def test_a_replica_that_is_healthy_for_long_is_ready_and_forgiven(
    size: int, steps: list[tuple[int, Sign | float]]
) -> None:
    """Whatever it did before."""
    pool = Pool(size)
    for number, step in steps:
        if isinstance(step, float):
            pool.pass_by(step)
        else:
            pool.fleet.observe(list(pool.fleet)[number % size], step, pool.now, "")
    for _ in range(4):
        pool.pass_by(EJECTION.most_s)
    for member in pool.fleet:
        pool.fleet.succeeded(member, pool.now)
        assert member.state is S.READY
    pool.pass_by(FORGIVEN_S * 110)
    for member in list(pool.fleet)[:1]:
        pool.fleet.failed(member, pool.now, "", lost=True)
        assert member.ejections == 1


def hung_while_others_are_well(members: list[Member]) -> int:
    return sum(member.state is S.READY for member in members)


@given(st.integers(2, 8), st.integers(1, 7))
def test_what_hangs_while_others_are_well_gets_no_traffic(size: int, count: int) -> None:
    """Ejected, or the last resort, which is not asked while another is ready."""
    pool = Pool(size)
    members = list(pool.fleet)
    hanging = members[: min(count, size - 1)]
    for member in hanging:
        for _ in range(FAILURES):
            pool.fleet.failed(member, pool.now, "a hedge was lost")
            pool.fleet.observe(member, Sign.ANSWERED, pool.now, "")

    assert all(member.state is not S.READY for member in hanging)
    assert hung_while_others_are_well(members) == size - len(hanging)
