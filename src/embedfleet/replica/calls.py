"""What a replica still owes: the texts of one call, or of one OpenAI request.

Decides when all of them are answered. Refuses to know HTTP and how batches are formed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from embedfleet.batching.jobs import Job, Part
from embedfleet.cache.single_flight import Arrived
from embedfleet.endpoint import Caller, Computed
from embedfleet.vocabulary import Encoding, Vectors

if TYPE_CHECKING:
    from embedfleet.replica.service import Replica


class CallInProgress:
    """The texts of one call that are still to be answered."""

    def __init__(self, count: int) -> None:
        self.jobs: dict[int, Job] = {}
        self.remaining = count
        self._parts: asyncio.Queue[Part | None] = asyncio.Queue()

    def deliver(self, part: Part) -> None:
        self.remaining -= len(part.jobs) + len(part.failures)
        self._parts.put_nowait(part)

    def forget(self, count: int) -> None:
        """Expect `count` texts fewer: they were cancelled."""
        self.remaining -= count
        self._parts.put_nowait(None)

    async def next_part(self) -> Part | None:
        """The next part; None when texts were cancelled meanwhile."""
        return await self._parts.get()

    @property
    def finished(self) -> bool:
        return self.remaining <= 0 and self._parts.empty()


class BatcherBackend:
    """Vectors for the OpenAI endpoint, straight from the batcher."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def compute(
        self, encodings: Sequence[Encoding], caller: Caller, arrived: Arrived | None = None
    ) -> Computed:
        replica = self._replica
        vectors: Vectors = np.empty((len(encodings), replica.identity.width), np.float32)
        finished: asyncio.Future[Computed] = asyncio.get_running_loop().create_future()
        missing = len(encodings)
        queue_s = compute_s = 0.0

        def deliver(part: Part) -> None:
            nonlocal missing, queue_s, compute_s
            if arrived is not None:
                for job, vector in zip(part.jobs, part.vectors, strict=True):
                    arrived(job.id, vector, part.queue_s, part.compute_s)
            if finished.done():
                return
            for _, error in part.failures:
                finished.set_exception(error)
                return
            vectors[[job.id for job in part.jobs]] = part.vectors
            queue_s, compute_s = max(queue_s, part.queue_s), max(compute_s, part.compute_s)
            missing -= len(part.jobs)
            if not missing:
                finished.set_result(Computed(vectors, queue_s, compute_s))

        now = time.monotonic()
        jobs = [
            Job(number, encoding, caller.lane, caller.deadline, now, deliver)
            for number, encoding in enumerate(encodings)
        ]
        replica.submit(jobs)
        try:
            return await finished
        finally:
            replica.batcher.cancel(jobs)
