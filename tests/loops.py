"""Components that work in the background, run while a test uses them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from embedfleet.runtime.background import Background


@contextlib.asynccontextmanager
async def running(*loops: Coroutine[Any, Any, Any]) -> AsyncIterator[Background]:
    """Run loops while the block runs; none of them may end before."""
    background = Background()
    for loop in loops:
        background.start(loop, getattr(loop, "__qualname__", "a loop"))
    try:
        yield background
    finally:
        await background.close()
    assert not background.failed.is_set()


async def settle(seconds: float = 0.02) -> None:
    """Let so much time pass, and then everything happen that waits for nothing but its turn.

    After a pause alone a busy machine may owe this loop more than one round of what was due in it.
    """
    await asyncio.sleep(seconds)
    for _ in range(100):
        await asyncio.sleep(0)
