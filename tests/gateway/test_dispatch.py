"""Late binding: which texts go to which replica, and when."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.fleet.balancing import Load
from embedfleet.gateway.dispatch import Assignment, Dispatcher
from embedfleet.gateway.queue import QueuedText
from embedfleet.vocabulary import EmbedfleetError, Lane, ReplicaError, Vector


class Answers:
    """Counts what each text was told."""

    def __init__(self) -> None:
        self.succeeded_with: dict[int, int] = {}
        self.failed_times: dict[int, int] = {}

    def succeeded(self, index: int, vector: Vector) -> None:
        self.succeeded_with[index] = self.succeeded_with.get(index, 0) + 1

    def failed(self, index: int, error: EmbedfleetError) -> None:
        self.failed_times[index] = self.failed_times.get(index, 0) + 1


def queued(tokens: int, index: int = 0, answers: Answers | None = None) -> QueuedText:
    claimant = answers or Answers()
    return QueuedText(np.zeros(tokens, np.int32), Lane.INTERACTIVE, 1e9, 0.0, claimant, index)


def dispatcher(*loads: Load, texts: list[int] = [], attempts: int = 4) -> Dispatcher:  # noqa: B006
    made = Dispatcher(attempts=attempts)
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

    assert shown(made.assign()) == [("a", [40]), ("a", [40])]
    assert len(made.queue) == 2
    assert made.assign() == []


def test_few_texts_are_spread_over_idle_replicas() -> None:
    """Two replicas compute eight texts faster than one does."""
    made = dispatcher(Load("a", 1000, 500), Load("b", 1000, 500), texts=[10] * 8)

    assert shown(made.assign()) == [("a", [10] * 4), ("b", [10] * 4)]


def test_many_texts_are_cut_into_batches() -> None:
    """One call fills one batch of its replica's engine."""
    made = dispatcher(Load("a", 100, 50), texts=[10] * 20)

    assert [len(texts) for _, texts in shown(made.assign())] == [5, 5]


def test_one_call_carries_texts_of_several_requests() -> None:
    """The unit of work is a text, not a request."""
    made = dispatcher(Load("a", 100, 50))
    first, second = Answers(), Answers()
    made.queue.put(queued(5, 0, first))
    made.queue.put(queued(5, 0, second))

    (assignment,) = made.assign()

    assert [text.claimant for text in assignment.texts.values()] == [first, second]


def test_a_long_text_does_not_hold_up_the_other_replica() -> None:
    """Short ones behind it go where there is room."""
    made = dispatcher(Load("a", 100, 50), Load("b", 100, 50), texts=[900, 10, 10, 10])

    assert shown(made.assign()) == [("a", [900]), ("b", [10, 10, 10])]


def test_an_answered_text_makes_room() -> None:
    """And the next one goes out."""
    made = dispatcher(Load("a", 20, 10), texts=[10, 10, 10])
    first, _ = made.assign()
    made.settle(first, 0)

    assert shown(made.assign()) == [("a", [10])]


def test_an_answer_that_was_not_asked_for_is_refused() -> None:
    """A text answered twice, or of another call."""
    made = dispatcher(Load("a", 20, 10), texts=[10])
    (assignment,) = made.assign()
    made.settle(assignment, 0)

    with pytest.raises(ReplicaError, match="was not asked for or has answered before"):
        made.settle(assignment, 0)


def test_what_a_lost_replica_left_goes_back_in_its_old_order() -> None:
    """In front of what came later."""
    made = dispatcher(Load("a", 100, 50), texts=[11, 12, 13])
    (assignment,) = made.assign()
    made.settle(assignment, 1)
    made.queue.put(queued(14, 3))
    made.leave("a")
    made.put_back(assignment, counted=True)
    made.join(Load("b", 100, 50))

    assert shown(made.assign()) == [("b", [11, 13, 14])]


def test_a_text_that_was_tried_too_often_is_given_up() -> None:
    """It may be what kills replicas."""
    made = dispatcher(Load("a", 100, 50), texts=[10], attempts=2)
    for left in ([], [10]):
        (assignment,) = made.assign()
        assert [text.tokens for text in made.put_back(assignment, counted=True)] == left


def test_a_refusal_of_a_draining_replica_is_no_attempt() -> None:
    """It did nothing to the text."""
    made = dispatcher(Load("a", 100, 50), texts=[10], attempts=1)
    (assignment,) = made.assign()

    assert made.put_back(assignment, counted=False) == []
    assert len(made.queue) == 1


@settings(max_examples=200)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 120))
def test_every_text_is_answered_exactly_once_whatever_replicas_do(
    seed: int, replicas: int, texts: int
) -> None:
    """Replicas answer in any order, break off, leave and come back; nothing is lost or doubled,
    and no window is passed but by a single long text."""
    rng = Random(seed)
    answers = Answers()
    made = Dispatcher(attempts=10**6)
    for number in range(replicas):
        made.join(Load(f"r{number}", rng.randint(1, 200), rng.randint(1, 100)))
    flying: list[Assignment] = []
    waiting = list(range(texts))
    vector = np.zeros(1, np.float32)
    while waiting or flying or len(made.queue):
        if waiting and rng.random() < 0.5:
            made.queue.put(queued(rng.randint(1, 150), waiting.pop(), answers))
        flying += made.assign()
        for load in made.loads:
            held = [text for each in flying if each.load is load for text in each.texts.values()]
            assert load.outstanding_tokens == sum(text.tokens for text in held)
        if not flying:
            continue
        assignment = flying.pop(rng.randrange(len(flying)))
        for text_id in rng.sample(sorted(assignment.texts), rng.randint(0, len(assignment.texts))):
            text = made.settle(assignment, text_id)
            text.claimant.succeeded(text.index, vector)
        if assignment.texts and rng.random() < 0.5:
            made.leave(assignment.replica)
            assert made.put_back(assignment, counted=True) == []
            made.join(Load(assignment.replica, rng.randint(1, 200), rng.randint(1, 100)))
        elif assignment.texts:
            flying.append(assignment)

    assert answers.succeeded_with == dict.fromkeys(range(texts), 1)
    assert answers.failed_times == {}
    assert made.outstanding_tokens == 0
