"""Outlier detection: which event follows from what was observed of a replica."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.fleet.health import (
    EJECTION,
    FAILURES,
    FORGIVEN_S,
    HUNG_LEAST_S,
    MOST_AGAIN_S,
    MOST_COUNTED,
    TRIAL_BATCHES,
    UNPROVEN_REPEATS,
    Conduct,
    Expected,
    Peers,
    Sign,
    hung,
    implausible,
    judge,
    mismatch,
    released,
    slowdown,
    trial_repeats,
    trial_timeout_s,
)
from embedfleet.fleet.states import Event
from embedfleet.transport.description import ReplicaDescription
from embedfleet.vocabulary import Precision, ReplicaState

S, E = ReplicaState, Event

DESCRIPTION = ReplicaDescription(
    name="m",
    served_names=["m"],
    revision="r1",
    tokenizer="t1",
    width=8,
    max_tokens=100,
    vocabulary=50,
    prompts={},
    precision=Precision.INT8,
    device="cpu",
    batch_tokens=64,
    window=128,
    cost=(1e-3, 1e-5, 0.0),
    draining=False,
    batches=1000,
)
EXPECTED = Expected(DESCRIPTION.identity, Precision.INT8)

WELL = Conduct()
OTHERS = Peers(total=3, ready=3)
ALONE = Peers()


def after(
    state: ReplicaState, *signs: Sign, conduct: Conduct = WELL, peers: Peers = OTHERS
) -> tuple[Conduct, Event | None]:
    """What is remembered after signs, and the event that follows from the last."""
    event: Event | None = None
    for sign in signs:
        conduct, event = judge(state, conduct, sign, peers)
    return conduct, event


def test_failures_in_a_row_eject() -> None:
    """One or two may be the text's."""
    assert after(S.READY, *[Sign.FAILED] * (FAILURES - 1))[1] is None
    assert after(S.READY, *[Sign.FAILED] * FAILURES)[1] is E.FAILED


def test_a_success_of_traffic_ends_the_row() -> None:
    """A look that is answered does not."""
    row = [Sign.FAILED] * (FAILURES - 1)

    assert after(S.READY, *row, Sign.SUCCEEDED, Sign.FAILED)[1] is None
    assert after(S.READY, *row, Sign.ANSWERED, Sign.FAILED)[1] is E.FAILED
    assert after(S.READY, *row, Sign.PROVEN, Sign.FAILED)[1] is E.FAILED


def test_a_lost_process_or_connection_ejects_at_once() -> None:
    """No more proof is needed."""
    assert after(S.READY, Sign.LOST)[1] is E.FAILED
    assert after(S.STANDBY, Sign.LOST)[1] is E.FAILED


def test_probes_in_a_row_that_are_missed_eject() -> None:
    """One that is answered ends the row: the network lost the others."""
    missed = [Sign.MISSED] * (FAILURES - 1)

    assert after(S.READY, *missed, Sign.MISSED)[1] is E.FAILED
    assert after(S.READY, *missed, Sign.ANSWERED, Sign.MISSED)[1] is None
    assert after(S.VERIFYING, *missed, Sign.MISSED)[1] is E.FAILED


def test_the_last_replica_is_spared_and_comes_back_by_traffic() -> None:
    """A doubtful one is better than none."""
    conduct, event = after(S.READY, *[Sign.FAILED] * FAILURES, peers=ALONE)
    assert event is E.SPARED

    assert after(S.SUSPECT, Sign.ANSWERED, conduct=conduct, peers=ALONE)[1] is None
    assert after(S.SUSPECT, Sign.SUCCEEDED, conduct=conduct, peers=ALONE) == (WELL, E.RECOVERED)
    assert after(S.SUSPECT, Sign.PROVEN, conduct=conduct, peers=ALONE)[1] is E.RECOVERED


def test_a_suspect_replica_that_keeps_failing_is_ejected_once_others_are_healthy() -> None:
    """Then it is not needed."""
    conduct, _ = after(S.READY, *[Sign.FAILED] * FAILURES, peers=ALONE)

    assert after(S.SUSPECT, Sign.FAILED, conduct=conduct, peers=ALONE)[1] is None
    assert after(S.SUSPECT, Sign.FAILED, conduct=conduct, peers=Peers(1, 1))[1] is E.FAILED


@pytest.mark.parametrize(
    ("peers", "spared"),
    [
        (Peers(total=0), True),
        (Peers(total=1, ready=1), False),
        (Peers(total=1, ready=0), True),
        (Peers(total=3, ready=2, ejected=1), False),
        (Peers(total=4, ready=2, ejected=2), True),
    ],
)
def test_at_most_half_of_a_pool_is_ejected_for_failing_and_never_the_last(
    peers: Peers, spared: bool
) -> None:
    """When more fail, the cause is more likely load or the network."""
    assert peers.can_spare_one is not spared


def test_a_failed_trial_ends_verification() -> None:
    """It was asked for that alone."""
    assert after(S.VERIFYING, Sign.FAILED)[1] is E.FAILED
    assert after(S.VERIFYING, Sign.PROVEN)[1] is E.VERIFIED


def test_one_failure_ejects_a_replica_on_probation() -> None:
    """Until it has brought an answer: it is half-open, as a circuit breaker is."""
    back = Conduct(ejections=1).readmitted()

    assert after(S.READY, Sign.FAILED, conduct=back)[1] is E.FAILED
    assert after(S.READY, Sign.SUCCEEDED, Sign.FAILED, conduct=back)[1] is None


def test_ejections_grow_and_good_time_shrinks_them() -> None:
    """By one for each ten seconds that it was ready; ready alone forgives nothing."""
    conduct = WELL
    pauses = []
    for _ in range(9):
        conduct = conduct.ejected(0.0, 1.0).readmitted()
        pauses.append(EJECTION.after(conduct.ejections))
    assert pauses == [5.0, 10.0, 20.0, 40.0, 40.0, 40.0, 40.0, 40.0, 40.0]

    assert conduct.ejections == MOST_COUNTED, "more would only take longer to be forgiven"
    assert conduct.ejected(0.0, 3 * FORGIVEN_S).ejections == MOST_COUNTED - 3 + 1
    assert conduct.ejected(0.0, 100 * FORGIVEN_S).ejections == 1


def test_an_ejected_replica_is_given_another_chance_after_its_pause() -> None:
    """5 s, 10 s, 20 s, … and after the first pause where nothing else serves."""
    conduct = Conduct(ejections=3, ejected_at=100.0)

    assert not released(S.EJECTED, 100.0, conduct, 119.9)
    assert released(S.EJECTED, 100.0, conduct, 120.0)
    assert released(S.SUSPECT, 100.0, conduct, 105.0, wanted=True)
    assert not released(S.READY, 0.0, conduct, 1e9)


def test_a_drained_replica_is_probed_again() -> None:
    """Its successor may answer there."""
    assert not released(S.DRAINING, 0.0, WELL, 4.9)
    assert released(S.DRAINING, 0.0, WELL, 5.0)


def test_a_replica_that_asks_to_be_left_alone_is_so_for_half_a_minute_at_most() -> None:
    asked = WELL.refused(100.0, 20.0)
    assert not released(S.DRAINING, 100.0, asked, 119.9)
    assert released(S.DRAINING, 100.0, asked, 120.0)
    assert not released(S.DRAINING, 100.0, WELL.refused(100.0, 0.0), 104.9)
    assert released(S.DRAINING, 100.0, WELL.refused(100.0, 0.0), 105.0)
    assert released(S.DRAINING, 100.0, WELL.refused(100.0, 1e12), 130.0)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("width", 9, "9 dimensions, the pool's 8"),
        ("tokenizer", "t2", "tokenizer is t2"),
        ("revision", "r2", "revision is r2"),
    ],
)
def test_a_replica_of_another_model_does_not_fit(field: str, value: object, told: str) -> None:
    """With what differs."""
    other = msgspec.structs.replace(DESCRIPTION, **{field: value})

    assert told in mismatch(EXPECTED, other)


def test_a_finer_replica_may_join_and_a_coarser_one_may_not() -> None:
    """A pool promises a precision class at least."""
    finer = msgspec.structs.replace(DESCRIPTION, precision=Precision.F32)
    assert mismatch(EXPECTED, finer) == ""

    strict = replace(EXPECTED, precision=Precision.BF16)
    assert "below the pool's class bf16" in mismatch(strict, DESCRIPTION)


def test_eight_bit_classes_do_not_stand_in_for_each_other() -> None:
    """fp8 and int8 err differently: a pool has one of them."""
    assert not Precision.FP8.may_join(Precision.INT8)
    assert Precision.BF16.may_join(Precision.FP8)


def test_a_replica_far_slower_than_its_peers_stands_out() -> None:
    """Its answers are right; something is wrong with it all the same."""
    slow = msgspec.structs.replace(DESCRIPTION, cost=(1e-3, 1e-4, 0.0))

    assert slowdown(slow, [DESCRIPTION, DESCRIPTION, DESCRIPTION]) > 5
    assert slowdown(slow, [slow, DESCRIPTION]) == 1.0


def test_a_replica_that_claims_to_be_infinitely_fast_does_not_make_the_others_look_slow() -> None:
    """Of two that differ nobody knows which one is right; of three the median does."""
    liar = msgspec.structs.replace(DESCRIPTION, cost=(1e-300, 1e-300, 0.0))

    assert slowdown(DESCRIPTION, [liar]) == 1.0
    assert slowdown(DESCRIPTION, [liar, DESCRIPTION]) == 1.0


def test_a_processor_beside_gpus_is_not_compared_with_them() -> None:
    """It is slower, and well."""
    slow = msgspec.structs.replace(DESCRIPTION, cost=(1e-1, 1e-2, 0.0), device="cpu")
    gpu = msgspec.structs.replace(DESCRIPTION, device="cuda:0")

    assert slowdown(slow, [gpu, gpu]) == 1.0


def test_a_replica_that_started_just_now_is_not_called_slow() -> None:
    """It guesses its speed before it has computed; called slow it would get no work to learn by."""
    fresh = msgspec.structs.replace(DESCRIPTION, cost=(1e-1, 1e-2, 0.0), batches=1)

    assert slowdown(fresh, [DESCRIPTION, DESCRIPTION]) == 1.0
    assert slowdown(DESCRIPTION, [fresh, fresh]) == 1.0


def test_a_replica_whose_oldest_batch_does_not_end_hangs() -> None:
    """Three times what was predicted, and five seconds at least; of others nobody can say."""

    def said(age_s: float | None, predicted_s: float | None) -> str:
        return hung(
            msgspec.structs.replace(
                DESCRIPTION, oldest_batch_s=age_s, oldest_batch_predicted_s=predicted_s
            )
        )

    assert "computing for 6 s" in said(6.0, 0.1)
    assert said(4.9, 0.1) == said(29.0, 10.0) == said(600.0, None) == said(None, None) == ""


@pytest.mark.parametrize("cost", [(0.0, 0.0, 0.0), (1e-300, 1e-300, 0.0), (86_400.0, 1e3, 0.0)])
def test_a_cost_that_no_engine_has_is_refused(cost: tuple[float, float, float]) -> None:
    """Balancing would believe it."""
    liar = msgspec.structs.replace(DESCRIPTION, cost=cost)

    assert "which no engine does" in implausible(liar)
    assert implausible(DESCRIPTION) == ""


def test_a_trial_may_take_a_few_batches_once_costs_are_known() -> None:
    """And less after a failed call; what knows nothing of itself has all the time there is."""
    slow = msgspec.structs.replace(DESCRIPTION, cost=(1.0, 0.0, 0.0))

    assert trial_timeout_s(DESCRIPTION, 120.0, doubtful=False) == 5.0
    assert trial_timeout_s(DESCRIPTION, 120.0, doubtful=True) == 3.0
    assert trial_timeout_s(slow, 120.0, doubtful=True) == 12.0
    assert trial_timeout_s(slow, 10.0, doubtful=False) == 10.0
    fresh = msgspec.structs.replace(DESCRIPTION, batches=1)
    assert trial_timeout_s(fresh, 120.0, doubtful=True) == 120.0


@given(
    st.none() | st.floats(0.0, 600.0),
    st.floats(1.0, 600.0),
)
def test_a_trial_is_repeated_few_times_and_soon_where_its_time_is_known(
    proven_s: float | None, most_s: float
) -> None:
    """Never before the first could have been answered."""
    pauses = trial_repeats(proven_s, most_s)
    asked, passed = 1, 0.0
    while (passed := passed + pauses.after(asked)) < most_s:
        asked += 1
    assert asked <= max(UNPROVEN_REPEATS + 1, 2 + most_s / MOST_AGAIN_S)
    if proven_s is not None:
        assert pauses.first_s >= max(HUNG_LEAST_S, TRIAL_BATCHES * proven_s)
        assert pauses.most_s <= max(MOST_AGAIN_S, TRIAL_BATCHES * proven_s)


def test_what_right_answers_acquit_is_no_ejection() -> None:
    """A replica that is suspect for a moment, again and again, is not out for minutes after."""
    conduct = WELL
    for _ in range(20):
        conduct, event = judge(S.SUSPECT, conduct.ejected(0.0, 0.0), Sign.SUCCEEDED, Peers(1, 1, 0))
        assert event is Event.RECOVERED
    assert conduct.ejected(0.0, 0.0).ejections == 1
