"""When a worker counts as hung."""

from __future__ import annotations

import asyncio

import pytest

from embedfleet.server.gateway.workers.primary import MOST_MISSED, until_silent


@pytest.mark.parametrize("spoken", [0, 1, 5])
async def test_it_is_silent_for_some_looks_in_a_row(spoken: int) -> None:
    """Not in all: a process may be held up for a while."""
    looks = 0

    class Heard(asyncio.Event):
        def clear(self) -> None:
            nonlocal looks
            super().clear()
            looks += 1
            if looks % (MOST_MISSED - 1) == 0 and looks <= spoken * (MOST_MISSED - 1):
                self.set()

    async with asyncio.timeout(60):
        await until_silent(Heard(), every_s=0)
    assert looks == spoken * (MOST_MISSED - 1) + MOST_MISSED
