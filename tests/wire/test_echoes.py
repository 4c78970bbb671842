"""A gateway sees from a frame whether its replica mixed texts up."""

import numpy as np
import pytest

from embedfleet.vocabulary import ReplicaError
from embedfleet.wire.frames import Failure, Frame, echo, encoding_bytes

ASKED = {0: echo(np.array([1, 2, 3], np.int32)), 1: echo(np.array([3, 2, 1], np.int32))}


def answering(ids: list[int], echoes: list[int]) -> Frame:
    return Frame(ids, b"", [], queue_us=0, compute_us=0, window=1, echoes=echoes)


def test_an_echo_is_the_same_on_both_sides() -> None:
    """The gateway has the bytes that it sent, the replica the ids that it read from them."""
    ids = np.array([1, 2, 3], np.int32)

    assert echo(ids) == echo(encoding_bytes(ids))


def test_answers_in_any_order_are_right() -> None:
    """An echo belongs to its text's number, not to its place."""
    asked = dict(ASKED)
    answering([1, 0], [ASKED[1], ASKED[0]]).take_from(asked)

    assert not asked


@pytest.mark.parametrize(
    ("ids", "echoes"),
    [
        pytest.param([0, 1], [ASKED[1], ASKED[0]], id="two texts in each other's place"),
        pytest.param([0], [echo(b"another")], id="a text of another call"),
        pytest.param([2], [ASKED[0]], id="a number that was not asked for"),
        pytest.param([0, 1], [ASKED[0]], id="too few echoes"),
    ],
)
def test_a_frame_that_answers_other_texts_is_refused(ids: list[int], echoes: list[int]) -> None:
    """Its vectors may be right ones, of other texts."""
    with pytest.raises(ReplicaError, match="mixed texts up"):
        answering(ids, echoes).take_from(dict(ASKED))


def test_a_text_is_answered_once() -> None:
    """Neither with a second vector nor with a failure after it."""
    asked = dict(ASKED)
    answering([0], [ASKED[0]]).take_from(asked)
    again = Frame([], b"", [Failure(0, "replica_failed", "no")], 0, 0, 1)

    with pytest.raises(ReplicaError, match="mixed texts up"):
        answering([0], [ASKED[0]]).take_from(dict(asked))
    with pytest.raises(ReplicaError, match="nobody waits for"):
        again.take_from(asked)


def test_a_frame_that_answers_nothing_is_refused() -> None:
    """It would only show that the call is alive, for ever."""
    with pytest.raises(ReplicaError, match="answers no text"):
        answering([], []).take_from(dict(ASKED))
