"""Late binding: which texts go to which replica, and when."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.fleet.balancing import POLICIES, Load
from embedfleet.fleet.balancing.least_work import LeastWork
from embedfleet.gateway.dispatch import Assignment, Dispatcher, Ending
from embedfleet.gateway.queue import QueuedText
from embedfleet.vocabulary import EmbedfleetError, Lane, ReplicaError, Vector


class Answers:
    """Counts what each text was told."""

    def __init__(self) -> None:
        self.succeeded_with: dict[int, int] = {}
        self.failed_times: dict[int, int] = {}

    def succeeded(self, index: int, vector: Vector, queue_s: float, compute_s: float) -> None:
        self.succeeded_with[index] = self.succeeded_with.get(index, 0) + 1

    def failed(self, index: int, error: EmbedfleetError) -> None:
        self.failed_times[index] = self.failed_times.get(index, 0) + 1


def queued(
    tokens: int, index: int = 0, answers: Answers | None = None, arrived: float = 0.0
) -> QueuedText:
    claimant = answers or Answers()
    return QueuedText(np.zeros(tokens, np.int32), Lane.INTERACTIVE, 1e9, arrived, claimant, index)


def dispatcher(*loads: Load, texts: list[int] = [], attempts: int = 4) -> Dispatcher:  # noqa: B006
    made = Dispatcher(LeastWork(), attempts=attempts)
    for load in loads:
        made.join(load)
    for index, tokens in enumerate(texts):
        made.queue.put(queued(tokens, index))
    return made


def shown(assignments: list[Assignment]) -> list[tuple[str, list[int]]]:
    return [(each.replica, [text.tokens for text in each.texts.values()]) for each in assignments]


def test_texts_wait_in_the_queue_until_a_replica_has_room() -> None:
    """The window of outstanding work binds late."""
    made = dispatcher(Load("a", 100, 50), texts=[40, 40, 40, 40])

    assert shown(made.assign(0.0)) == [("a", [40]), ("a", [40])]
    assert len(made.queue) == 2
    assert made.assign(0.0) == []


def test_few_texts_are_spread_over_idle_replicas() -> None:
    """Two replicas compute eight texts faster than one does."""
    made = dispatcher(Load("a", 1000, 500), Load("b", 1000, 500), texts=[10] * 8)

    assert shown(made.assign(0.0)) == [("a", [10] * 4), ("b", [10] * 4)]


def test_many_texts_are_cut_into_batches() -> None:
    """One call fills one batch of its replica's engine."""
    made = dispatcher(Load("a", 100, 50), texts=[10] * 20)

    assert [len(texts) for _, texts in shown(made.assign(0.0))] == [5, 5]


def test_one_call_carries_texts_of_several_requests() -> None:
    """The unit of work is a text, not a request."""
    made = dispatcher(Load("a", 100, 50))
    first, second = Answers(), Answers()
    made.queue.put(queued(5, 0, first))
    made.queue.put(queued(5, 0, second))

    (assignment,) = made.assign(0.0)

    assert [text.claimant for text in assignment.texts.values()] == [first, second]


def test_a_long_text_does_not_hold_up_the_other_replica() -> None:
    """Short ones behind it go where there is room."""
    made = dispatcher(Load("a", 100, 50), Load("b", 100, 50), texts=[900])
    (first,) = made.assign(0.0)
    for _ in range(3):
        made.queue.put(queued(10))

    assert shown([first, *made.assign(0.0)]) == [("a", [900]), ("b", [10, 10, 10])]


def test_an_answered_text_makes_room() -> None:
    """And the next one goes out."""
    made = dispatcher(Load("a", 20, 10), texts=[10, 10, 10])
    first, _ = made.assign(0.0)
    made.settle(first, 0)

    assert shown(made.assign(0.0)) == [("a", [10])]


def test_an_answer_that_was_not_asked_for_is_refused() -> None:
    """A text answered twice, or of another call."""
    made = dispatcher(Load("a", 20, 10), texts=[10])
    (assignment,) = made.assign(0.0)
    made.settle(assignment, 0)

    with pytest.raises(ReplicaError, match="was not asked for or has answered before"):
        made.settle(assignment, 0)


def test_what_a_lost_replica_left_goes_to_another() -> None:
    """In its old order, before what came later."""
    made = dispatcher(Load("a", 100, 50), texts=[11, 11, 11])
    (assignment,) = made.assign(0.0)
    made.settle(assignment, 1)
    made.queue.put(queued(14, 3, arrived=1.0))
    made.leave("a")
    made.end(assignment, Ending.LOST)
    made.join(Load("b", 100, 50))

    assert shown(made.assign(0.0)) == [("b", [11, 11, 14])]


def test_a_text_avoids_the_replica_that_failed_it_while_there_is_another() -> None:
    """And goes back to it when there is none."""
    made = dispatcher(Load("a", 100, 50), texts=[10])
    (assignment,) = made.assign(0.0)
    made.join(Load("b", 100, 50, outstanding_tokens=40))
    made.end(assignment, Ending.FAILED)
    (second,) = made.assign(0.0)
    assert second.replica == "b"

    made.end(second, Ending.FAILED)
    made.leave("b")
    assert shown(made.assign(0.0)) == [("a", [10])]


def test_a_text_that_was_tried_too_often_is_given_up() -> None:
    """Whatever the reason is each time."""
    made = dispatcher(Load("a", 100, 50), texts=[10], attempts=2)
    for left in ([], [10]):
        (assignment,) = made.assign(0.0)
        assert [text.tokens for text in made.end(assignment, Ending.FAILED)] == left


def test_texts_that_may_not_be_tried_again_fail_at_once() -> None:
    """The budget for retries is used up."""
    made = dispatcher(Load("a", 100, 50), texts=[10, 10])
    (assignment,) = made.assign(0.0)

    assert len(made.end(assignment, Ending.FAILED, retry=False)) == 2
    assert len(made.queue) == 0


def test_a_refusal_of_a_draining_replica_is_no_attempt() -> None:
    """It did nothing to the text."""
    made = dispatcher(Load("a", 100, 50), texts=[10], attempts=1)
    (assignment,) = made.assign(0.0)

    assert made.end(assignment, Ending.REFUSED) == []
    assert len(made.queue) == 1


def test_the_one_text_that_kills_replicas_is_found_and_the_others_are_answered() -> None:
    """After two losses each of them runs alone, and only the guilty one is lost again."""
    made = dispatcher(Load("a", 1000, 500), texts=[10, 10, 10, 10])
    poison, condemned, answered, losses = 2, [], [], 0
    while len(answered) + len(condemned) < 4:
        for assignment in made.assign(0.0):
            indices = {number: text.index for number, text in assignment.texts.items()}
            if poison in indices.values():
                losses += 1
                condemned += [text.index for text in made.end(assignment, Ending.LOST)]
            else:
                for number, index in indices.items():
                    made.settle(assignment, number)
                    answered.append(index)
                made.end(assignment, Ending.FAILED)

    assert condemned == [poison]
    assert sorted(answered) == [0, 1, 3]
    assert losses == 4


def test_an_isolated_text_waits_for_a_replica_that_has_nothing_else() -> None:
    """Which meanwhile gets nothing new; the others go on."""
    made = dispatcher(Load("a", 100, 50), Load("b", 100, 50), texts=[10, 20])
    first, second = made.assign(0.0)
    suspicious = queued(30)
    suspicious.crashes = 2
    made.queue.put(suspicious)
    made.queue.put(queued(40))

    assert shown(made.assign(0.0)) == [("b", [40])]
    made.settle(first, 0)
    assert shown(made.assign(0.0)) == [("a", [30])]
    made.queue.put(queued(5))
    assert shown(made.assign(0.0)) == [("b", [5])]
    made.settle(second, 0)


def test_a_text_taken_back_is_answered_by_whoever_is_first() -> None:
    """And only once."""
    made = dispatcher(Load("slow", 100, 50), texts=[10])
    (first,) = made.assign(0.0)
    made.join(Load("quick", 100, 50))
    made.give_up(first, [0])
    (second,) = made.assign(0.0)
    assert second.replica == "quick"

    assert made.settle(second, 0) is not None
    assert made.settle(first, 0) is None
    assert made.end(first, Ending.FAILED) == []
    assert made.end(second, Ending.FAILED) == []
    assert made.outstanding_tokens == 0
    assert [load.calls for load in made.loads] == [0, 0]


def test_a_late_answer_takes_the_text_out_of_the_queue() -> None:
    """It need not be computed again."""
    made = dispatcher(Load("slow", 100, 50), texts=[10])
    (first,) = made.assign(0.0)
    made.give_up(first, [0])
    assert made.settle(first, 0) is not None

    assert len(made.queue) == 0


@settings(max_examples=200)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 120))
def test_every_text_is_answered_exactly_once_whatever_replicas_do(  # noqa: C901
    seed: int, replicas: int, texts: int
) -> None:
    """Replicas answer in any order, are late, break off, leave and come back; nothing is lost or
    doubled, and what is outstanding adds up."""
    rng = Random(seed)
    answers = Answers()
    made = Dispatcher(POLICIES[rng.choice(sorted(POLICIES))](rng), attempts=10**6)

    def joined(name: str) -> None:
        made.join(Load(name, rng.randint(1, 200), rng.randint(1, 100)))

    for number in range(replicas):
        joined(f"r{number}")
    flying: list[Assignment] = []
    waiting = list(range(texts))
    vector = np.zeros(1, np.float32)
    while waiting or flying or len(made.queue):
        if waiting and rng.random() < 0.5:
            made.queue.put(queued(rng.randint(1, 150), waiting.pop(), answers))
        flying += made.assign(0.0)
        if not flying:
            continue
        assignment = flying.pop(rng.randrange(len(flying)))
        if rng.random() < 0.2:
            made.give_up(assignment, [each for each in assignment.texts if rng.random() < 0.5])
        known = [*assignment.texts, *assignment.given_up]
        for text_id in rng.sample(known, rng.randint(0, len(known))):
            text = made.settle(assignment, text_id)
            if text is not None:
                text.claimant.succeeded(text.index, vector, 0.0, 0.0)
        if assignment.texts and rng.random() < 0.5:
            flying.append(assignment)
            continue
        if assignment.texts and rng.random() < 0.5:
            made.leave(assignment.replica)
            joined(assignment.replica)
        exhausted = made.end(assignment, rng.choice([Ending.FAILED, Ending.REFUSED]))
        assert exhausted == []
        held = [text.tokens for each in flying for text in each.texts.values()]
        assert made.outstanding_tokens == sum(held)

    assert answers.succeeded_with == dict.fromkeys(range(texts), 1)
    assert answers.failed_times == {}
    assert made.outstanding_tokens == 0
