"""A gateway sees from a frame whether its replica mixed texts up, or answers one again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.transport.frames import CallText, Failure, Frame, Unanswered, echo, encoding_bytes
from embedfleet.vocabulary import ReplicaError

TEXTS = [np.array([1, 2, 3], np.int32), np.array([3, 2, 1], np.int32)]
ECHOES = {number: echo(ids) for number, ids in enumerate(TEXTS)}


def asked(texts: int = 2) -> Unanswered:
    return Unanswered([call_text(number) for number in range(texts)])


def call_text(number: int) -> CallText:
    ids = TEXTS[number] if number < 2 else np.array([number], np.int32)
    return CallText(number, encoding_bytes(ids), bulk=False, deadline_ms=0)


def answering(ids: list[int], echoes: list[int], vectors: bytes = b"") -> Frame:
    return Frame(ids, vectors, [], queue_us=0, compute_us=0, window=1, echoes=echoes)


def failing(*ids: int) -> Frame:
    return Frame([], b"", [Failure(each, "replica_failed", "no") for each in ids], 0, 0, 1)


def test_an_echo_is_the_same_on_both_sides() -> None:
    """The gateway has the bytes that it sent, the replica the ids that it read from them."""
    ids = np.array([1, 2, 3], np.int32)

    assert echo(ids) == echo(encoding_bytes(ids))


def test_answers_in_any_order_are_right() -> None:
    """An echo belongs to its text's number, not to its place."""
    frame = answering([1, 0], [ECHOES[1], ECHOES[0]])
    assert asked().news(frame) is frame


@pytest.mark.parametrize(
    ("ids", "echoes"),
    [
        pytest.param([0, 1], [ECHOES[1], ECHOES[0]], id="two texts in each other's place"),
        pytest.param([0], [echo(b"another")], id="a text of another call"),
        pytest.param([2], [ECHOES[0]], id="a number that was not asked for"),
        pytest.param([0, 1], [ECHOES[0]], id="too few echoes"),
    ],
)
def test_a_frame_that_answers_other_texts_is_refused(ids: list[int], echoes: list[int]) -> None:
    """Its vectors may be right ones, of other texts."""
    with pytest.raises(ReplicaError, match="echoes of a frame do not match"):
        asked().news(answering(ids, echoes))


def test_a_failure_of_a_text_that_was_not_asked_for_is_refused() -> None:
    with pytest.raises(ReplicaError, match="was not in the call"):
        asked().news(failing(7))


def test_a_second_answer_in_a_frame_is_left_out_and_the_others_stand() -> None:
    call = asked()
    twice = answering([0, 0, 1], [ECHOES[0], ECHOES[0], ECHOES[1]], b"aaaabbbbcccc")
    news = call.news(twice)
    assert news is not None
    assert (news.ids, news.vectors) == ([0, 1], b"aaaacccc")
    assert news.echoes == [ECHOES[0], ECHOES[1]]
    assert call.repeated == 1


def test_a_frame_that_comes_twice_and_a_failure_after_an_answer_are_nothing_new() -> None:
    call, frame = asked(), answering([0], [ECHOES[0]], b"aaaa")
    assert call.news(frame) is frame
    assert call.news(frame) is None
    assert call.news(failing(0)) is None
    assert call.repeated == 2


def test_a_call_does_not_go_on_for_ever_by_the_same_answers() -> None:
    call, frame = asked(), answering([0], [ECHOES[0]], b"aaaa")
    for _ in range(3):
        call.news(frame)
    with pytest.raises(ReplicaError, match="keep answering the same"):
        call.news(frame)


def test_a_frame_that_answers_nothing_is_refused() -> None:
    """It would only show that the call is alive, for ever."""
    with pytest.raises(ReplicaError, match="a frame without answers"):
        asked().news(answering([], []))


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=8), max_size=6))
def test_however_often_texts_are_answered_each_gets_its_first_vector(
    frames: list[list[int]],
) -> None:
    texts = [call_text(number) for number in range(6)]
    call, got, firsts = Unanswered(texts), dict[int, bytes](), dict[int, bytes]()
    number = 0
    try:
        for ids in frames:
            rows = []
            for each in ids:
                rows.append(number.to_bytes(4, "big"))
                firsts.setdefault(each, rows[-1])
                number += 1
            echoes = [echo(texts[each].ids) for each in ids]
            news = call.news(answering(ids, echoes, b"".join(rows)))
            for place, each in enumerate(() if news is None else news.ids):
                assert news is not None
                assert each not in got
                got[each] = news.vectors[4 * place : 4 * place + 4]
    except ReplicaError:
        assert call.repeated > len(texts)
    else:
        assert got == firsts
