"""Whether a replica is well."""

from dataclasses import replace

import msgspec
import pytest

from embedfleet.fleet.health import (
    EJECTION,
    Expected,
    Look,
    judge,
    may_eject,
    mismatch,
    released,
    slowdown,
)
from embedfleet.fleet.states import Event
from embedfleet.vocabulary import Precision, ReplicaState
from embedfleet.wire.description import ReplicaDescription

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


def event(state: ReplicaState, look: Look) -> Event | None:
    verdict = judge(state, look, EXPECTED)
    return verdict[0] if verdict else None


def test_a_starting_replica_that_does_not_answer_is_left_alone() -> None:
    """Loading takes as long as it takes."""
    assert event(S.STARTING, Look(None, "refused")) is None


def test_a_starting_replica_that_answers_is_verified_next() -> None:
    """Answering is not enough for traffic."""
    assert event(S.STARTING, Look(DESCRIPTION)) is E.ANSWERED


def test_a_ready_replica_that_misses_a_look_has_failed() -> None:
    """And recovers when it answers again."""
    assert event(S.READY, Look(None, "timed out")) is E.FAILED
    assert event(S.SUSPECT, Look(DESCRIPTION)) is E.RECOVERED
    assert event(S.READY, Look(DESCRIPTION)) is None


def test_a_replica_that_drains_gets_nothing_new() -> None:
    """Whatever state it was in."""
    draining = msgspec.structs.replace(DESCRIPTION, draining=True)

    assert event(S.READY, Look(draining)) is E.DRAIN


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("width", 9, "9 dimensions, the pool's 8"),
        ("tokenizer", "t2", "tokenizer is t2"),
        ("revision", "r2", "revision is r2"),
    ],
)
def test_a_replica_of_another_model_is_refused(field: str, value: object, told: str) -> None:
    """With what differs."""
    other = msgspec.structs.replace(DESCRIPTION, **{field: value})

    assert told in mismatch(EXPECTED, other)
    assert event(S.READY, Look(other)) is E.REFUSED


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


def test_ejections_grow_and_end() -> None:
    """5 s, 10 s, 20 s, … at most five minutes."""
    times = EJECTION

    assert [times.after(count) for count in (1, 2, 3, 99)] == [5.0, 10.0, 20.0, 300.0]
    assert not released(S.EJECTED, 2, 9.9, times)
    assert released(S.EJECTED, 2, 10.0, times)
    assert not released(S.READY, 0, 1e9, times)


def test_a_replica_far_slower_than_its_like_is_failing() -> None:
    """Its answers are right; something is wrong with it all the same."""
    slow = msgspec.structs.replace(DESCRIPTION, cost=(1e-3, 1e-4, 0.0))

    factor = slowdown(slow, [DESCRIPTION, DESCRIPTION, DESCRIPTION])
    assert factor > 5
    assert event(S.READY, Look(slow, slowdown=factor)) is E.FAILED
    assert event(S.READY, Look(slow, slowdown=slowdown(slow, [slow, DESCRIPTION, slow]))) is None


def test_a_processor_beside_gpus_is_not_compared_with_them() -> None:
    """It is slower, and well."""
    slow = msgspec.structs.replace(DESCRIPTION, cost=(1e-1, 1e-2, 0.0), device="cpu")
    gpu = msgspec.structs.replace(DESCRIPTION, device="cuda:0")

    assert slowdown(slow, [gpu, gpu]) == 1.0


def test_at_most_half_of_a_pool_is_ejected_for_failing() -> None:
    """Never the only replica: a doubtful one is better than none."""
    assert not may_eject(0, 1)
    assert may_eject(0, 2)
    assert not may_eject(1, 2)
    assert may_eject(1, 4)
    assert not may_eject(2, 5)


def test_a_replica_that_started_just_now_is_not_called_slow() -> None:
    """It guesses its speed before it has computed; called slow it would get no work to learn by."""
    fresh = msgspec.structs.replace(DESCRIPTION, cost=(1e-1, 1e-2, 0.0), batches=1)

    assert slowdown(fresh, [DESCRIPTION, DESCRIPTION]) == 1.0
    assert slowdown(DESCRIPTION, [fresh, fresh]) == 1.0


def test_a_slow_replica_that_was_ejected_gets_another_chance() -> None:
    """It must verify and compute again, or nobody would ever see that it has recovered."""
    look = Look(DESCRIPTION, slowdown=50.0)

    assert event(S.STARTING, look) is E.ANSWERED
