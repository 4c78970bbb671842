"""Room for answers is given first come first served, and always given back."""

from __future__ import annotations

import asyncio

import pytest

from embedfleet.api import answer_memory as answers
from embedfleet.api.answer_memory import AnswerRoom, AnswersFullError, HeldAnswer


async def test_a_single_answer_is_always_let_in() -> None:
    room = AnswerRoom(10)
    await room.take(1000)
    assert room.held_bytes == 1000


async def test_an_answer_waits_until_others_are_taken() -> None:
    room = AnswerRoom(10)
    first, second = HeldAnswer(room), HeldAnswer(room)
    await first.take(8)
    waiting = asyncio.create_task(second.take(8))
    await asyncio.sleep(0)
    assert not waiting.done()
    first.give()
    first.give()
    await waiting
    assert room.held_bytes == 8
    second.give()
    assert room.held_bytes == 0


async def test_an_answer_that_waits_too_long_is_refused_with_retry_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "MOST_WAIT_S", 0.01)
    room = AnswerRoom(10)
    await room.take(8)
    with pytest.raises(AnswersFullError, match=r"gateway\.max_answer_bytes") as refused:
        await room.take(8)
    assert (refused.value.status, refused.value.retry_after_s) == (503, 1)
    assert room.held_bytes == 8


async def test_a_small_answer_does_not_pass_a_large_one_that_waits() -> None:
    room = AnswerRoom(10)
    await room.take(8)
    large = asyncio.create_task(room.take(9))
    await asyncio.sleep(0)
    small = asyncio.create_task(room.take(1))
    await asyncio.sleep(0)
    room.give(8)
    await asyncio.gather(large, small)
    assert room.held_bytes == 10


async def test_a_cancelled_waiter_holds_nothing_and_the_next_is_admitted() -> None:
    room = AnswerRoom(10)
    await room.take(8)
    large, small = asyncio.create_task(room.take(9)), asyncio.create_task(room.take(2))
    await asyncio.sleep(0)
    large.cancel()
    await small
    assert room.held_bytes == 10
    late = asyncio.create_task(room.take(5))
    await asyncio.sleep(0)
    room.give(10)
    late.cancel()  # it was let in, and has not heard of it
    await asyncio.gather(late, return_exceptions=True)
    assert room.held_bytes == 0
