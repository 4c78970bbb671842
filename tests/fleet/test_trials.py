"""Questions to a replica that may be silent."""

from __future__ import annotations

import asyncio

import pytest

from embedfleet.fleet.backoff import Backoff
from embedfleet.fleet.trials import repeated
from embedfleet.vocabulary import ReplicaError


async def test_what_a_trial_asked_is_cancelled_with_it() -> None:
    """Also what it asked again."""
    asked: list[int] = []
    left: list[int] = []
    again = asyncio.Event()

    async def ask() -> str:
        number = len(asked)
        asked.append(number)
        if number == 2:
            again.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.append(number)
        return ""

    trial = asyncio.create_task(repeated(ask, Backoff(0.01, 0.01)))
    await asyncio.wait_for(again.wait(), 60)
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    assert sorted(left) == asked
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_first_that_ends_decides() -> None:
    """Also if it is an error, and whichever was asked first."""
    asked = 0

    async def ask() -> str:
        nonlocal asked
        asked += 1
        if asked == 1:
            await asyncio.Event().wait()
        raise ReplicaError("wrong")

    with pytest.raises(ReplicaError, match="wrong"):
        await repeated(ask, Backoff(0.01, 0.01))
    assert asked == 2
