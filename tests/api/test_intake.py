"""The room for bodies: bounded for all requests, shared between callers."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.api.formats.openai import RequestLimits
from embedfleet.api.intake import Holding, Intake
from embedfleet.vocabulary import OverloadedError

MOST = 1000


def room(most: int = MOST) -> Intake:
    return Intake(dict, limits=RequestLimits(), max_body_bytes=100, max_held_bytes=most)


def held_by(intake: Intake, caller: str) -> Holding:
    held = Holding(intake)
    held.caller = caller
    return held


def test_bodies_beyond_the_room_for_them_are_refused_until_others_are_gone() -> None:
    intake = room(100)
    first, second = held_by(intake, "a"), held_by(intake, "b")
    first.take(90)
    second.take(5)
    with pytest.raises(OverloadedError, match="95 bytes of requests are being worked on"):
        second.take(6)
    first.release()
    second.take(500)
    second.take(500)  # a single one is always let in
    second.release()
    first.take(1000)


def test_one_caller_with_many_requests_leaves_a_quarter_for_others() -> None:
    intake = room()
    for _ in range(75):
        held_by(intake, "hog").take(10)
    with pytest.raises(OverloadedError, match="750 bytes of this caller's requests are being"):
        held_by(intake, "hog").take(10)
    held_by(intake, "another").take(200)


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 300), st.booleans()), max_size=200)
)
def test_whatever_others_do_a_caller_who_holds_nothing_is_let_in_where_there_is_room(
    orders: list[tuple[str, int, bool]],
) -> None:
    intake = room()
    open_ones: list[tuple[Holding, int]] = []
    held: Counter[str] = Counter()
    for caller, size, ends in orders:
        if ends and open_ones:
            ended, its = open_ones.pop(0)
            ended.release()
            held[ended.caller] -= its
        one, free = held_by(intake, caller), MOST - held.total()
        try:
            one.take(size)
        except OverloadedError:
            assert held[caller] or size > free
            continue
        if held.total():
            assert size <= free
        held[caller] += size
        open_ones.append((one, size))
    for one, _ in open_ones:
        one.release()
    held_by(intake, "a").take(MOST)


@given(st.integers(1, 8), st.integers(1, 5))
def test_any_number_of_greedy_callers_have_as_much_as_each_other_and_leave_room(
    callers: int, size: int
) -> None:
    intake = room()
    held: Counter[int] = Counter()
    progress = True
    while progress:
        progress = False
        for caller in range(callers):
            try:
                held_by(intake, f"{caller}").take(size)
            except OverloadedError:
                continue
            held[caller] += size
            progress = True
    assert max(held.values()) - min(held.values()) <= 4 * size
    assert MOST - held.total() >= min(held.values()) / 3 - size
