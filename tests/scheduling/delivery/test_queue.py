"""The one queue of a pool."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.scheduling.delivery.queue import TextQueue
from embedfleet.scheduling.texts import Text
from embedfleet.scheduling.urgency import LANE_SHARES
from embedfleet.vocabulary import Lane

INTERACTIVE, BULK = Lane.INTERACTIVE, Lane.BULK


def text(tokens: int, lane: Lane = INTERACTIVE, arrived: float = 0.0) -> Text:
    made = Text(np.zeros(tokens, np.int32))
    made.submitted(lane, 1e9, arrived)
    return made


def popped(queue: TextQueue) -> Text:
    """The text that left."""
    first = queue.peek()
    assert first is not None
    queue.pop(first)
    return first


def test_texts_leave_in_the_order_they_came() -> None:
    """Within their lane."""
    queue = TextQueue()
    texts = [text(5) for _ in range(4)]
    for each in texts:
        queue.put(each)

    assert [popped(queue) for _ in texts] == texts
    assert queue.peek() is None


def test_short_texts_pass_long_ones_but_not_for_ever() -> None:
    """A document of 8,000 tokens lets 4 s of questions pass."""
    queue = TextQueue()
    document, soon, late = text(8000), text(20, arrived=1.0), text(20, arrived=5.0)
    for each in (document, late, soon):
        queue.put(each)

    assert [popped(queue) for _ in range(3)] == [soon, document, late]


def test_what_is_put_back_takes_its_old_place() -> None:
    """It keeps its age."""
    queue = TextQueue()
    lost, waiting = text(5), text(5, arrived=0.1)
    queue.put(lost)
    popped(queue)
    queue.put(waiting)
    queue.put(lost)

    assert queue.peek() is lost


def test_a_discarded_text_may_come_back() -> None:
    """And then leaves once."""
    queue = TextQueue()
    only = text(5)
    queue.put(only)
    queue.discard(only)
    queue.put(only)

    assert popped(queue) is only
    assert queue.peek() is None


def test_lanes_share_by_tokens_while_both_wait() -> None:
    """Bulk gets its tenth of the tokens, not of the texts."""
    queue = TextQueue()
    for _ in range(1000):
        queue.put(text(10, INTERACTIVE))
        queue.put(text(100, BULK))

    left = [popped(queue) for _ in range(500)]

    tokens = {lane: sum(each.tokens for each in left if each.lane is lane) for lane in Lane}
    assert tokens[BULK] / sum(tokens.values()) == pytest.approx(LANE_SHARES[BULK], abs=0.03)


def test_an_idle_lane_saves_no_credit() -> None:
    """After an hour of bulk alone, interactive work does not owe or own anything."""
    queue = TextQueue()
    for _ in range(1000):
        queue.put(text(100, BULK))
    for _ in range(900):
        popped(queue)
    queue.put(text(10, INTERACTIVE))
    queue.put(text(10, INTERACTIVE))

    assert {popped(queue).lane for _ in range(3)} == {INTERACTIVE, BULK}


def test_a_text_without_waiters_leaves_the_queue() -> None:
    """Wherever it stands; and only once."""
    queue = TextQueue()
    first, second = text(5), text(6)
    queue.put(first)
    queue.put(second)

    for _ in range(2):
        queue.discard(second)
    assert repr(queue) == "<TextQueue [Texts: 1 interactive, 0 bulk | Tokens: 5]>"


@given(st.lists(st.tuples(st.integers(1, 50), st.sampled_from(Lane), st.booleans()), max_size=60))
def test_nothing_is_lost_or_doubled(steps: list[tuple[int, Lane, bool]]) -> None:
    """However putting and taking alternate, tokens and texts add up."""
    queue = TextQueue()
    inside: list[Text] = []
    for tokens, lane, take in steps:
        if take and inside:
            inside.remove(popped(queue))
        else:
            inside.append(text(tokens, lane))
            queue.put(inside[-1])

        assert len(queue) == len(inside)
        assert queue.tokens == sum(each.tokens for each in inside)


def test_questions_are_not_held_up_by_a_document_that_waits_for_room() -> None:
    """They pass it, one after the other, until they are a batch ahead of their share."""
    queue = TextQueue()
    queue.put(text(8000, BULK))
    queue.put(text(8000, BULK))
    popped(queue)
    for _ in range(5):
        queue.put(text(20))
        waiting = queue.peek()
        assert waiting is not None
        assert waiting.lane is INTERACTIVE
        popped(queue)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sampled_from([0.0, 0.001, 0.01, 0.1, 1.0, 5.0])),
            st.tuples(st.sampled_from(["pop", "discard", "put back"]), st.integers(0, 20)),
        ),
        max_size=80,
    )
)
def test_the_most_urgent_text_leaves_first_after_any_changes(
    steps: list[tuple[str, float]],
) -> None:
    """Also what comes late and is more urgent than all that was looked at before; of two that are
    equal, the first that came."""
    queue, waiting, left = TextQueue(), list[Text](), list[Text]()
    for what, how in steps:
        if what == "put":
            waiting.append(text(5, arrived=how))
            queue.put(waiting[-1])
        elif what == "put back" and left:
            waiting.append(left.pop(int(how) % len(left)))
            queue.put(waiting[-1])
        elif what == "discard" and waiting:
            gone = waiting.pop(int(how) % len(waiting))
            queue.discard(gone)
            queue.discard(gone)
        elif what == "pop" and waiting:
            first = min(waiting, key=lambda each: each.urgency)
            assert queue.peek() is first
            left.append(popped(queue))
            waiting.remove(left[-1])
        assert (len(queue), queue.tokens) == (len(waiting), 5 * len(waiting))

    assert [popped(queue) for _ in waiting] == sorted(waiting, key=lambda each: each.urgency)
