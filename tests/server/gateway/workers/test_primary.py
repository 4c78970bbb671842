"""What the primary does with workers that do not come."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from collections.abc import Iterator

import pytest

from embedfleet.runtime.settings import Settings
from embedfleet.server.gateway.workers.primary import Workers


@pytest.fixture
def gone() -> Iterator[socket.socket]:
    """A socket whose descriptor no process can be given: closed, and too high to be the next."""
    with socket.socket() as low:
        made = socket.socket(fileno=fcntl.fcntl(low, fcntl.F_DUPFD, 500))
    os.close(made.fileno())
    yield made
    made.detach()


async def test_a_worker_that_can_not_be_started_is_tried_again(
    gone: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """For want of memory or descriptors, which passes: the others serve on meanwhile."""
    workers = Workers(Settings(), None, [[gone]])
    running = asyncio.create_task(workers.run())
    async with asyncio.timeout(60):
        while caplog.text.count("it could not be started: Bad file descriptor") < 2:
            await asyncio.sleep(0.01)
    assert not running.done()

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
