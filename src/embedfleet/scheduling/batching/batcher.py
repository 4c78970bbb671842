"""The batching loop of a replica: forms a batch as soon as the engine can take one.

`packing` decides when, and of which texts. The batcher prepares and computes batches in threads and
delivers each call's vectors as soon as their batch is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from embedfleet.engines.pooling import finite_rows
from embedfleet.engines.protocol import Computation, Engine
from embedfleet.scheduling.batching.batch_times import TICK_S, Ages, Running, Times
from embedfleet.scheduling.batching.jobs import (
    BatchReport,
    BatchResult,
    Deliver,
    Job,
    as_known,
    no_vector,
    too_late,
)
from embedfleet.scheduling.batching.packing import BatchQueue, Rhythm
from embedfleet.vocabulary import (
    EmbedfleetError,
    EngineHungError,
    EngineLostError,
    Lane,
    ReplicaError,
    Vectors,
)
from embedfleet.work import CostFit

T = TypeVar("T")

log = logging.getLogger(__name__)

POLLED_S = 0.01
"""For so long the event loop itself asks whether a batch is done."""
MIXED_S = 1.0
"""For so long after a text the next of its lane is expected."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch that only the device is missing to."""

    batch: list[Job]
    computation: Computation
    started: float
    """When it was formed, monotonic seconds."""
    prepare_s: float
    running: Running


class Batcher:
    """Feeds one engine."""

    def __init__(
        self,
        engine: Engine,
        *,
        budget_tokens: int | None = None,
        report: Callable[[BatchReport], None] = lambda _: None,
        failed: Callable[[int], None] = lambda _: None,
        hung_after_s: float = 30.0,
    ) -> None:
        """`report` is called with each computed batch, `failed` with the number of texts that
        got only an error of the engine, without a batch that could be measured. A batch that has
        not ended after `hung_after_s`, and ten times what was predicted, ends the batcher."""
        info = engine.info
        self._engine = engine
        self._report = report
        self._failed = failed
        self._waiting: BatchQueue[Job] = BatchQueue(
            Rhythm(
                budget_tokens or info.batch_tokens,
                info.in_flight,
                info.enough_tokens,
                info.long_beside,
            )
        )
        self._came = dict.fromkeys(Lane, float("-inf"))
        """When a text of each lane came last, monotonic seconds."""
        self._running = 0
        self._batches = 0
        self._long_running_tokens = 0
        self._broken: Exception | None = None
        """What ended this batcher, or will at its next turn."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._free = asyncio.Semaphore(info.in_flight)
        self._times = Times()
        self._preparer = ThreadPoolExecutor(1, "prepare")
        self._computer = ThreadPoolExecutor(info.in_flight + info.long_beside, "compute")
        self.cost = CostFit()
        self.ages = Ages(time.monotonic(), floor_s=hung_after_s)
        self._batch_of: dict[Running, list[Job]] = {}

    def __repr__(self) -> str:
        return (
            f"<Batcher [Texts: {len(self._waiting)} waiting, {self._running} running | "
            f"Tokens: {self._waiting.tokens} waiting]>"
        )

    @property
    def budget_tokens(self) -> int:
        return self._waiting.rhythm.budget_tokens

    @property
    def waiting_texts(self) -> int:
        return len(self._waiting)

    @property
    def waiting_tokens(self) -> int:
        return self._waiting.tokens

    @property
    def long_tokens(self) -> int:
        """Of texts that wait for computing beside the batches, or do."""
        return self._waiting.long_tokens + self._long_running_tokens

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue texts; each is answered once through its `deliver`, unless cancelled before.

        Raises ReplicaError once `run` has ended by an error.
        """
        if self._broken is not None:
            raise as_known(self._broken)
        self._waiting.add(jobs)
        for job in jobs:
            self._came[job.lane] = job.arrived
        self._changed.set()

    def cancel(self, jobs: Sequence[Job]) -> int:
        """Forget those that still wait; return how many. Texts of a started batch go on."""
        return self._waiting.remove(jobs)

    async def run(self) -> None:
        """Until cancelled: form, prepare and compute batches; close the engine's threads after.

        Raises EngineLostError when the engine is lost, EngineHungError when a batch does not end,
        and whatever else goes wrong outside of an engine. All that waits is answered with that
        error before.
        """
        watch = asyncio.create_task(self._watch())
        try:
            await self._run()
        except Exception as error:
            self._give_up(error)
            raise
        finally:
            watch.cancel()
            self._preparer.shutdown(wait=False, cancel_futures=True)
            self._computer.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        while self._broken is None:
            self._changed.clear()
            batch = self._take()
            if not batch:
                await self._changed.wait()
                continue
            prepared = await self._prepare(batch)
            if prepared is not None:
                task = asyncio.create_task(self._compute(prepared))
                self._tasks.add(task)
                task.add_done_callback(self._computed)
        raise self._broken

    async def _watch(self) -> None:
        """Notice a batch that does not end."""
        while (hung := self.ages.hung) is None:
            await asyncio.sleep(TICK_S)
            self.ages.advance(time.monotonic())
        self._break(
            EngineHungError(
                f"a batch of {len(self._batch_of[hung])} texts has not ended after "
                f"{self.ages.oldest_s or 0.0:.0f} s: the engine hangs"
            )
        )

    def _computed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._break(error)

    def _break(self, error: Exception) -> None:
        """Let `run` end with this error."""
        self._broken = self._broken or error
        self._changed.set()

    def _give_up(self, error: Exception) -> None:
        """Answer what waits; batches that compute end by themselves, unless they hang."""
        self._broken = error
        left = list(self._waiting)
        self._waiting.remove(left)
        if isinstance(error, EngineHungError):
            for running, batch in list(self._batch_of.items()):
                self._ended(running, batch)
                left += batch
        self._failed(len(left))
        known = as_known(error)
        self._answer([], None, [(job, known) for job in left], time.monotonic(), 0.0)

    def _take(self) -> list[Job]:
        """The next batch, without texts whose deadline has passed; none while none is to be."""
        if not self._waiting.ready(self._batches, long_runs=self._long_running_tokens > 0):
            return []
        now = time.monotonic()
        late = [job for job in self._waiting if job.deadline and job.deadline <= now]
        if late:
            self.cancel(late)
            self._answer(late, None, [(job, too_late()) for job in late], now, 0.0)
            self._changed.set()  # fewer wait now: whether a batch is to be formed is asked again
            return []
        mixed = min(self._came.values()) > now - MIXED_S
        budget = self._waiting.rhythm.budget(self.cost.model, mixed=mixed)
        batch = self._waiting.take(budget, long_runs=self._long_running_tokens > 0)
        self._count(batch, 1)
        return batch

    def _ended(self, running: Running, batch: list[Job]) -> bool:
        """A batch has ended; return whether it had not been given up before."""
        self.ages.end(running)
        if self._batch_of.pop(running, None) is None:
            return False
        self._count(batch, -1)
        return True

    def _count(self, batch: Sequence[Job], change: int) -> None:
        """A batch has come into being (1) or ended (-1)."""
        self._running += change * len(batch)
        if self._waiting.is_beside(batch[0]):
            self._long_running_tokens += change * batch[0].tokens
        else:
            self._batches += change
        if change < 0:
            self._changed.set()

    async def _prepare(self, batch: list[Job]) -> Prepared | None:
        started = time.monotonic()
        running = self.ages.begin(started, self.cost.bound([job.tokens for job in batch]))
        self._batch_of[running] = batch
        try:
            prepare = partial(self._engine.prepare, [job.encoding for job in batch])
            if sum(job.tokens for job in batch) <= self._engine.info.at_once_tokens:
                computation = prepare()
            else:
                computation = await _in_thread(self._preparer, prepare)
        except Exception as error:  # noqa: BLE001  any error of an engine fails its batch
            self._fail(running, batch, error)
            return None
        return Prepared(batch, computation, started, time.monotonic() - started, running)

    async def _compute(self, prepared: Prepared) -> None:
        batch, beside = prepared.batch, self._waiting.is_beside(prepared.batch[0])
        async with contextlib.nullcontext() if beside else self._free:
            span = self._times.begin(time.monotonic(), beside=beside)
            try:
                vectors = await self._vectors(prepared.computation)
                self._check_shape(batch, vectors)
            except Exception as error:  # noqa: BLE001  any error of an engine fails its batch
                self._times.end(span, time.monotonic())
                self._fail(prepared.running, batch, error)
                return
        seconds = self._times.end(span, time.monotonic())
        if not self._ended(prepared.running, batch):
            return  # answered with an error already, as the engine seemed to hang
        lengths = [job.tokens for job in batch]
        if span.tells:
            self.cost.learn(lengths, seconds, prepared.computation.shared)
        good = finite_rows(vectors)
        self._report(
            BatchReport(
                texts=len(batch),
                tokens=sum(lengths),
                padding_tokens=prepared.computation.padding_tokens,
                prepare_s=prepared.prepare_s,
                compute_s=seconds,
                queue_s=[prepared.started - job.arrived for job in batch],
                failed_texts=len(batch) - int(good.sum()),
            )
        )
        failures = [
            (job, no_vector(job)) for job, fine in zip(batch, good, strict=True) if not fine
        ]
        if failures:
            vectors = vectors[good]
            batch = [job for job, fine in zip(batch, good, strict=True) if fine]
        self._answer(batch, vectors, failures, prepared.started, seconds)

    async def _vectors(self, computation: Computation) -> Vectors:
        """The vectors of a batch, for which a thread waits; for the only batch, if it ends soon,
        the event loop does, between whatever else it does: it takes longer to wake two threads."""
        if computation.done is not None and self._batches == 1:
            until = time.monotonic() + POLLED_S
            while time.monotonic() < until:
                if computation.done():
                    return computation()
                await asyncio.sleep(0)
        return await _in_thread(self._computer, computation)

    def _check_shape(self, batch: list[Job], vectors: Vectors) -> None:
        expected = (len(batch), self._engine.info.width)
        if vectors.shape != expected or vectors.dtype != np.float32:
            raise ReplicaError(
                f"the engine returned {vectors.shape} {vectors.dtype} for {expected} float32. "
                "This is a bug."
            )

    def _fail(self, running: Running, batch: list[Job], error: Exception) -> None:
        log.error("a batch of %d texts failed", len(batch), exc_info=error)
        if isinstance(error, EngineLostError):
            self._break(error)
        if not self._ended(running, batch):
            return
        self._failed(len(batch))
        known = as_known(error)
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
            deliver(BatchResult(jobs, chosen, failed, max(waited, default=0.0), compute_s))


async def _in_thread(pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, function)
