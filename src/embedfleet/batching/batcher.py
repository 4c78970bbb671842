"""The loop beside an engine: takes what waits whenever the engine is free.

Decides when a batch is formed; which texts it takes is decided in `packing`. There is no timer: a
free engine starts at once. A batch is prepared ahead only when a full one waits already, for then
nothing is lost by fixing its texts early. Refuses to know HTTP and where texts come from.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np

from embedfleet.batching.packing import pack
from embedfleet.engine.engine import Computation, Engine
from embedfleet.engine.pooling import finite_rows
from embedfleet.urgency import urgency
from embedfleet.vocabulary import (
    DeadlineError,
    EmbedfleetError,
    Encoding,
    Lane,
    ReplicaError,
    VectorError,
    Vectors,
)
from embedfleet.work import CostFit

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Job:
    """One text waiting for its vector."""

    id: int
    encoding: Encoding
    lane: Lane
    deadline: float | None
    """On the monotonic clock, seconds."""
    arrived: float
    deliver: Deliver
    """Called once, on the event loop, with every part of the batch that is of the same call."""
    alone: bool = False
    """Whether it must not share a batch, because it may be what kills engines."""
    tokens: int = field(init=False)
    urgency: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = len(self.encoding)
        self.urgency = urgency(self.arrived, self.tokens, self.deadline)


@dataclass(frozen=True, slots=True)
class Part:
    """What a batch gave to the jobs that share one `deliver`."""

    jobs: Sequence[Job]
    """Those that have a vector, in row order."""
    vectors: Vectors
    """[len(jobs), width]"""
    failures: Sequence[tuple[Job, EmbedfleetError]]
    queue_s: float
    """Longest wait among these jobs."""
    compute_s: float


Deliver = Callable[[Part], None]


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What was measured of one batch."""

    texts: int
    tokens: int
    prepare_s: float
    compute_s: float
    queue_s: Sequence[float]


class Batcher:
    """Feeds one engine."""

    def __init__(
        self,
        engine: Engine,
        *,
        budget_tokens: int | None = None,
        report: Callable[[BatchReport], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._budget = budget_tokens or engine.info.batch_tokens
        self._report = report
        self._waiting: dict[int, Job] = {}
        self._waiting_tokens = 0
        self._running = 0
        self._arrived = asyncio.Event()
        self._free = asyncio.Event()
        self._free.set()
        self._preparer = ThreadPoolExecutor(1, "prepare")
        self._computer = ThreadPoolExecutor(1, "compute")
        self.cost = CostFit()

    def __repr__(self) -> str:
        return (
            f"<Batcher [Texts: {len(self._waiting)} waiting, {self._running} running | "
            f"Tokens: {self._waiting_tokens} waiting]>"
        )

    @property
    def budget_tokens(self) -> int:
        return self._budget

    @property
    def waiting_texts(self) -> int:
        return len(self._waiting)

    @property
    def waiting_tokens(self) -> int:
        return self._waiting_tokens

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue texts; each is answered once through its `deliver`, unless cancelled before."""
        for job in jobs:
            self._waiting[id(job)] = job
            self._waiting_tokens += job.tokens
        self._arrived.set()

    def cancel(self, jobs: Sequence[Job]) -> int:
        """Forget those that still wait; return how many. Texts of a started batch go on."""
        cancelled = 0
        for job in jobs:
            if self._waiting.pop(id(job), None) is not None:
                self._waiting_tokens -= job.tokens
                cancelled += 1
        return cancelled

    async def run(self) -> None:
        """Until cancelled: form, prepare and compute batches; close the engine's threads after."""
        try:
            while True:
                await self._room_for_next()
                batch = self._take()
                if not batch:
                    continue
                started = time.monotonic()
                try:
                    computation = await _in_thread(
                        self._preparer,
                        partial(self._engine.prepare, [job.encoding for job in batch]),
                    )
                except Exception as error:  # noqa: BLE001  whatever an engine raises fails its batch
                    self._fail(batch, error)
                    continue
                prepared = time.monotonic()
                await self._free.wait()
                self._free.clear()
                task = asyncio.create_task(self._compute(batch, computation, started, prepared))
                task.add_done_callback(lambda _: self._free.set())
        finally:
            self._preparer.shutdown(wait=False, cancel_futures=True)
            self._computer.shutdown(wait=False, cancel_futures=True)

    async def _room_for_next(self) -> None:
        """Return when a batch should be formed: texts wait, and the engine is free or a full
        batch is there to be prepared while it computes.
        """
        while True:
            self._arrived.clear()
            if not self._waiting:
                await self._arrived.wait()
            elif self._free.is_set() or self._waiting_tokens >= self._budget:
                return
            else:
                waits = [
                    asyncio.ensure_future(self._free.wait()),
                    asyncio.ensure_future(self._arrived.wait()),
                ]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()

    def _take(self) -> list[Job]:
        """The next batch, without those whose deadline has passed."""
        now = time.monotonic()
        late = [job for job in self._waiting.values() if job.deadline and job.deadline <= now]
        if late:
            self.cancel(late)
            self._answer(late, None, [(job, _too_late()) for job in late], now, 0.0)
        batch = pack(self._waiting.values(), self._budget)
        self.cancel(batch)
        self._running += len(batch)
        return batch

    async def _compute(
        self, batch: list[Job], computation: Computation, started: float, prepared: float
    ) -> None:
        begun = time.monotonic()
        try:
            vectors = await _in_thread(self._computer, computation)
            self._check_shape(batch, vectors)
        except Exception as error:  # noqa: BLE001  whatever an engine raises fails its batch
            self._fail(batch, error)
            return
        seconds = time.monotonic() - begun
        lengths = [job.tokens for job in batch]
        self.cost.learn(lengths, seconds)
        self._report(
            BatchReport(
                texts=len(batch),
                tokens=sum(lengths),
                prepare_s=prepared - started,
                compute_s=seconds,
                queue_s=[started - job.arrived for job in batch],
            )
        )
        self._running -= len(batch)
        good = finite_rows(vectors)
        failures = [
            (job, _no_vector(job)) for job, fine in zip(batch, good, strict=True) if not fine
        ]
        if failures:
            vectors = vectors[good]
            batch = [job for job, fine in zip(batch, good, strict=True) if fine]
        self._answer(batch, vectors, failures, started, seconds)

    def _check_shape(self, batch: list[Job], vectors: Vectors) -> None:
        expected = (len(batch), self._engine.info.width)
        if vectors.shape != expected or vectors.dtype != np.float32:
            raise ReplicaError(
                f"the engine returned {vectors.shape} {vectors.dtype} for {expected} float32. "
                "This is a bug."
            )

    def _fail(self, batch: list[Job], error: Exception) -> None:
        log.error("a batch of %d texts failed", len(batch), exc_info=error)
        self._running -= len(batch)
        known = (
            error
            if isinstance(error, EmbedfleetError)
            else ReplicaError(f"the engine failed: {type(error).__name__}")
        )
        self._answer([], None, [(job, known) for job in batch], time.monotonic(), 0.0)

    def _answer(
        self,
        batch: Sequence[Job],
        vectors: Vectors | None,
        failures: Sequence[tuple[Job, EmbedfleetError]],
        started: float,
        compute_s: float,
    ) -> None:
        """Give every call its part of the batch."""
        parts: dict[Deliver, tuple[list[int], list[tuple[Job, EmbedfleetError]]]] = {}
        if vectors is not None:
            for row, job in enumerate(batch):
                parts.setdefault(job.deliver, ([], []))[0].append(row)
        for job, error in failures:
            parts.setdefault(job.deliver, ([], []))[1].append((job, error))
        empty = np.empty((0, self._engine.info.width), np.float32)
        for deliver, (rows, failed) in parts.items():
            jobs = [batch[row] for row in rows]
            waited = [started - job.arrived for job in jobs]
            whole = vectors is not None and len(rows) == len(vectors)
            chosen = empty if vectors is None else vectors if whole else vectors[rows]
            deliver(Part(jobs, chosen, failed, max(waited, default=0.0), compute_s))


async def _in_thread(pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, function)


def _too_late() -> DeadlineError:
    return DeadlineError("the deadline passed before the text's batch started")


def _no_vector(job: Job) -> VectorError:
    return VectorError(
        f"the model gave no finite vector for a text of {job.tokens} tokens; "
        "a wider number format may help (f32 or bf16 instead of fp16)"
    )
