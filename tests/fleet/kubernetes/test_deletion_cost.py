"""Which pod goes first."""

from __future__ import annotations

from embedfleet.fleet.kubernetes.deletion_cost import VICTIM, Candidate, changes, cost, victims
from embedfleet.vocabulary import ReplicaState

S = ReplicaState


def ready(name: str, tokens: int) -> Candidate:
    return Candidate(name, S.READY, tokens)


def test_what_brings_no_traffic_costs_less_than_what_does() -> None:
    idle = cost(ready("a", 0))

    assert all(
        cost(Candidate("b", state, 0)) < idle for state in S if state not in {S.READY, S.GONE}
    )
    assert cost(Candidate("b", S.DRAINING, 0)) < cost(Candidate("b", S.EJECTED, 0))
    assert min(cost(Candidate("b", state, 0)) for state in S) > VICTIM


def test_busier_replicas_cost_more_in_coarse_steps() -> None:
    """A write for each look would be one for each pod every half a minute, for ever."""
    costs = [cost(ready("a", tokens)) for tokens in (0, 1000, 5000, 20_000, 100_000)]

    assert costs == sorted(costs)
    assert costs[0] == costs[1]
    assert costs[0] < costs[2] < costs[4]


def test_the_idle_go_first_and_of_equals_always_the_same() -> None:
    found = [ready("busy", 9000), ready("b", 10), ready("a", 10), Candidate("ill", S.EJECTED, 99)]

    assert victims(found, 3) == ["ill", "a", "b"]
    assert victims(found, 0) == []
    assert victims(found, 9) == ["ill", "a", "b", "busy"]


def test_only_costs_that_differ_are_written() -> None:
    found = [ready("a", 0), ready("b", 50_000)]

    assert changes(found, {}) == {"a": 0, "b": cost(found[1])}
    assert changes(found, {"a": 0, "b": cost(found[1])}) == {}
    assert changes(found, {"a": VICTIM, "b": cost(found[1])}) == {"a": 0}
