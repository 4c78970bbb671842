"""Work ends when nobody waits for it any more."""

import asyncio
from typing import Any

import pytest

from embedfleet.transport.asgi import ClientGoneError, Request
from embedfleet.transport.cancel_scope import CancelScope
from embedfleet.vocabulary import DeadlineError
from tests.loops import settle


def asking(leaves_after_s: float) -> Request:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(leaves_after_s)
        return {"type": "http.disconnect"}

    async def send(_message: Any) -> None: ...

    return Request({"type": "http"}, receive, send)


async def work(seconds: float, ends: list[str]) -> str:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        ends.append("cancelled")
        raise
    return "done"


async def test_work_that_is_quick_is_done() -> None:
    """Nothing else happens."""
    with CancelScope(asking(9), left_s=9):
        assert await work(0.0, []) == "done"


async def test_slow_work_is_done_while_the_caller_waits() -> None:
    """Watched, and left in peace."""
    with CancelScope(asking(9), left_s=9):
        assert await work(0.1, []) == "done"


async def test_work_ends_when_the_caller_leaves() -> None:
    """Its own clean-up runs first."""
    ends: list[str] = []
    with pytest.raises(ClientGoneError), CancelScope(asking(0.05), left_s=9):
        await work(9, ends)

    assert ends == ["cancelled"]


@pytest.mark.parametrize("left_s", [-1.0, 0.001, 0.1])
async def test_work_ends_at_its_deadline(left_s: float) -> None:
    """Be it near, far, or past."""
    ends: list[str] = []
    with pytest.raises(DeadlineError), CancelScope(asking(9), left_s):
        await work(9, ends)

    assert ends == ["cancelled"]


async def test_a_caller_who_leaves_as_the_work_ends_cancels_nothing_that_comes_after_it() -> None:
    """Python 3.11's wait_for forgets a cancellation in that moment."""
    left = asyncio.get_running_loop().create_future()

    async def receive() -> dict[str, Any]:
        await left
        return {"type": "http.disconnect"}

    async def send(_message: Any) -> None: ...

    with CancelScope(Request({"type": "http"}, receive, send), left_s=9):
        await asyncio.sleep(0.25)  # it is watched
        left.set_result(None)
    await settle(0.05)


async def test_an_error_of_the_work_comes_out_as_it_is() -> None:
    """Attendance adds nothing to it."""
    with pytest.raises(ZeroDivisionError), CancelScope(asking(9), left_s=9):
        _ = 1 / 0


async def test_cancelling_from_outside_is_no_deadline() -> None:
    """Whoever cancels a task gets a cancelled one."""

    async def attended() -> None:
        with CancelScope(asking(9), left_s=9):
            await work(9, [])

    task = asyncio.create_task(attended())
    await settle(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
