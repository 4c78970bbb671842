"""Two ends of a channel: messages arrive in order, questions get their own answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest

from embedfleet.server.gateway.workers.channel import Answer, Channel, ChannelClosedError, Question
from embedfleet.vocabulary import ServiceError


class Note(msgspec.Struct, tag=True):
    number: int


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Channel[Note], Channel[Note]]]:
    one, other = socket.socketpair()
    channels: tuple[Channel[Note], Channel[Note]] = (
        await Channel.over(one, Note),
        await Channel.over(other, Note),
    )
    yield channels
    for each in channels:
        each.close()


async def echo(channel: Channel[Note]) -> None:
    """Answer each question with its argument, the last one first; refuse what is `bad`."""
    waiting: list[Question] = []
    async for message in channel.messages():
        assert isinstance(message, Question)
        waiting.append(message)
        if len(waiting) == 3:
            for each in reversed(waiting):
                error = "it is bad" if each.argument == "bad" else ""
                channel.send(Answer(each.id, each.argument, error))
            waiting.clear()


async def test_messages_arrive_in_the_order_in_which_they_were_sent(
    ends: tuple[Channel[Note], Channel[Note]],
) -> None:
    here, there = ends
    for number in range(1000):
        here.send(Note(number))
    here.close()

    assert [message async for message in there.messages()] == [Note(n) for n in range(1000)]


async def test_each_question_gets_its_own_answer_in_whatever_order_they_come(
    ends: tuple[Channel[Note], Channel[Note]],
) -> None:
    here, there = ends
    tasks = [asyncio.create_task(echo(there)), asyncio.create_task(anext(here.messages(), None))]
    answers = await asyncio.gather(
        *(here.ask("what", argument) for argument in (1, "bad", [3])), return_exceptions=True
    )

    assert answers[0] == 1
    assert isinstance(answers[1], ServiceError)
    assert answers[1].message == "it is bad"
    assert answers[2] == [3]
    for task in tasks:
        task.cancel()


async def test_a_question_to_a_process_that_ended_fails_at_once(
    ends: tuple[Channel[Note], Channel[Note]],
) -> None:
    here, there = ends
    reading = asyncio.create_task(anext(here.messages(), None))
    asking = asyncio.create_task(here.ask("what"))
    await asyncio.sleep(0)
    there.close()

    with pytest.raises(ChannelClosedError, match="ended"):
        await asking
    assert await reading is None
