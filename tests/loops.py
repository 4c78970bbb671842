"""Components that work in the background, run while a test uses them."""

from __future__ import annotations

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
