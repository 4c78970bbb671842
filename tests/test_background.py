"""Loops of a process, and what becomes of the process when one ends."""

from __future__ import annotations

import asyncio

import pytest

from embedfleet.background import Background


async def for_ever() -> None:
    await asyncio.Event().wait()


async def with_a_bug() -> None:
    await asyncio.sleep(0)
    raise ZeroDivisionError("a bug")


async def at_an_end() -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize("loop", [with_a_bug, at_an_end])
async def test_a_loop_that_ends_by_itself_is_told_once_and_fails_the_process(
    loop: object, caplog: pytest.LogCaptureFixture
) -> None:
    """By an exception or without one; the others go on until the process has drained."""
    background = Background()
    other = background.start(for_ever(), "another loop")
    background.start(loop(), "the loop")  # type: ignore[operator]
    async with asyncio.timeout(30):
        await background.failed.wait()

    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("CRITICAL", "the loop ended unexpectedly")
    ]
    assert not other.done()
    await background.close()


async def test_what_is_cancelled_has_not_failed() -> None:
    background = Background()
    first, second = (background.start(for_ever(), name) for name in ("a", "b"))
    first.cancel()
    await asyncio.sleep(0)
    await background.close()

    assert second.cancelled()
    assert not background.failed.is_set()
