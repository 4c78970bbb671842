"""The table of a pool's replicas."""

from hypothesis import given
from hypothesis import strategies as st

from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.fleet.states import Event
from embedfleet.vocabulary import ReplicaState

S, E = ReplicaState, Event


def moved(fleet: Fleet, member: Member, *events: Event) -> None:
    for event in events:
        fleet.apply(member, event, 0.0)


def test_a_new_replica_starts() -> None:
    """And shows it."""
    fleet = Fleet()
    fleet.add("a", "http://a", 1.0)

    assert repr(fleet) == "<Fleet [a starting]>"


def test_listeners_hear_each_change_with_the_state_left() -> None:
    """Once for each, and none where nothing changed."""
    heard: list[tuple[str, ReplicaState, ReplicaState]] = []
    fleet = Fleet()
    fleet.listen(lambda member, left: heard.append((member.name, left, member.state)))
    member = fleet.add("a", "http://a", 0.0)
    moved(fleet, member, E.ANSWERED, E.ANSWERED, E.VERIFIED, E.LOST)

    assert heard == [
        ("a", S.GONE, S.STARTING),
        ("a", S.STARTING, S.VERIFYING),
        ("a", S.VERIFYING, S.READY),
        ("a", S.READY, S.GONE),
    ]


def test_a_lost_replica_leaves_the_table() -> None:
    """Its name may be used again."""
    fleet = Fleet()
    member = fleet.add("a", "http://a", 0.0)
    moved(fleet, member, E.LOST)

    assert len(fleet) == 0


def test_a_replica_of_the_same_name_replaces_the_old_one() -> None:
    """The old one is lost first, so that its texts go back to the queue."""
    fleet = Fleet()
    old = fleet.add("a", "http://old", 0.0)
    new = fleet.add("a", "http://new", 1.0)

    assert old.state is S.GONE
    assert list(fleet) == [new]
    moved(fleet, old, E.LOST)
    assert list(fleet) == [new]


def pool(count: int) -> tuple[Fleet, list[Member]]:
    """A fleet of ready replicas."""
    fleet = Fleet()
    members = [fleet.add(f"r{number}", "", 0.0) for number in range(count)]
    for member in members:
        moved(fleet, member, E.ANSWERED, E.VERIFIED)
    return fleet, members


def test_a_replica_whose_calls_fail_in_a_row_is_ejected() -> None:
    """With the last reason; the others carry its work."""
    fleet, (member, _) = pool(2)
    for _ in range(2):
        fleet.failed(member, 1.0, "HTTP 500")
        assert member.state is S.READY
    fleet.failed(member, 1.0, "no memory")

    assert (member.state, member.reason) == (S.EJECTED, "no memory")


def test_a_replica_that_is_lost_is_ejected_at_once() -> None:
    """A broken connection is proof."""
    fleet, (member, _) = pool(2)
    fleet.failed(member, 1.0, "connection reset", lost=True)

    assert member.state is S.EJECTED


def test_a_replica_that_refuses_work_drains() -> None:
    """It said so."""
    fleet, (member, _) = pool(2)
    fleet.refused(member, 1.0, "503")

    assert member.state is S.DRAINING


def test_ejections_grow_though_it_was_ready_in_between() -> None:
    """And good time shrinks them again."""
    fleet, (member, _) = pool(2)
    ejections = []
    for now in (1.0, 10.0, 20.0, 30.0):
        fleet.failed(member, now, "", lost=True)
        ejections.append(member.ejections)
        for event in (E.RELEASED, E.ANSWERED, E.VERIFIED):
            fleet.apply(member, event, now + 5.0)
    assert ejections == [1, 2, 3, 4]

    fleet.failed(member, 35.0 + 3600.0, "", lost=True)
    assert member.ejections == 1


def test_when_half_is_ejected_the_others_stay_the_last_resort() -> None:
    """Panic: the cause is likely none of them."""
    fleet, members = pool(4)
    for member in members:
        fleet.failed(member, 0.0, "", lost=True)
    assert [member.state for member in members] == [S.EJECTED, S.EJECTED, S.SUSPECT, S.SUSPECT]

    fleet.succeeded(members[3], 1.0)
    assert members[3].state is S.READY


def test_an_ejected_replica_is_wanted_once_all_that_served_has_gone() -> None:
    """Not by its own going."""
    fleet, (first, second) = pool(2)
    fleet.failed(first, 1.0, "", lost=True)
    assert not fleet.wanted(first)

    fleet.apply(second, E.LOST, 2.0)
    assert fleet.wanted(first)


def test_it_is_known_since_when_a_replica_fails() -> None:
    """Through ejections and chances, until it is ready; wrong vectors are another matter."""
    fleet, (member, _) = pool(2)
    fleet.failed(member, 1.0, "", lost=True)
    moved(fleet, member, E.RELEASED, E.ANSWERED, E.FAILED)
    assert member.failing_since == 1.0

    moved(fleet, member, E.RELEASED, E.ANSWERED, E.VERIFIED)
    assert member.failing_since is None
    moved(fleet, member, E.REFUSED)
    assert member.failing_since is None


def test_wrong_vectors_eject_whatever_the_others_are() -> None:
    """No answer is better than a wrong one."""
    fleet = Fleet()
    member = fleet.add("a", "", 0.0)
    moved(fleet, member, E.ANSWERED, E.VERIFIED, E.REFUSED)

    assert member.state is S.EJECTED


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=20))
def test_a_replica_is_out_for_as_long_as_anybody_lets_it_go(
    orders: list[tuple[bool, str]],
) -> None:
    """An operator, the autoscaler and Kubernetes do not know each other."""
    fleet = Fleet()
    member = fleet.add("a", "http://a", 0.0)
    holders: set[str] = set()
    for drains, owner in orders:
        moved(fleet, member, E.ANSWERED, *([] if holders else [E.VERIFIED]))
        if drains:
            holders.add(owner)
            fleet.drain(member, owner, 0.0, "it is to go")
        else:
            holders.discard(owner)
            fleet.readmit(member, owner, 0.0, "it may stay")
        assert member.leaving == holders
        if holders:
            assert member.state is S.DRAINING
        else:
            assert member.state in {S.STARTING, S.READY}
