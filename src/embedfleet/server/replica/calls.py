"""Calls in progress at a replica: the unanswered texts of a wire call or an OpenAI request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from embedfleet.scheduling.batching.jobs import BatchResult, Job
from embedfleet.scheduling.texts import Caller, Text

if TYPE_CHECKING:
    from embedfleet.server.replica.service import Replica


class CallInProgress:
    """The texts of one call that are still to be answered."""

    def __init__(self, count: int) -> None:
        self.jobs: dict[int, Job] = {}
        self.remaining = count
        self._parts: asyncio.Queue[BatchResult | None] = asyncio.Queue()

    def deliver(self, part: BatchResult) -> None:
        self.remaining -= len(part.jobs) + len(part.failures)
        self._parts.put_nowait(part)

    def forget(self, count: int) -> None:
        """Expect `count` texts fewer: they were cancelled."""
        self.remaining -= count
        self._parts.put_nowait(None)

    async def next_part(self) -> BatchResult | None:
        """The next part; None when texts were cancelled meanwhile."""
        return await self._parts.get()

    @property
    def finished(self) -> bool:
        return self.remaining <= 0 and self._parts.empty()


class BatcherBackend:
    """Vectors for the OpenAI endpoint, straight from the batcher."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def admit(self, texts: int, tokens: int, caller: Caller) -> None:
        """The replica looks at texts when they are submitted."""

    def submit(self, texts: Sequence[Text], caller: Caller) -> None:
        """As the replica does, with its errors."""

        def deliver(part: BatchResult) -> None:
            for job, vector in zip(part.jobs, part.vectors, strict=True):
                texts[job.id].arrived(vector.copy(), part.queue_s, part.compute_s, "")
            for job, error in part.failures:
                texts[job.id].failed(error)

        now = time.monotonic()
        jobs = [
            Job(number, text.encoding, caller.lane, caller.deadline, now, deliver)
            for number, text in enumerate(texts)
        ]
        for text, job in zip(texts, jobs, strict=True):
            text.ticket = job
        self._replica.submit(jobs)

    def join(self, text: Text, caller: Caller) -> bool:  # noqa: ARG002
        """Nothing is shared here: there is no cache."""
        return False

    def withdraw(self, texts: Sequence[Text]) -> None:
        self._replica.batcher.cancel([text.ticket for text in texts])
