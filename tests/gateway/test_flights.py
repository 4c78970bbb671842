"""The calls in flight: which of them nobody needs any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from embedfleet.fleet.balancing import Load
from embedfleet.fleet.fleet import Fleet
from embedfleet.gateway.dispatch import Assignment
from embedfleet.gateway.flights import FORSAKEN_S, Flight, Flights
from embedfleet.gateway.queue import QueuedText
from embedfleet.vocabulary import Lane
from tests.gateway.test_dispatch import Answers


def queued(*, closed: bool) -> QueuedText:
    text = QueuedText(np.zeros(3, np.int32), Lane.INTERACTIVE, 1e9, 0.0, Answers(), 0)
    text.closed = closed
    return text


@pytest.fixture
async def call() -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(asyncio.sleep(3600))
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def flying(call: asyncio.Task[None], **texts: bool) -> tuple[Flights, Flight]:
    """A call that began at 0 s, with a text that it still has and one taken back from it."""
    flights, member = Flights(), Fleet().add("a", "http://a", 0.0)
    assignment = Assignment(
        Load("a", 100, 50),
        {0: queued(closed=texts["had"])},
        0.0,
        given_up={1: queued(closed=texts["given_up"])},
    )
    flight = Flight(member, assignment, 0.0)
    flights.start(call, flight)
    return flights, flight


async def test_a_call_that_nobody_waits_for_and_that_brings_nothing_is_forsaken(
    call: asyncio.Task[None],
) -> None:
    """After a time in which a slow replica would have brought something."""
    flights, flight = flying(call, had=True, given_up=True)
    assert flights.forsaken(FORSAKEN_S - 1) == []
    assert flights.forsaken(FORSAKEN_S) == [call]

    flight.progressed = 30.0
    assert flights.forsaken(FORSAKEN_S) == []


@pytest.mark.parametrize(("had", "given_up"), [(False, True), (True, False)])
async def test_a_call_that_somebody_waits_for_is_not_forsaken(
    call: asyncio.Task[None], *, had: bool, given_up: bool
) -> None:
    """However long it takes: deadlines and health are watched elsewhere."""
    flights, _ = flying(call, had=had, given_up=given_up)
    assert flights.forsaken(1e6) == []
