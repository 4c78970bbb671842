"""Whether a request's texts may be queued."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.scheduling.delivery.admission import Pressure, admit
from embedfleet.vocabulary import Lane, OverloadedError

IDLE = Pressure(tokens=0, lane_s=0.0)


def refused(tokens: int, lane: Lane, left_s: float, pressure: Pressure) -> OverloadedError:
    with pytest.raises(OverloadedError) as error:
        admit(tokens, lane, left_s, pressure, most_tokens=1000)
    return error.value


def test_an_idle_pool_takes_any_request() -> None:
    """However large: nobody else is harmed."""
    admit(10**9, Lane.BULK, 0.001, IDLE, most_tokens=1000)


def test_a_full_queue_refuses_with_the_time_until_there_is_room() -> None:
    """900 tokens go in 9 s: 100 too many are gone after one."""
    error = refused(200, Lane.INTERACTIVE, 60.0, Pressure(900, 9.0))

    assert error.status == 429
    assert error.retry_after_s == pytest.approx(1.0)


def test_bulk_is_refused_at_half() -> None:
    """Shedding starts with bulk."""
    admit(100, Lane.INTERACTIVE, 60.0, Pressure(450, 1.0), 1000)

    assert "limit of 500 for bulk" in str(refused(100, Lane.BULK, 60.0, Pressure(450, 1.0)))


def test_a_request_that_would_be_late_is_refused_before_it_waits() -> None:
    """With the time by which the wait is too long."""
    error = refused(1, Lane.INTERACTIVE, 2.0, Pressure(10, 7.0))

    assert error.retry_after_s == pytest.approx(5.0)


def test_retry_after_is_bounded() -> None:
    """A minute at most, a second at least."""
    assert refused(1, Lane.BULK, 1.0, Pressure(10, 1e6)).retry_after_s == 60.0
    assert refused(1, Lane.BULK, 1.0, Pressure(10, 1.1)).retry_after_s == 1.0


@given(st.integers(0, 2000), st.integers(1, 2000), st.floats(0.001, 100), st.floats(0, 100))
def test_no_interactive_text_is_shed_where_a_bulk_text_would_be_let_in(
    waiting: int, tokens: int, left_s: float, wait_s: float
) -> None:
    """Under overload that no start can meet in time, whoever has time gives way."""
    pressure = Pressure(waiting, wait_s)
    try:
        admit(tokens, Lane.INTERACTIVE, left_s, pressure, most_tokens=1000)
    except OverloadedError:
        with pytest.raises(OverloadedError):
            admit(tokens, Lane.BULK, left_s, pressure, most_tokens=1000)
