"""A pool at work, against replicas that behave, break and lie."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from embedfleet.fleet.balancing import Balancer, Candidate, Load
from embedfleet.fleet.balancing.least_work import LeastWork
from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.fleet.states import Event
from embedfleet.runtime.settings import FleetSettings, GatewaySettings
from embedfleet.runtime.telemetry.metrics import GatewayMetrics
from embedfleet.scheduling.delivery.decisions import ABANDONED_S
from embedfleet.scheduling.delivery.pool import Pool
from embedfleet.scheduling.texts import Caller, Text, Waiting
from embedfleet.scheduling.texts import compute as computed
from embedfleet.transport.description import ReplicaDescription
from embedfleet.transport.frames import CallText, Failure, Frame, Take, vector_bytes
from embedfleet.vocabulary import (
    DrainingError,
    Encoding,
    Lane,
    NoReplicaError,
    OverloadedError,
    ReplicaError,
    ReplicaLostError,
    ReplicaState,
    UnfitReplicaError,
    Vector,
    VectorError,
    Vectors,
)
from tests.fakes.revealing_engine import UNLUCKY, WIDTH, vector_of
from tests.fleet.test_health import DESCRIPTION
from tests.loops import running, settle

Behaviour = Callable[[Sequence[CallText]], AsyncGenerator[Frame, None]]


def answer(texts: Sequence[CallText], window: int = 256) -> Frame:
    good = [text for text in texts if UNLUCKY not in text.encoding]
    bad = [text for text in texts if UNLUCKY in text.encoding]
    vectors = [vector_of(text.encoding) for text in good]
    return Frame(
        [text.id for text in good],
        vector_bytes(np.stack(vectors)) if vectors else b"",
        [Failure(text.id, "invalid_vector", "no finite vector") for text in bad],
        0,
        0,
        window,
    )


async def well(texts: Sequence[CallText]) -> AsyncGenerator[Frame, None]:
    for at in range(0, len(texts), 2):
        await asyncio.sleep(0)
        yield answer(texts[at : at + 2])


async def dying(texts: Sequence[CallText]) -> AsyncGenerator[Frame, None]:
    yield answer(texts[:1])
    raise ReplicaLostError("killed")


async def uninvited(texts: Sequence[CallText]) -> AsyncGenerator[Frame, None]:
    yield msgspec.structs.replace(answer(texts), ids=[text.id + 1000 for text in texts])


async def shrunken(texts: Sequence[CallText]) -> AsyncGenerator[Frame, None]:
    frame = answer(texts)
    halves = np.frombuffer(frame.vectors, np.float32) * np.float32(0.5)
    yield msgspec.structs.replace(frame, vectors=halves.tobytes())


async def failing(texts: Sequence[CallText]) -> AsyncGenerator[Frame, None]:
    failures = [Failure(text.id, "replica_failed", "out of memory") for text in texts]
    yield Frame([], b"", failures, 0, 0, 256)


async def draining(texts: Sequence[CallText]) -> AsyncGenerator[Frame, None]:
    raise DrainingError("draining")
    yield answer(texts)


async def hanging(texts: Sequence[CallText]) -> AsyncGenerator[Frame, None]:
    await asyncio.sleep(3600)
    yield answer(texts)


async def killed_by_seven(texts: Sequence[CallText]) -> AsyncGenerator[Frame, None]:
    await asyncio.sleep(0)
    if any(7 in text.encoding for text in texts):
        raise ReplicaLostError("killed by a text")
    yield answer(texts)


class FakeUpstream:
    """Replicas as functions; remembers calls and cancellations."""

    def __init__(self, **behaviours: Behaviour) -> None:
        self.behaviours = behaviours
        self.calls: list[tuple[str, int]] = []
        self.cancelled: list[int] = []
        self.ended: list[str] = []
        self.deaths = 0

    async def has_got(self, texts: int) -> None:
        """Return once calls of so many texts have come."""
        async with asyncio.timeout(60):
            while sum(count for _, count in self.calls) < texts:
                await asyncio.sleep(0)

    async def work(self, url: str, key: str, texts: Sequence[CallText], take: Take) -> None:
        self.calls.append((url, len(texts)))
        try:
            async with contextlib.aclosing(self.behaviours[url](texts)) as frames:
                async for frame in frames:
                    take(frame)
        except ReplicaLostError:
            self.deaths += 1
            raise
        finally:
            self.ended.append(url)

    async def cancel(self, url: str, key: str, ids: Sequence[int]) -> None:
        self.cancelled += ids


def made(
    upstream: FakeUpstream,
    *,
    max_queued_tokens: int = 10**6,
    metrics: GatewayMetrics | None = None,
    no_replica_timeout_s: float | None = None,
    balancer: Balancer | None = None,
) -> Pool:
    """A pool of ready replicas, without its loop."""
    fleet = Fleet()
    pool = Pool(
        "m",
        fleet,
        upstream,  # type: ignore[arg-type]
        balancer or LeastWork(),
        gateway=GatewaySettings(max_queued_tokens=max_queued_tokens),
        settings=FleetSettings(no_replica_timeout_s=no_replica_timeout_s),
        metrics=metrics or GatewayMetrics(),
    )
    pool.width = WIDTH
    for name in upstream.behaviours:
        join(fleet, name)
    return pool


@contextlib.asynccontextmanager
async def serving(upstream: FakeUpstream, **options: Any) -> AsyncIterator[Pool]:
    pool = made(upstream, **options)
    try:
        async with running(pool.run()):
            yield pool
    finally:
        await pool.close()


def join(
    fleet: Fleet, name: str, described: ReplicaDescription = DESCRIPTION, *, url: str = ""
) -> None:
    member = fleet.add(name, url or name, time.monotonic())
    member.description = described
    for event in (Event.ANSWERED, Event.VERIFIED):
        fleet.apply(member, event, time.monotonic())


def encodings(count: int, seed: int = 0) -> list[Encoding]:
    rng = np.random.default_rng(seed)
    return [rng.integers(20, 999, rng.integers(1, 30)).astype(np.int32) for _ in range(count)]


async def compute(
    pool: Pool, texts: list[Encoding], lane: Lane = Lane.INTERACTIVE, timeout_s: float = 10
) -> Vectors:
    caller = Caller(lane, time.monotonic() + timeout_s)
    pool.admit(len(texts), sum(map(len, texts)), caller)
    async with asyncio.timeout(60):
        return np.stack([*(await computed(pool, texts, caller, WIDTH)).rows])


def assert_right(vectors: Vectors, texts: list[Encoding]) -> None:
    np.testing.assert_array_equal(vectors, np.stack([vector_of(ids) for ids in texts]))


async def test_vector_i_belongs_to_text_i() -> None:
    """Over many requests at once and two replicas that share each of them."""
    upstream = FakeUpstream(a=well, b=well)
    async with serving(upstream) as pool:
        requests = [encodings(count, count) for count in (1, 40, 3, 17, 100)]
        answers = await asyncio.gather(*(compute(pool, texts) for texts in requests))

    for vectors, texts in zip(answers, requests, strict=True):
        assert_right(vectors, texts)
    assert {url for url, _ in upstream.calls} == {"a", "b"}


@pytest.mark.parametrize("bad", [dying, uninvited, shrunken, failing, draining])
async def test_a_replica_that_fails_loses_no_request(bad: Behaviour) -> None:
    """What it did not answer, or answered wrongly, another one does."""
    async with serving(FakeUpstream(bad=bad, good=well)) as pool:
        texts = encodings(60)

        assert_right(await compute(pool, texts), texts)
        assert pool.fleet["bad"].state is not ReplicaState.READY


async def test_a_call_whose_frame_is_refused_is_over_at_once() -> None:
    """Its connection is closed there and then, not when garbage is collected."""
    ended: list[str] = []

    def follow(_member: Member, left: ReplicaState) -> None:
        if left is ReplicaState.READY:
            ended.extend(upstream.ended)

    upstream = FakeUpstream(bad=shrunken)
    async with serving(upstream) as pool:
        pool.fleet.listen(follow)
        for _ in range(3):
            with pytest.raises(VectorError):
                await compute(pool, encodings(1))
    assert ended == ["bad"] * 3


@pytest.mark.parametrize("names", ["a", "ab", "abc"])
async def test_a_text_without_a_vector_is_an_error_of_its_request(names: str) -> None:
    """When a second replica says so, where there is one."""
    upstream = FakeUpstream(**dict.fromkeys(names, well))
    async with serving(upstream) as pool:
        with pytest.raises(VectorError, match="no finite vector"):
            await compute(pool, [np.array([UNLUCKY], np.int32)])
        assert {member.state for member in pool.fleet} == {ReplicaState.READY}

    assert len(upstream.calls) == min(2, len(names))


async def nan(texts: Sequence[CallText]) -> AsyncGenerator[Frame, None]:
    frame = answer(texts)
    vectors = np.frombuffer(frame.vectors, np.float32).reshape(len(texts), WIDTH).copy()
    vectors[0] = np.nan
    yield msgspec.structs.replace(frame, vectors=vectors.tobytes())


async def unable(texts: Sequence[CallText]) -> AsyncGenerator[Frame, None]:
    message = "x" * 10**6 + "\n\x1b[31mforged"
    failures = [Failure(text.id, "invalid_vector", message) for text in texts]
    yield Frame([], b"", failures, 0, 0, 256)


@pytest.mark.parametrize("bad", [nan, unable])
async def test_a_vector_that_one_replica_can_not_give_comes_from_another(bad: Behaviour) -> None:
    """And the one that could not is found out by it."""
    async with serving(FakeUpstream(bad=bad, good=well)) as pool:
        texts = encodings(60)
        assert_right(await compute(pool, texts), texts)
        assert pool.fleet["bad"].state is not ReplicaState.READY
        assert pool.fleet["good"].state is ReplicaState.READY


async def numb(texts: Sequence[CallText]) -> AsyncGenerator[Frame, None]:
    """One vector for all texts."""
    frame = answer(texts)
    row = frame.vectors[: WIDTH * 4]
    yield msgspec.structs.replace(frame, vectors=row * len(texts))


async def test_one_vector_for_different_texts_comes_from_no_replica() -> None:
    """The next trial finds out the replica; until then it gets nothing."""
    upstream = FakeUpstream(bad=numb, good=well)
    async with serving(upstream) as pool:
        texts = encodings(60)
        assert_right(await compute(pool, texts), texts)
        assert pool.fleet["bad"].conduct.failures
        assert pool.fleet["good"].conduct.failures == 0


async def test_texts_that_have_one_vector_everywhere_are_answered() -> None:
    """Token ids that no training has seen may; nobody is ejected for them."""
    upstream = FakeUpstream(**dict.fromkeys("abcde", numb))
    async with serving(upstream) as pool:
        for _ in range(2):
            vectors = await compute(pool, [np.array([1], np.int32), np.array([2], np.int32)])
            assert len(np.unique(vectors, axis=0)) == 1
        assert {member.state for member in pool.fleet} == {ReplicaState.READY}


async def test_a_replica_that_fails_its_trials_does_not_answer_one_vector_for_all_texts() -> None:
    """Also if it is the only one, and its calls are answered otherwise."""
    async with serving(FakeUpstream(a=numb)) as pool:
        pool.fleet.check_failed(pool.fleet["a"], "golden check", "other vectors than before")
        with pytest.raises((ReplicaError, TimeoutError)):
            async with asyncio.timeout(2.5):  # it is asked again after 2 s
                await compute(pool, encodings(3))


async def test_a_message_of_a_replica_is_repeated_as_one_short_line() -> None:
    async with serving(FakeUpstream(a=unable)) as pool:
        with pytest.raises(VectorError) as failed:
            await compute(pool, encodings(1))
    assert len(failed.value.message) <= 300
    assert failed.value.message.isprintable()


def revive(pool: Pool, *names: str) -> None:
    """From now on a replica that fails is replaced at once."""
    well_states = {ReplicaState.STARTING, ReplicaState.VERIFYING, ReplicaState.READY}

    def follow(member: Member, _left: ReplicaState) -> None:
        if member.name in names and member.state not in {*well_states, ReplicaState.GONE}:
            asyncio.get_running_loop().call_soon(join, pool.fleet, member.name)

    pool.fleet.listen(follow)


async def test_a_text_that_every_replica_fails_is_given_up() -> None:
    """After the attempts that the settings allow, with the last trouble."""
    async with serving(FakeUpstream(a=failing)) as pool:
        revive(pool, "a")
        with pytest.raises(ReplicaError, match="4 replicas failed this text"):
            await compute(pool, encodings(1))


async def test_retries_of_failures_have_a_budget() -> None:
    """A pool in which everything fails is not asked for everything four times."""
    upstream = FakeUpstream(a=failing)
    async with serving(upstream) as pool:
        requests = [compute(pool, texts) for texts in ([ids] for ids in encodings(1000))]
        results = await asyncio.gather(*requests, return_exceptions=True)

    assert all(isinstance(result, ReplicaError) for result in results)
    assert sum(count for _, count in upstream.calls) < 1300


async def test_texts_wait_for_a_replica_to_come() -> None:
    """Nothing is lost while all are gone."""
    upstream = FakeUpstream()
    async with serving(upstream) as pool:
        texts = encodings(5)
        waiting = asyncio.create_task(compute(pool, texts))
        await settle(0.01)
        assert pool.queued_texts == 5

        upstream.behaviours["late"] = well
        join(pool.fleet, "late")
        assert_right(await waiting, texts)


async def test_an_ejected_replica_gives_its_texts_back() -> None:
    """One that hangs does not hold them until the deadline."""
    upstream = FakeUpstream(stuck=hanging)
    async with serving(upstream) as pool:
        texts = encodings(5)
        waiting = asyncio.create_task(compute(pool, texts))
        await settle(0.01)
        stuck = pool.fleet["stuck"]
        upstream.behaviours["good"] = well
        join(pool.fleet, "good")
        pool.fleet.failed(stuck, time.monotonic(), "no answer", lost=True)

        assert_right(await waiting, texts)


async def test_a_late_replica_is_hedged() -> None:
    """Another one answers what it sits on, long before anyone calls it ill."""
    upstream = FakeUpstream(stuck=hanging)
    async with serving(upstream) as pool:
        texts = encodings(5)
        waiting = asyncio.create_task(compute(pool, texts))
        await settle(0.01)
        upstream.behaviours["good"] = well
        join(pool.fleet, "good")

        assert_right(await waiting, texts)
        assert pool.fleet["stuck"].conduct.failures == 1, (
            "two calls are late, and it is one time-out"
        )
        assert len(upstream.cancelled) == len(texts)


def counted(metrics: GatewayMetrics) -> dict[str, float]:
    """Texts by what they were counted as."""
    (family,) = metrics.texts.collect()
    return {
        sample.labels["outcome"]: sample.value
        for sample in family.samples
        if sample.name.endswith("_total") and sample.value
    }


async def test_a_text_that_two_replicas_answer_is_counted_once() -> None:
    """And is worth one text to the budgets."""
    go_on, done = asyncio.Event(), asyncio.Event()

    async def late(texts: Sequence[CallText]) -> AsyncGenerator[Frame, None]:
        await go_on.wait()
        yield answer(texts)
        done.set()

    metrics, upstream = GatewayMetrics(), FakeUpstream(late=late)
    async with serving(upstream, metrics=metrics) as pool:
        texts = encodings(5)
        waiting = asyncio.create_task(compute(pool, texts))
        await upstream.has_got(len(texts))
        upstream.behaviours["good"] = well
        join(pool.fleet, "good")
        await waiting
        saved = pool._dispatcher.hedges.saved
        go_on.set()
        await asyncio.wait_for(done.wait(), 60)
        assert pool._dispatcher.hedges.saved == saved
    assert counted(metrics) == {"succeeded": 5}


@pytest.mark.parametrize("token", [20, UNLUCKY])
async def test_a_text_that_was_abandoned_and_ends_all_the_same_is_counted_once(
    token: int,
) -> None:
    """As one that nobody waited for, whatever came of it."""
    go_on, done = asyncio.Event(), asyncio.Event()

    async def late(texts: Sequence[CallText]) -> AsyncGenerator[Frame, None]:
        await go_on.wait()
        yield answer(texts)
        done.set()

    metrics, upstream = GatewayMetrics(), FakeUpstream(late=late)
    async with serving(upstream, metrics=metrics) as pool:
        waiting = asyncio.create_task(compute(pool, [np.array([token], np.int32)]))
        await upstream.has_got(1)
        waiting.cancel()
        await settle(0.01)
        go_on.set()
        await asyncio.wait_for(done.wait(), 60)
    assert counted(metrics) == {"ignored": 1}


async def test_a_text_that_kills_replicas_is_found_and_its_neighbours_are_answered() -> None:
    """After about as many losses as halvings, and only its own request fails."""
    upstream = FakeUpstream(a=killed_by_seven, b=killed_by_seven)
    async with serving(upstream) as pool:
        revive(pool, "a", "b")
        texts = encodings(20)
        poisoned = asyncio.create_task(compute(pool, [np.array([7], np.int32)]))
        others = [asyncio.create_task(compute(pool, [ids])) for ids in texts]

        for task, ids in zip(others, texts, strict=True):
            assert_right(await task, [ids])
        with pytest.raises(ReplicaError, match="failed this text"):
            await poisoned
    assert upstream.deaths <= 4 + len(texts).bit_length()


async def test_a_caller_that_leaves_takes_its_texts_along() -> None:
    """Out of the queue, and out of the replica that holds some of them."""
    upstream = FakeUpstream(stuck=hanging)
    async with serving(upstream) as pool:
        waiting = asyncio.create_task(compute(pool, encodings(50)))
        await upstream.has_got(1)
        flying = sum(count for _, count in upstream.calls)
        assert pool.queued_texts == 50 - flying

        waiting.cancel()
        await settle(0.01)
        assert pool.queued_texts == 0
        assert len(upstream.cancelled) == flying


async def test_a_call_without_waiters_does_not_hold_its_replica_for_ever() -> None:
    """One that hangs on a dead connection would keep the only replica's window full."""
    upstream = FakeUpstream(a=hanging)
    async with serving(upstream) as pool:
        waiting = asyncio.create_task(compute(pool, encodings(5)))
        await settle(0.01)
        waiting.cancel()
        await settle(0.01)
        assert pool.waiting_tokens

        for call in pool._dispatcher.calls:
            call.progressed_s -= ABANDONED_S
        async with asyncio.timeout(60):
            while pool.waiting_tokens:
                await asyncio.sleep(0.01)
        assert pool.fleet["a"].conduct.failures, "a time-out counts"


async def test_bulk_is_refused_before_interactive_texts() -> None:
    """Half of the queue is for those who wait."""
    async with serving(FakeUpstream(stuck=hanging), max_queued_tokens=1000) as pool:
        waiting = asyncio.create_task(compute(pool, [np.full(450, 20, np.int32)]))
        await settle(0.01)
        hundred = [np.full(100, 20, np.int32)]

        with pytest.raises(OverloadedError, match="limit of 500 for bulk"):
            await compute(pool, hundred, Lane.BULK)
        allowed = asyncio.create_task(compute(pool, hundred))
        await settle(0.01)
        assert not allowed.done()
        waiting.cancel()
        allowed.cancel()


async def test_what_cannot_be_served_before_its_deadline_is_refused_at_once() -> None:
    """By the predicted wait, rather than after it."""
    async with serving(FakeUpstream(stuck=hanging)) as pool:
        waiting = asyncio.create_task(compute(pool, [np.full(500_000, 20, np.int32)]))
        await settle(0.01)

        with pytest.raises(OverloadedError, match=r"deadline comes in [0-9.]+ s"):
            await compute(pool, encodings(1), timeout_s=0.9)
        waiting.cancel()


async def test_more_than_the_queue_may_hold_is_refused() -> None:
    """With a time after which to try again; one request alone is never too large."""
    async with serving(FakeUpstream(stuck=hanging), max_queued_tokens=10) as pool:
        waiting = asyncio.create_task(compute(pool, encodings(50)))
        await settle(0.01)

        with pytest.raises(OverloadedError, match="max_queued_tokens") as refused:
            await compute(pool, encodings(1))
        assert refused.value.retry_after_s is not None
        waiting.cancel()


async def test_a_vector_without_waiters_is_still_reported() -> None:
    """Its batch had begun: it is paid for, and the cache can have it, and whose it is."""
    go_on, began = asyncio.Event(), asyncio.Event()

    async def held(texts: Sequence[CallText]) -> AsyncGenerator[Frame, None]:
        began.set()
        await go_on.wait()
        yield answer(texts)

    told: list[tuple[Encoding, Vector, str]] = []

    class Kept(Text):
        def answer(self, vector: Vector, queue_s: float, compute_s: float, source: str) -> None:
            told.append((self.encoding, vector.copy(), source))

    async with serving(FakeUpstream(a=held)) as pool:
        waiting = Waiting([None] * 3)
        texts = [Kept(ids, waiting, place) for place, ids in enumerate(encodings(3))]
        pool.submit(texts, Caller(Lane.INTERACTIVE, time.monotonic() + 10))
        await began.wait()
        pool.withdraw(waiting.leave())
        go_on.set()
        async with asyncio.timeout(60):
            while len(told) < len(texts):
                await asyncio.sleep(0)
    for ids, vector, source in told:
        np.testing.assert_array_equal(vector, vector_of(ids))
        assert source == "m/a"


async def test_a_call_that_is_late_counts_as_a_failure_whether_it_can_be_hedged_or_not() -> None:
    """The only replica hangs, and is no longer trusted."""
    async with serving(FakeUpstream(a=hanging)) as pool:
        waiting = asyncio.create_task(compute(pool, encodings(5)))
        async with asyncio.timeout(60):
            while pool.fleet["a"].state is ReplicaState.READY:
                await asyncio.sleep(0.01)
        assert "longer than predicted" in pool.fleet["a"].reason
        waiting.cancel()


async def test_one_failed_call_of_many_texts_fails_no_text() -> None:
    """It holds more texts than the reserve of the budget had."""
    metrics, broken = GatewayMetrics(), True

    async def once(texts: Sequence[CallText]) -> AsyncGenerator[Frame, None]:
        nonlocal broken
        await asyncio.sleep(0)
        if broken:
            broken = False
            raise ReplicaError("out of memory")
        yield answer(texts)

    described = msgspec.structs.replace(DESCRIPTION, batch_tokens=8192, window=16_384)
    upstream = FakeUpstream()
    async with serving(upstream, metrics=metrics) as pool:
        upstream.behaviours["a"] = once
        join(pool.fleet, "a", described)
        texts = [np.full(8, 20, np.int32)] * 600
        assert_right(await compute(pool, texts), texts)
    assert counted(metrics) == {"succeeded": 600}


async def test_who_shares_a_call_with_a_caller_that_left_gets_the_late_answer() -> None:
    """The call is late, hedged, and answers all of its texts in the end."""
    go_on = asyncio.Event()

    async def late(texts: Sequence[CallText]) -> AsyncGenerator[Frame, None]:
        await go_on.wait()
        yield answer(texts)

    metrics, upstream = GatewayMetrics(), FakeUpstream(late=late)
    async with serving(upstream, metrics=metrics) as pool:
        mine, theirs = encodings(2)
        leaving = asyncio.create_task(compute(pool, [theirs]))
        staying = asyncio.create_task(compute(pool, [mine]))
        await upstream.has_got(2)
        upstream.behaviours["stuck"] = hanging
        join(pool.fleet, "stuck")
        leaving.cancel()
        async with asyncio.timeout(60):
            while len(upstream.calls) < 2:
                await asyncio.sleep(0.01)
        go_on.set()
        assert_right(await staying, [mine])
    assert counted(metrics) == {"succeeded": 1, "ignored": 1}


async def test_a_failure_names_how_many_replicas_failed() -> None:
    async with serving(FakeUpstream(a=failing)) as pool:
        pool._dispatcher.retries.saved = 0.0
        with pytest.raises(ReplicaError, match=r"^1 replica failed this text; last: out of memory"):
            await compute(pool, encodings(1))


async def test_errors_for_callers_have_no_address_of_a_replica() -> None:
    url = "http://10.0.0.5:9001"

    async def broken(texts: Sequence[CallText]) -> AsyncGenerator[Frame, None]:
        raise ReplicaError(f"{url}/v1/embeddings answered 500")
        yield answer(texts)

    upstream = FakeUpstream()
    async with serving(upstream) as pool:
        upstream.behaviours[url] = broken
        join(pool.fleet, "pod-a", url=url)
        pool._dispatcher.retries.saved = 0.0
        with pytest.raises(ReplicaError, match="last: pod-a/v1/embeddings answered 500"):
            await compute(pool, encodings(1))


async def test_errors_for_callers_have_no_setup_of_an_engine(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log and the fleet's table are: keys and addresses are for operators."""

    async def locked(texts: Sequence[CallText]) -> AsyncGenerator[Frame, None]:
        raise UnfitReplicaError("it requires an API key (401): set pools.replica_key_file")
        yield answer(texts)

    async with serving(FakeUpstream(a=locked)) as pool:
        with pytest.raises(ReplicaError, match="not set up for this pool") as raised:
            await compute(pool, encodings(1))
        assert "key" not in raised.value.message
        assert raised.value.status == 502
        assert "pools.replica_key_file" in caplog.text
        for _ in range(3):
            with pytest.raises(ReplicaError):
                await compute(pool, encodings(1))
        assert "pools.replica_key_file" in pool.fleet["a"].reason


async def test_a_pool_without_replicas_says_so_after_a_while() -> None:
    """Texts that wait are told then, and those that come later at once."""
    upstream = FakeUpstream()
    async with serving(upstream, no_replica_timeout_s=0.05) as pool:
        with pytest.raises(NoReplicaError, match="no replica of m can be reached"):
            await compute(pool, encodings(3))
        with pytest.raises(NoReplicaError):
            pool.admit(1, 1, Caller(Lane.INTERACTIVE, time.monotonic() + 10))
        upstream.behaviours["a"] = well
        join(pool.fleet, "a")
        texts = encodings(3)
        assert_right(await compute(pool, texts), texts)


async def test_the_error_that_all_replicas_are_gone_says_what_was_wrong_with_the_last() -> None:
    async with serving(FakeUpstream(a=well), no_replica_timeout_s=0.05) as pool:
        member = pool.fleet["a"]
        pool.fleet.apply(member, Event.LOST, time.monotonic(), "killed by SIGKILL at 10.0.0.7")
        with pytest.raises(NoReplicaError, match="one replica: its process has ended") as raised:
            await compute(pool, encodings(1))
        assert "10.0.0.7" not in raised.value.message

        join(pool.fleet, "b")
        pool.fleet["b"].trouble = "it hangs"
        pool.fleet.apply(pool.fleet["b"], Event.REFUSED, time.monotonic(), "its oldest batch …")
        with pytest.raises(NoReplicaError, match="one replica: it hangs"):
            await compute(pool, encodings(1))


async def test_the_only_replica_counts_as_gone_while_it_is_not_ready() -> None:
    """It is not ejected, since no other one could take its work, but it is not there either."""
    async with serving(FakeUpstream(a=hanging), no_replica_timeout_s=0.05) as pool:
        pool.fleet.apply(pool.fleet["a"], Event.FAILED, time.monotonic(), "connection refused")
        with pytest.raises(NoReplicaError):
            await compute(pool, encodings(3))


async def test_an_interactive_caller_makes_a_waiting_bulk_text_urgent() -> None:
    """And can't where a replica has it as bulk already."""
    async with serving(FakeUpstream()) as pool:
        bulk = Caller(Lane.BULK, time.monotonic() + 10)
        waiting = Waiting([None])
        text = Text(encodings(1)[0], waiting, 0)
        pool.submit([text], bulk)
        assert pool.join(text, Caller(Lane.INTERACTIVE, bulk.deadline + 5))
        queued = pool._dispatcher.queue.peek()
        assert queued is not None
        assert (queued.lane, queued.deadline) == (Lane.INTERACTIVE, bulk.deadline + 5)
        assert len(pool._dispatcher.queue) == 1

    upstream = FakeUpstream(a=hanging)
    async with serving(upstream) as pool:
        text = Text(encodings(1)[0], Waiting([None]), 0)
        pool.submit([text], bulk)
        await settle(0.01)
        assert pool.join(text, bulk)
        assert not pool.join(text, Caller(Lane.INTERACTIVE, bulk.deadline))


async def test_a_bug_in_what_the_event_loop_calls_ends_the_pool_s_loop() -> None:
    """Instead of leaving texts where they are, in silence."""

    class Broken:
        affine: ClassVar[bool] = False

        def pick(self, loads: Sequence[Load], text: Candidate) -> Load | None:
            raise RuntimeError("a policy with a bug")

    pool = made(FakeUpstream(a=well), balancer=Broken())
    waiting = asyncio.create_task(compute(pool, encodings(1)))
    with pytest.raises(RuntimeError, match="a policy with a bug"):
        await asyncio.wait_for(pool.run(), 60)
    waiting.cancel()
    await pool.close()
