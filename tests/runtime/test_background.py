"""Loops of a process, and what becomes of the process when one ends."""

from __future__ import annotations

import asyncio

import pytest

from embedfleet.runtime.background import Background, BoundedTasks, all_ended


async def for_ever() -> None:
    await asyncio.Event().wait()


async def with_a_bug() -> None:
    await asyncio.sleep(0)
    raise ZeroDivisionError("a bug")


async def at_an_end() -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize("loop", [with_a_bug, at_an_end])
async def test_a_loop_that_ends_by_itself_is_logged_once_and_fails_the_process(
    loop: object, caplog: pytest.LogCaptureFixture
) -> None:
    """By an exception or without one; the others go on until the process has drained."""
    background = Background()
    other = background.start(for_ever(), "another loop")
    background.start(loop(), "the loop")  # type: ignore[operator]
    async with asyncio.timeout(60):
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


async def test_no_more_tasks_than_may_run_at_once_and_the_bound_may_change() -> None:
    most, running, seen = 3, set[int](), list[int]()

    async def work(number: int) -> None:
        nonlocal most
        running.add(number)
        seen.append(len(running))
        await asyncio.sleep(0)
        running.remove(number)
        most = 2

    async with BoundedTasks(lambda: most) as tasks:
        for number in range(20):
            await tasks.start(work(number))
    assert len(seen) == 20
    assert max(seen) <= 3
    assert max(seen[4:]) <= 2
    assert not running


@pytest.mark.parametrize("last", [False, True], ids=["while others start", "at the end"])
async def test_what_a_task_raises_is_raised_after_the_others_were_cancelled(*, last: bool) -> None:
    cancelled = []

    async def waiting() -> None:
        try:
            await for_ever()
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    async def run() -> None:
        async with BoundedTasks(lambda: 9 if last else 3) as tasks:
            await tasks.start(waiting())
            await tasks.start(waiting())
            await tasks.start(with_a_bug())
            assert last

    with pytest.raises(ZeroDivisionError):
        await run()
    assert len(cancelled) == 2


async def test_an_error_of_the_block_itself_cancels_them() -> None:
    async def run() -> None:
        async with asyncio.timeout(60), BoundedTasks(lambda: 3) as tasks:
            await tasks.start(for_ever())
            await with_a_bug()

    with pytest.raises(ZeroDivisionError):
        await run()


async def test_futures_are_waited_for_through_any_number_of_cancellations() -> None:
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(3)]
    waiting = asyncio.create_task(all_ended(futures))
    for future in futures:
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        assert not waiting.done()
        future.set_result(None)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await all_ended([])
    failed = loop.create_future()
    failed.set_exception(ValueError())
    await all_ended([failed])
    assert isinstance(failed.exception(), ValueError)
