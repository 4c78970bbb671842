"""A breaker spares requests the wait for what does not answer."""

from __future__ import annotations

from embedfleet.cache.breaker import (
    FAILURES_TO_OPEN,
    FIRST_PAUSE_S,
    MOST_PAUSE_S,
    Breaker,
    State,
)


def opened() -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(0.0)
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    breaker = Breaker()
    told = [breaker.failed(0.0) for _ in range(FAILURES_TO_OPEN)]
    assert told == [False] * (FAILURES_TO_OPEN - 1) + [True]
    assert breaker.state(0.0) is State.OPEN
    assert not breaker.admits(FIRST_PAUSE_S / 2)


def test_a_success_in_between_starts_the_count_anew() -> None:
    breaker = Breaker()
    for _ in range(3 * FAILURES_TO_OPEN):
        breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.state(0.0) is State.CLOSED


def test_one_call_tries_after_the_pause() -> None:
    """The others go on without, until it is known how that went."""
    breaker = opened()
    assert breaker.state(FIRST_PAUSE_S) is State.HALF_OPEN
    assert [breaker.admits(FIRST_PAUSE_S) for _ in range(3)] == [True, False, False]


def test_it_closes_when_the_try_succeeds() -> None:
    breaker = opened()
    assert breaker.admits(FIRST_PAUSE_S)
    breaker.succeeded()
    assert breaker.state(FIRST_PAUSE_S) is State.CLOSED


def test_each_try_that_fails_doubles_the_pause_up_to_a_limit() -> None:
    breaker, now, pauses = opened(), FIRST_PAUSE_S, []
    for _ in range(8):
        assert breaker.admits(now)
        breaker.failed(now)
        pause = next(step for step in range(1, 100) if breaker.state(now + step) is not State.OPEN)
        pauses.append(pause)
        now += pause
    assert pauses == [2, 4, 8, 16, 30, 30, 30, MOST_PAUSE_S]


def test_calls_from_before_that_fail_late_change_nothing() -> None:
    breaker = opened()
    for _ in range(10):
        assert not breaker.failed(0.5)
    assert breaker.state(FIRST_PAUSE_S) is State.HALF_OPEN
