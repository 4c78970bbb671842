"""Questions to a replica that may be silent."""

from __future__ import annotations

import asyncio

import pytest

from embedfleet.fleet.backoff import Backoff
from embedfleet.fleet.trials import repeated
from embedfleet.vocabulary import ReplicaError


async def test_what_a_trial_asked_is_cancelled_with_it() -> None:
    """Also what it asked again."""
    left: list[int] = []

    async def ask() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            left.append(1)
        return ""

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await repeated(ask, Backoff(0.01, 0.01))
    assert len(left) > 1
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
