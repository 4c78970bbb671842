"""A replica that can't be reached costs its texts nothing but a moment."""

import numpy as np
import pytest

from embedfleet.fleet.balancing import Load
from embedfleet.fleet.balancing.least_work import LeastWork
from embedfleet.gateway.dispatch import CRASHES_TO_ISOLATE, SHUT_S, Dispatcher, Ending
from embedfleet.gateway.endings import ending_of
from embedfleet.gateway.queue import QueuedText
from embedfleet.gateway.upstream import Upstream
from embedfleet.vocabulary import Lane, ReplicaLostError, ReplicaUnreachableError
from embedfleet.wire.frames import CallText
from tests.fakes.taking import frames_of
from tests.gateway.test_dispatch import Answers


def queued() -> QueuedText:
    return QueuedText(np.zeros(10, np.int32), Lane.INTERACTIVE, 1e9, 0.0, Answers(), 0)


def test_a_text_is_not_counted_as_tried_where_nobody_was_reached() -> None:
    """It did no harm, and was done none: with all replicas gone it waits for one to come back."""
    made = Dispatcher(LeastWork(), attempts=1)
    made.join(Load("a", 100, 50))
    text = queued()
    made.queue.put(text)

    (assignment,) = made.assign(0.0)
    assert made.end(assignment, Ending.UNREACHED) == []
    assert (text.attempts, text.crashes) == (0, 0)


def test_a_replica_that_was_not_reached_is_left_alone_for_a_moment() -> None:
    """Or its texts would go to it in a circle."""
    made = Dispatcher(LeastWork(), attempts=4)
    made.join(Load("a", 100, 50))
    made.queue.put(queued())
    (assignment,) = made.assign(0.0)
    made.end(assignment, Ending.UNREACHED)

    assert made.assign(SHUT_S / 2) == []
    assert [each.replica for each in made.assign(SHUT_S)] == ["a"]


def test_an_isolated_text_goes_to_a_replica_that_can_be_reached() -> None:
    """One that is gone would keep it for ever."""
    made = Dispatcher(LeastWork(), attempts=9)
    made.join(Load("gone", 100, 50))
    made.join(Load("here", 100, 50, outstanding_tokens=1))
    text = queued()
    text.crashes = CRASHES_TO_ISOLATE
    made.queue.put(text)
    (assignment,) = made.assign(0.0)
    assert assignment.replica == "gone"
    made.end(assignment, Ending.UNREACHED)
    assert made.load_of("here") is not None

    assert made.assign(SHUT_S / 2) == []  # it has something else to finish first
    here = made.load_of("here")
    assert here is not None
    here.outstanding_tokens = 0
    assert [each.replica for each in made.assign(SHUT_S / 2)] == ["here"]


def test_only_a_lost_connection_is_held_against_texts() -> None:
    """One that never was can't have been lost because of them."""
    assert ending_of(ReplicaLostError("torn")) is Ending.LOST
    assert ending_of(ReplicaUnreachableError("refused")) is Ending.UNREACHED


async def test_a_refused_connection_is_told_from_a_lost_one(unused_tcp_port: int) -> None:
    """Nobody listens there."""
    upstream = Upstream.open(connect_timeout_s=1, probe_timeout_s=1)
    text = CallText(0, b"\0\0\0\0", bulk=False, deadline_ms=0)

    with pytest.raises(ReplicaUnreachableError):
        await frames_of(upstream, f"http://127.0.0.1:{unused_tcp_port}", "k", [text])
    await upstream.close()
