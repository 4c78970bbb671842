"""The loop beside an engine."""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np
import pytest

from embedfleet.engines.protocol import Computation
from embedfleet.scheduling.batching.batcher import Batcher
from embedfleet.scheduling.batching.jobs import BatchReport, BatchResult, Job
from embedfleet.vocabulary import Encoding, EngineLostError, Lane, ReplicaError, Vectors
from tests.fakes.revealing_engine import POISON, UNLUCKY, RevealingEngine, vector_of


class Call:
    """Collects what is delivered for its texts."""

    def __init__(self, *texts: list[int], deadline: float | None = None) -> None:
        now = time.monotonic()
        self.jobs = [
            Job(number, np.array(ids, np.int32), Lane.INTERACTIVE, deadline, now, self.deliver)
            for number, ids in enumerate(texts)
        ]
        self.vectors: dict[int, np.ndarray] = {}
        self.errors: dict[int, str] = {}
        self._answered = asyncio.Event()

    def deliver(self, part: BatchResult) -> None:
        for job, vector in zip(part.jobs, part.vectors, strict=True):
            assert job.id not in self.vectors
            self.vectors[job.id] = vector
        for job, error in part.failures:
            self.errors[job.id] = type(error).__name__
        if len(self.vectors) + len(self.errors) == len(self.jobs):
            self._answered.set()

    async def answered(self) -> None:
        await asyncio.wait_for(self._answered.wait(), 60)


@contextlib.asynccontextmanager
async def running(engine: RevealingEngine, **options: object) -> AsyncIterator[Batcher]:
    batcher = Batcher(engine, **options)  # type: ignore[arg-type]
    task = asyncio.create_task(batcher.run())
    try:
        yield batcher
    finally:
        engine.go_on.set()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_every_text_gets_its_own_vector() -> None:
    """Across calls, batches and the sorting inside them."""
    rng = np.random.default_rng(0)
    async with running(RevealingEngine()) as batcher:
        calls = [
            Call(*[rng.integers(20, 999, rng.integers(1, 40)).tolist() for _ in range(count)])
            for count in (1, 7, 30, 2)
        ]
        for call in calls:
            batcher.submit(call.jobs)
        for call in calls:
            await call.answered()

    for call in calls:
        assert not call.errors
        for job in call.jobs:
            np.testing.assert_array_equal(call.vectors[job.id], vector_of(job.encoding))


async def test_a_text_without_a_finite_vector_fails_alone() -> None:
    """Its neighbours in the batch get their vectors."""
    async with running(RevealingEngine()) as batcher:
        call = Call([20, 21], [UNLUCKY], [22])
        batcher.submit(call.jobs)
        await call.answered()

    assert call.errors == {1: "VectorError"}
    np.testing.assert_array_equal(call.vectors[2], vector_of([22]))


async def test_an_engine_that_raises_fails_its_batch_and_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The loop survives; the next batch is computed."""
    async with running(RevealingEngine()) as batcher:
        bad, good = Call([POISON], [30]), Call([31])
        batcher.submit(bad.jobs)
        await bad.answered()
        batcher.submit(good.jobs)
        await good.answered()

        assert batcher.idle
    assert bad.errors == {0: "ReplicaError", 1: "ReplicaError"}
    assert set(good.vectors) == {0}
    assert "poisoned" in caplog.text


async def test_when_the_engine_is_lost_what_waits_is_answered_and_the_loop_ends_with_it() -> None:
    """Nobody waits for vectors that never come."""
    engine = RevealingEngine(batch_tokens=2)
    engine.go_on.clear()
    batcher = Batcher(engine)
    running = asyncio.create_task(batcher.run())
    calls = [Call([30 + number, 20]) for number in range(6)]
    for call in calls:
        batcher.submit(call.jobs)
    await until(lambda: engine.started == 1)
    engine.lost = True
    engine.go_on.set()
    with pytest.raises(EngineLostError):
        await asyncio.wait_for(running, 60)
    for call in calls:
        await call.answered()

    assert calls[0].errors == calls[-1].errors == {0: "EngineLostError"}
    with pytest.raises(EngineLostError):
        batcher.submit(Call([40]).jobs)


async def test_when_the_loop_itself_breaks_what_waits_is_answered_too() -> None:
    """Here because who measures it raises."""

    def report(_: BatchReport) -> None:
        raise ZeroDivisionError

    engine = RevealingEngine(batch_tokens=2)
    engine.go_on.clear()
    batcher = Batcher(engine, report=report)
    running = asyncio.create_task(batcher.run())
    calls = [Call([30 + number, 20]) for number in range(6)]
    for call in calls:
        batcher.submit(call.jobs)
    await until(lambda: engine.started == 1)
    engine.go_on.set()
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(running, 60)

    assert calls[-1].errors == {0: "ReplicaError"}
    assert not batcher.waiting_texts
    with pytest.raises(ReplicaError, match="ZeroDivisionError"):
        batcher.submit(Call([40]).jobs)


async def test_texts_without_a_vector_are_in_the_metrics() -> None:
    """Those of a batch that failed as a whole, and those whose own vector was none."""
    reports: list[BatchReport] = []
    failed: list[int] = []
    engine = RevealingEngine()
    async with running(engine, report=reports.append, failed=failed.append) as batcher:
        for call in (Call([POISON], [20]), Call([UNLUCKY], [21], [22])):
            batcher.submit(call.jobs)
            await call.answered()

    assert failed == [2]
    assert [(report.texts, report.failed_texts) for report in reports] == [(3, 1)]


async def test_texts_that_arrive_while_the_engine_is_busy_share_the_next_batch() -> None:
    """No timer: the batch is formed when the engine is free."""
    engine = RevealingEngine()
    engine.go_on.clear()
    async with running(engine) as batcher:
        first = Call([20])
        batcher.submit(first.jobs)
        await until(lambda: engine.started == 1)
        later = [Call([30 + number]) for number in range(5)]
        for call in later:
            batcher.submit(call.jobs)
            await asyncio.sleep(0)
        engine.go_on.set()
        for call in later:
            await call.answered()

    assert [len(batch) for batch in engine.batches] == [1, 5]


async def test_a_full_batch_is_prepared_while_another_computes() -> None:
    """Exactly one, so that later texts are not bound early without gain."""
    engine = RevealingEngine(batch_tokens=4)
    engine.go_on.clear()
    async with running(engine) as batcher:
        calls = [Call([20, 21, 22, 23]) for _ in range(4)]
        for call in calls:
            batcher.submit(call.jobs)
        await until(lambda: batcher.waiting_texts <= 2)
        await asyncio.sleep(0.05)  # for a third one, were there one

        assert batcher.waiting_texts == 2
        engine.go_on.set()
        for call in calls:
            await call.answered()


async def test_cancelled_texts_are_not_computed() -> None:
    """Those of a batch that has begun are."""
    engine = RevealingEngine()
    engine.go_on.clear()
    async with running(engine) as batcher:
        first, second = Call([20]), Call([30], [31])
        batcher.submit(first.jobs)
        await until(lambda: engine.started == 1)
        batcher.submit(second.jobs)

        assert batcher.cancel(first.jobs) == 0
        assert batcher.cancel(second.jobs) == 2
        assert batcher.waiting_tokens == 0
        engine.go_on.set()
        await first.answered()

    assert engine.batches == [[[20]]]


async def test_a_text_whose_deadline_has_passed_is_answered_without_computing() -> None:
    """Nobody waits for it."""
    engine = RevealingEngine()
    async with running(engine) as batcher:
        call = Call([20], deadline=time.monotonic() - 1)
        batcher.submit(call.jobs)
        await call.answered()

    assert call.errors == {0: "DeadlineError"}
    assert engine.batches == []


async def test_each_batch_is_reported_and_learned_from() -> None:
    """What metrics and the cost model live on."""
    reports: list[BatchReport] = []
    async with running(RevealingEngine(), report=reports.append) as batcher:
        before = batcher.cost.model
        call = Call([20, 21], [22])
        batcher.submit(call.jobs)
        await call.answered()

        assert batcher.cost.model != before
    assert [(report.texts, report.tokens) for report in reports] == [(2, 3)]


async def test_an_engine_that_overlaps_gets_a_second_batch_while_the_first_computes() -> None:
    """And no third one."""
    engine = RevealingEngine(batch_tokens=4, in_flight=2, enough_tokens=3)
    engine.go_on.clear()
    async with running(engine) as batcher:
        calls = [Call([20, 21, 22]) for _ in range(4)]
        for call in calls:
            batcher.submit(call.jobs)
        await until(lambda: engine.started == 2 and batcher.waiting_texts <= 2)
        await asyncio.sleep(0.05)  # for a third one, were there one

        assert batcher.waiting_texts == 2
        assert engine.started == 2
        engine.go_on.set()
        for call in calls:
            await call.answered()

    for call in calls:
        np.testing.assert_array_equal(call.vectors[0], vector_of([20, 21, 22]))


class Noting(RevealingEngine):
    """Notes in which thread it prepared a batch of so many tokens."""

    def __init__(self, *, at_once_tokens: int) -> None:
        super().__init__(at_once_tokens=at_once_tokens)
        self.threads: dict[int, threading.Thread] = {}

    def prepare(self, batch: Sequence[Encoding]) -> Computation:
        self.threads[sum(map(len, batch))] = threading.current_thread()
        return super().prepare(batch)


async def test_a_thread_is_woken_only_for_batches_that_take_longer_than_that() -> None:
    engine = Noting(at_once_tokens=3)
    async with running(engine) as batcher:
        for call in (Call([20, 21, 22]), Call([20, 21, 22, 23])):
            batcher.submit(call.jobs)
            await call.answered()
    assert engine.threads[3] is threading.current_thread()
    assert engine.threads[4] is not threading.current_thread()


class Asked(RevealingEngine):
    """Tells that a batch of one text is done when it is asked for the second time, or never; notes
    which thread took one."""

    def __init__(self, *, ever: bool = True) -> None:
        super().__init__(in_flight=2, enough_tokens=1)
        self.ever = ever
        self.asked: Counter[int] = Counter()
        self.taken_by: dict[int, threading.Thread] = {}

    def prepare(self, batch: Sequence[Encoding]) -> Computation:
        computation, first = super().prepare(batch), int(batch[0][0])

        def done() -> bool:
            self.asked[first] += 1
            return self.ever and self.asked[first] > 1

        def taken() -> Vectors:
            self.taken_by[first] = threading.current_thread()
            return computation()

        return Computation(taken, done=done if len(batch) == 1 else None)


async def test_no_thread_is_woken_to_wait_for_the_only_batch_if_that_can_be_asked() -> None:
    engine, call = Asked(), Call([20, 21, 22])
    async with running(engine) as batcher:
        batcher.submit(call.jobs)
        await call.answered()
    np.testing.assert_array_equal(call.vectors[0], vector_of([20, 21, 22]))
    assert engine.asked[20] == 2
    assert engine.taken_by[20] is threading.current_thread()


async def test_a_thread_waits_for_a_batch_beside_another() -> None:
    engine = Asked()
    engine.hold_from_tokens = 4
    engine.go_on.clear()
    long, short = Call([30, 31, 32, 33], [34]), Call([20, 21])
    async with running(engine) as batcher:
        batcher.submit(long.jobs)
        await until(lambda: engine.started == 1)
        batcher.submit(short.jobs)
        await short.answered()
        engine.go_on.set()
        await long.answered()
    assert not engine.asked[20]
    assert engine.taken_by[20] is not threading.current_thread()


async def test_a_thread_waits_for_the_only_batch_that_is_not_done_soon() -> None:
    engine, call = Asked(ever=False), Call([20, 21, 22])
    async with running(engine) as batcher:
        batcher.submit(call.jobs)
        await call.answered()
    np.testing.assert_array_equal(call.vectors[0], vector_of([20, 21, 22]))
    assert engine.taken_by[20] is not threading.current_thread()


async def test_a_long_text_computes_beside_short_ones_and_they_do_not_wait_for_it() -> None:
    """Only the long one is held up here."""
    engine = RevealingEngine(batch_tokens=4, in_flight=1, enough_tokens=1, long_beside=True)
    engine.hold_from_tokens = 5
    engine.go_on.clear()
    async with running(engine) as batcher:
        long, short = Call([20] * 9), Call([30, 31])
        batcher.submit(long.jobs)
        await until(lambda: engine.started == 1)
        batcher.submit(short.jobs)
        await short.answered()

        assert not long.vectors
        assert batcher.long_tokens == 9
        engine.go_on.set()
        await long.answered()

    np.testing.assert_array_equal(long.vectors[0], vector_of([20] * 9))


async def test_a_batch_beside_a_long_text_teaches_the_cost_model_nothing() -> None:
    """It waited for pieces of the long one."""
    engine = RevealingEngine(batch_tokens=4, in_flight=1, enough_tokens=1, long_beside=True)
    engine.hold_from_tokens = 5
    engine.go_on.clear()
    async with running(engine) as batcher:
        long, short = Call([20] * 9), Call([30, 31])
        batcher.submit(long.jobs)
        await until(lambda: engine.started == 1)
        batcher.submit(short.jobs)
        await short.answered()

        assert batcher.cost.batches == 0
        engine.go_on.set()
        await long.answered()

        assert batcher.cost.batches == 1
