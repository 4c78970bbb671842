"""The states of a replica."""

from collections import deque

from embedfleet.fleet.states import TRANSITIONS, Event, after
from embedfleet.vocabulary import ReplicaState

S, E = ReplicaState, Event


def test_every_state_has_a_row() -> None:
    """The table has no hole."""
    assert set(TRANSITIONS) == set(ReplicaState)


def test_every_state_can_be_reached_from_the_start() -> None:
    """No state is there for show."""
    reached, frontier = {S.STARTING}, deque([S.STARTING])
    while frontier:
        for entered in TRANSITIONS[frontier.popleft()].values():
            if entered not in reached:
                reached.add(entered)
                frontier.append(entered)

    assert reached == set(ReplicaState)


def test_traffic_comes_only_after_the_golden_vectors() -> None:
    """The one way to ready from outside traffic leads through verifying."""
    ways = {
        (state, event)
        for state, row in TRANSITIONS.items()
        for event, entered in row.items()
        if entered is S.READY
    }

    assert ways == {(S.VERIFYING, E.VERIFIED), (S.SUSPECT, E.RECOVERED)}


def test_a_lost_replica_is_gone_whatever_it_was() -> None:
    """And stays so."""
    for state in ReplicaState:
        assert after(state, E.LOST) is S.GONE
    for event in Event:
        assert after(S.GONE, event) is S.GONE


def test_an_event_that_a_state_does_not_list_changes_nothing() -> None:
    """A late answer of a drained replica, say."""
    assert after(S.DRAINING, E.RECOVERED) is S.DRAINING
    assert after(S.STARTING, E.FAILED) is S.STARTING
