"""Background tasks of a process: supervised loops whose end is fatal, and bounded task groups.

A background component has a coroutine `run()` that returns only when cancelled. It handles expected
failures (the network, files, a misbehaving replica) itself. Any other exit is a bug and ends the
process: its supervisor restarts the process, whereas nothing would restart the loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Self

log = logging.getLogger(__name__)


class Background:
    """Loops that were started together and are cancelled together."""

    def __init__(self) -> None:
        self.failed = asyncio.Event()
        """Set when a loop ended without having been cancelled: the process is to end."""
        self._loops: set[asyncio.Task[Any]] = set()

    def start(self, loop: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run a loop until `close`, or until its task is cancelled; `name` is for the log."""
        task = asyncio.create_task(loop, name=name)
        self._loops.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Cancel the loops and wait for their ends."""
        await cancelled(*self._loops)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._loops.discard(task)
        if not task.cancelled():
            log.critical("%s ended unexpectedly", task.get_name(), exc_info=task.exception())
            self.failed.set()


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until all have ended, however they do."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def all_ended(futures: Collection[asyncio.Future[Any]]) -> None:
    """Wait until all have ended, however they do, and also if this task is cancelled meanwhile: the
    cancellation is raised afterwards. Errors of those without a waiter are dropped.
    """
    cancellation: asyncio.CancelledError | None = None
    while left := [each for each in futures if not each.done()]:
        try:
            await asyncio.wait(left)
        except asyncio.CancelledError as error:
            cancellation = error
    for each in futures:
        if not each.cancelled():
            each.exception()  # asyncio logs those that were never retrieved
    if cancellation is not None:
        raise cancellation


class BoundedTasks:
    """Tasks of which a bounded number runs at once. What one of them raises is raised by `start` or
    at the end of the block, after the others were cancelled.
    """

    def __init__(self, most: Callable[[], int]) -> None:
        """`most` run at once; it is asked again whenever one has ended."""
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            while error is None and self._tasks:
                await self._some()
        finally:
            await cancelled(*self._tasks)

    async def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin, then wait until there is room for another."""
        self._tasks.add(asyncio.create_task(work))
        while len(self._tasks) >= self._most():
            await self._some()

    async def _some(self) -> None:
        """Wait until some have ended."""
        done, left = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        self._tasks = left
