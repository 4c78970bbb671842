"""The table of a pool's replicas."""

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


def test_ejections_are_counted_until_it_is_ready_again() -> None:
    """So that the time of each can grow."""
    fleet = Fleet()
    member = fleet.add("a", "http://a", 0.0)
    moved(fleet, member, E.ANSWERED, E.REFUSED, E.RELEASED, E.ANSWERED, E.FAILED)
    assert member.ejections == 2

    moved(fleet, member, E.RELEASED, E.ANSWERED, E.VERIFIED)
    assert member.ejections == 0
    assert fleet.count(S.READY) == 1


def test_when_half_is_ejected_the_others_stay_the_last_resort() -> None:
    """Panic: the cause is likely none of them."""
    fleet = Fleet()
    members = [fleet.add(name, "", 0.0) for name in "abcd"]
    for member in members:
        moved(fleet, member, E.ANSWERED, E.VERIFIED, E.FAILED, E.FAILED)

    assert [member.state for member in members] == [S.EJECTED, S.EJECTED, S.SUSPECT, S.SUSPECT]


def test_wrong_vectors_eject_whatever_the_others_are() -> None:
    """No answer is better than a wrong one."""
    fleet = Fleet()
    member = fleet.add("a", "", 0.0)
    moved(fleet, member, E.ANSWERED, E.VERIFIED, E.REFUSED)

    assert member.state is S.EJECTED
