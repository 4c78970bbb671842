"""Which replicas come and which go."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from embedfleet.fleet.sizing import Changes, SlotRole, SlotStatus, changes
from embedfleet.vocabulary import ReplicaState

S, P = ReplicaState, SlotRole

STATUSES = st.lists(
    st.builds(
        SlotStatus,
        st.integers(0, 9),
        st.sampled_from(SlotRole),
        st.sampled_from(S),
        st.integers(0, 99),
    ),
    unique_by=lambda each: each.number,
)


def serving(number: int, outstanding: int = 0, state: ReplicaState = S.READY) -> SlotStatus:
    """A replica in traffic."""
    return SlotStatus(number, P.TRAFFIC, state, outstanding)


@given(STATUSES, st.integers(0, 12), st.integers(0, 5))
def test_whatever_there_is_the_numbers_are_right_afterwards(
    replicas: list[SlotStatus], planned: int, standby: int
) -> None:
    """Each replica changes at most once, and only to another part."""
    todo = changes(replicas, planned, standby)
    before = {each.number: each.role for each in replicas}
    assert len(dict(todo.roles)) == len(todo.roles)
    assert all(before[number] is not role for number, role in todo.roles)
    counts = Counter([*(before | dict(todo.roles)).values(), *todo.starts])
    assert (counts[P.TRAFFIC], counts[P.STANDBY]) == (planned, standby)


@given(STATUSES, st.integers(0, 12), st.integers(0, 5))
def test_nothing_is_started_while_one_that_is_there_would_do(
    replicas: list[SlotStatus], planned: int, standby: int
) -> None:
    """Who leaves is called back first: it is loaded already."""
    todo = changes(replicas, planned, standby)
    if todo.starts:
        after = {each.number: each.role for each in replicas} | dict(todo.roles)
        left = {each.state for each in replicas if after[each.number] is P.LEAVING}
        assert left <= {S.EJECTED, S.DRAINING}


def test_nothing_is_done_where_the_numbers_are_right() -> None:
    """Looking again changes nothing."""
    assert changes([serving(0), serving(1)], 2, 0) == Changes()


def test_the_one_with_the_least_to_do_goes_first() -> None:
    """Of equals the last that came, so that numbers stay low."""
    replicas = [serving(0, 50), serving(1, 10), serving(2, 50), serving(3, 10)]
    assert changes(replicas, 3, 0).roles == ((3, P.LEAVING),)
    assert changes(replicas, 2, 0).roles == ((3, P.LEAVING), (1, P.LEAVING))


def test_those_that_do_not_serve_anyway_go_before_those_that_do() -> None:
    """One that starts is missed less than one that idles."""
    replicas = [serving(0), serving(1, state=S.STARTING), serving(2, 99), serving(3, state=S.GONE)]
    assert changes(replicas, 1, 0).roles == (
        (3, P.LEAVING),
        (1, P.LEAVING),
        (0, P.LEAVING),
    )


def test_a_replica_that_is_removed_fills_the_standby_first() -> None:
    """It is loaded; a fresh one would have to be started."""
    replicas = [serving(0, 9), serving(1), serving(2, 1)]
    assert changes(replicas, 1, 1) == Changes(((1, P.STANDBY), (2, P.LEAVING)))


def test_an_unhealthy_replica_is_no_standby() -> None:
    """A fresh one is started instead; one that still loads will do."""
    ejected = [serving(0), serving(1, state=S.EJECTED)]
    assert changes(ejected, 1, 1) == Changes(((1, P.LEAVING),), (P.STANDBY,))
    starting = [serving(0), serving(1, state=S.STARTING)]
    assert changes(starting, 1, 1) == Changes(((1, P.STANDBY),))


def test_growth_takes_who_serves_soonest() -> None:
    """Those that drain, then standby, then those that are loading; then new ones."""
    replicas = [
        SlotStatus(0, P.STANDBY, S.STARTING),
        SlotStatus(1, P.STANDBY, S.STANDBY),
        SlotStatus(2, P.LEAVING, S.DRAINING, 7),
    ]
    assert changes(replicas, 1, 2).roles == ((2, P.TRAFFIC),)
    assert changes(replicas, 4, 0) == Changes(
        ((2, P.TRAFFIC), (1, P.TRAFFIC), (0, P.TRAFFIC)), (P.TRAFFIC,)
    )


def test_a_standby_that_was_woken_is_replaced() -> None:
    """If it is still wanted."""
    assert changes([SlotStatus(0, P.STANDBY, S.STANDBY)], 1, 1) == Changes(
        ((0, P.TRAFFIC),), (P.STANDBY,)
    )
