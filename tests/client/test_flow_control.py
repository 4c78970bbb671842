from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from embedfleet.client.flow_control import (
    ConcurrencyLimit,
    RequestSizer,
    asked_wait_s,
    backoff_s,
    is_repeated,
)


@given(
    st.lists(st.integers(0, 10_000), min_size=1, max_size=50),
    st.integers(1, 5_000),
    st.integers(1, 20),
)
def test_requests_hold_what_fits_and_at_least_one_text(
    sizes: list[int], tokens: int, texts: int
) -> None:
    cutter = RequestSizer(tokens, texts)
    count = cutter.fitting(sizes)
    assert 1 <= count <= min(texts, len(sizes)) or count == 1
    held = sum(cutter.tokens(size) for size in sizes[:count])
    assert count == 1 or held <= tokens
    if count < len(sizes) and count < texts:
        assert held + cutter.tokens(sizes[count]) > tokens


def test_the_service_s_own_count_of_tokens_takes_the_place_of_the_guess() -> None:
    cutter = RequestSizer(1000, 100)
    cutter.learn(1000, 900)
    assert cutter.tokens(100) == 91.0


def test_a_request_that_was_too_large_makes_later_ones_smaller() -> None:
    cutter = RequestSizer(1000, 64)
    cutter.smaller(48)
    assert cutter.most_texts == 24
    cutter.smaller(1)
    assert cutter.most_texts == 1


def test_requests_in_flight_double_until_one_is_refused_and_grow_slowly_afterwards() -> None:
    pace = ConcurrencyLimit(most=64)
    for _ in range(4):
        pace.answered()
    assert pace.limit == 8
    pace.refused(sent_at=1.0, now=2.0, wait_s=None)
    assert pace.limit == 4
    for _ in range(4):
        pace.answered()
    assert 4.8 < pace.limit < 5.0


def test_refusals_of_one_round_count_once() -> None:
    pace = ConcurrencyLimit(most=64, limit=32.0)
    pace.refused(sent_at=1.0, now=2.0, wait_s=None)
    pace.refused(sent_at=1.5, now=2.1, wait_s=None)
    assert pace.limit == 16
    pace.refused(sent_at=2.2, now=2.3, wait_s=None)
    assert pace.limit == 8


def test_retry_after_of_the_service_is_honoured_and_bounded() -> None:
    pace = ConcurrencyLimit(most=4)
    pace.refused(1.0, 2.0, wait_s=7.0)
    assert pace.not_before == 9.0
    pace.refused(1.0, 2.0, wait_s=1e9)
    assert pace.not_before == 122.0


def test_waits_are_read_in_milliseconds_seconds_and_dates() -> None:
    now = 784_111_777.0
    assert asked_wait_s({"retry-after-ms": "250", "retry-after": "9"}, now) == 0.25
    assert asked_wait_s({"retry-after": "3"}, now) == 3.0
    assert asked_wait_s({"retry-after": "Sun, 06 Nov 1994 08:49:47 GMT"}, now) == 10.0
    assert asked_wait_s({"retry-after": "soon"}, now) is None
    assert asked_wait_s({"retry-after": "-3"}, now) is None
    assert asked_wait_s({}, now) is None


def test_the_service_decides_whether_a_request_is_retried() -> None:
    assert is_repeated(503, {})
    assert not is_repeated(400, {})
    assert not is_repeated(429, {"x-should-retry": "false"})
    assert is_repeated(400, {"x-should-retry": "true"})


@given(st.integers(0, 10_000), st.integers(0, 2**32))
def test_pauses_grow_and_are_bounded(attempt: int, seed: int) -> None:
    assert 0.25 <= backoff_s(attempt, Random(seed)) <= 8.0
