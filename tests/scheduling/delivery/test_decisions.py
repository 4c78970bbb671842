"""How many repeated tries the pool can afford."""

from hypothesis import given
from hypothesis import strategies as st

from embedfleet.fleet.fleet import Member
from embedfleet.scheduling.delivery.decisions import (
    RESERVE,
    UNFIT,
    Event,
    RetryBudget,
    cores_of,
    event_of,
    most_quiet_s,
    public_words,
    shortage,
)
from embedfleet.vocabulary import (
    DrainingError,
    ReplicaError,
    ReplicaLostError,
    ReplicaState,
    ReplicaUnreachableError,
    UnfitReplicaError,
)


def spend(budget: RetryBudget, texts: int) -> int:
    """How many of these are granted."""
    granted = 0
    while granted < texts and budget.affords:
        budget.spend()
        granted += 1
    return granted


def test_a_pool_with_little_traffic_can_retry_too() -> None:
    """There is a reserve at the start."""
    assert spend(RetryBudget(0.1), int(RESERVE)) == RESERVE


def test_tries_beyond_the_share_are_refused() -> None:
    """Ten answered texts earn one try at a share of a tenth."""
    budget = RetryBudget(0.1)
    spend(budget, int(RESERVE))
    assert spend(budget, 1) == 0

    budget.earn(9)
    assert spend(budget, 1) == 0
    budget.earn(2)
    assert spend(budget, 2) == 1


def test_a_reserve_is_enough_for_two_of_the_largest_calls() -> None:
    budget = RetryBudget(0.1)
    for texts in (100, 800, 300):
        budget.cover(texts)
    assert spend(budget, 10**6) == 1600


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1000)), max_size=200))
def test_spent_tries_never_pass_the_share_of_what_was_answered(
    steps: list[tuple[bool, int]],
) -> None:
    """Beyond the reserve."""
    budget, answered, spent = RetryBudget(0.05), 0, 0
    for earns, texts in steps:
        if earns:
            budget.earn(texts)
            answered += texts
        else:
            spent += spend(budget, texts)

    assert spent <= RESERVE + 0.05 * answered + 1e-6


def test_a_call_may_be_quiet_for_four_times_what_is_predicted_and_a_second_at_least() -> None:
    assert most_quiet_s(0.1) == 1.0
    assert most_quiet_s(2.0) == 8.0


def test_only_a_lost_connection_is_held_against_texts() -> None:
    """One that never was can't have been lost because of them."""
    assert event_of(ReplicaLostError("torn")) is Event.LOST
    assert event_of(ReplicaUnreachableError("refused")) is Event.UNREACHED
    assert event_of(DrainingError("draining")) is Event.REFUSED
    assert event_of(ReplicaError("nonsense")) is Event.FAILED
    assert event_of(None) is Event.FAILED


def test_replicas_on_the_processors_of_one_machine_share_them() -> None:
    local = {cores_of(f"http://{host}:1", "cpu") for host in ("127.0.0.1", "localhost", "[::1]")}
    assert len(local) == 1
    assert cores_of("http://10.0.0.1:1", "cpu") == cores_of("http://10.0.0.1:2", "cpu")
    assert cores_of("http://10.0.0.1:1", "cpu") != cores_of("http://10.0.0.2:1", "cpu")
    assert cores_of("http://localhost:1", "cuda:0") != cores_of("http://localhost:2", "cuda:0")


@given(st.lists(st.sampled_from(list(ReplicaState)), max_size=5))
def test_texts_wait_for_want_of_replicas_unless_one_is_ready(states: list[ReplicaState]) -> None:
    """Callers read of the state that a replica is in, and nothing that it said."""
    members = [Member("a", "http://10.0.0.7", state, 0.0, "secret words") for state in states]
    told = shortage(members)
    assert bool(told) is (ReplicaState.READY not in states)
    assert "10.0.0.7" not in told
    assert "secret" not in told
    if set(states) == {ReplicaState.DRAINING}:
        assert "overloaded" in told


def test_what_only_an_operator_can_mend_is_no_advice_for_callers() -> None:
    """Of other failures they are told."""
    assert public_words(UnfitReplicaError("set pools.replica_key_file"), "set …") == UNFIT
    assert public_words(ReplicaError("out of memory"), "out of memory") == "out of memory"
