"""A replica over a real socket, with an engine that reveals its texts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import orjson
import pytest

from embedfleet.api.endpoint import Endpoint
from embedfleet.api.formats.openai import RequestLimits
from embedfleet.fleet.balancing.load import Load
from embedfleet.models.files import Snapshot
from embedfleet.scheduling.batching.jobs import BatchResult, Job
from embedfleet.server.gateway.replicas.upstream import Upstream
from embedfleet.server.replica.service import Replica
from embedfleet.transport.frames import CallText, Frame, encoding_bytes
from embedfleet.transport.serving import Listener, bind, serving
from embedfleet.transport.untrusted import MOST_PAGE_BYTES
from embedfleet.vocabulary import DrainingError, Lane, ModelIdentity, OverloadedError, ReplicaError
from embedfleet.work import CostFit, CostModel
from tests.fakes.revealing_engine import POISON, UNLUCKY, WIDTH, RevealingEngine, vector_of
from tests.fakes.taking import frames_of

IDENTITY = ModelIdentity("fake", "0" * 32, "1" * 32, WIDTH, 512, 1000, {})


@dataclass
class Running:
    replica: Replica
    engine: RevealingEngine
    upstream: Upstream
    url: str

    async def ask(self, *texts: list[int], key: str = "k") -> list[Frame]:
        call = [CallText(n, encoding_bytes(np.array(ids)), False, 0) for n, ids in enumerate(texts)]
        return await frames_of(self.upstream, self.url, key, call)

    async def get(self, route: str) -> tuple[int, bytes]:
        """Status and body of a page."""
        fetch = self.upstream.connections.fetch
        page = await fetch("GET", f"{self.url}{route}", None, (), MOST_PAGE_BYTES)
        return page.status, page.body


def replica_of(engine: RevealingEngine, directory: Path = Path()) -> Replica:
    return Replica(
        engine,
        IDENTITY,
        served_names=["fake"],
        files=Snapshot.of(directory),
        max_body_bytes=10**6,
        max_queued_tokens=5000,
    )


@contextlib.asynccontextmanager
async def running(directory: Path = Path(), **overlap: object) -> AsyncIterator[Running]:
    engine = RevealingEngine(**overlap)  # type: ignore[arg-type]
    replica = replica_of(engine, directory)
    endpoint = Endpoint(
        dict,
        limits=RequestLimits(),
        max_body_bytes=10**6,
        max_held_bytes=10**7,
        timeout_s=60,
        tokenizer_threads=1,
        answered=lambda _: None,
    )
    listener = Listener(replica.app(endpoint), bind("127.0.0.1", 0))
    upstream = Upstream.open(connect_timeout_s=30, probe_timeout_s=30)
    batching = asyncio.create_task(replica.batcher.run())
    async with serving([listener], stop_timeout_s=1):
        try:
            yield Running(replica, engine, upstream, f"http://{listener.address}")
        finally:
            engine.go_on.set()
            batching.cancel()
            endpoint.close()
            upstream.close()


def by_id(frames: list[Frame]) -> dict[int, np.ndarray]:
    return {
        text_id: row
        for frame in frames
        for text_id, row in zip(frame.ids, frame.matrix(WIDTH), strict=True)
    }


async def test_each_text_of_a_call_gets_its_own_vector() -> None:
    """In frames as batches finish, in any order."""
    rng = np.random.default_rng(0)
    texts = [rng.integers(20, 999, rng.integers(1, 40)).tolist() for _ in range(50)]
    async with running() as here:
        frames = await here.ask(*texts)

    assert len(frames) > 1
    vectors = by_id(frames)
    assert sorted(vectors) == list(range(50))
    for number, ids in enumerate(texts):
        np.testing.assert_array_equal(vectors[number], vector_of(ids))


async def test_a_text_without_a_vector_fails_alone() -> None:
    """With its own code; the rest of the call is answered."""
    async with running() as here:
        (frame,) = await here.ask([20], [UNLUCKY], [30])

    assert [(failure.id, failure.code) for failure in frame.failures] == [(1, "invalid_vector")]
    assert sorted(frame.ids) == [0, 2]


@pytest.mark.parametrize("in_flight", [1, 2])
async def test_frames_grant_a_window_of_what_computes_and_one_batch_more(in_flight: int) -> None:
    async with running(in_flight=in_flight) as here:
        (frame,) = await here.ask([20])

    assert frame.window == (in_flight + 1) * here.engine.info.batch_tokens


async def test_a_text_that_computes_beside_batches_has_room_of_its_own_in_the_window() -> None:
    """While it is there: else it would keep those out of the replica that it does not hold up."""
    async with running(in_flight=2, long_beside=True) as here:
        (before,) = await here.ask([20, 21])
        here.engine.hold_from_tokens = 300
        here.engine.go_on.clear()
        long = asyncio.create_task(here.ask([20] * 300, key="long"))
        await until(lambda: here.engine.started == 2)
        (beside,) = await here.ask([20, 21], key="short")
        here.engine.go_on.set()
        (after,) = await long

    usual = 3 * here.engine.info.batch_tokens
    assert (before.window, beside.window, after.window) == (usual, usual + 300, usual)

    # What a gateway makes of it: half of the usual window is enough for the long text to get in,
    # and then the granted one has room for the batch that was there and another.
    batch = here.engine.info.batch_tokens
    load = Load("replica", before.window, batch, outstanding_tokens=batch)
    assert load.fits(300, now=0.0)
    load.take(300, 90_000)
    load.window_tokens = beside.window
    assert load.fits(batch, now=0.0)


async def test_two_gateways_share_the_window() -> None:
    """Each gets half, so that together they do not overload the replica."""
    async with running() as here:
        other = Upstream.open(connect_timeout_s=30, probe_timeout_s=30)
        ids = CallText(0, encoding_bytes(np.array([20])), False, 0)
        await here.ask([20])
        (frame,) = await frames_of(other, here.url, "k", [ids])
        other.close()

    assert frame.window == here.engine.info.batch_tokens


async def test_a_replica_describes_itself() -> None:
    """What a gateway must know before it sends anything."""
    async with running() as here:
        description = await here.upstream.describe(here.url)

    assert description.identity == IDENTITY
    assert (description.precision, description.device) == ("f32", "fake")
    assert all(coefficient >= 0 for coefficient in description.cost)


async def test_a_draining_replica_finishes_and_refuses() -> None:
    """What it has is answered; what is new gets 503 and goes elsewhere."""
    async with running() as here:
        here.engine.go_on.clear()
        first = asyncio.create_task(here.ask([20, 21]))
        await until(lambda: here.engine.started == 1)
        here.replica.draining = True

        with pytest.raises(DrainingError):
            await here.ask([30], key="second")
        assert not here.replica.idle
        here.engine.go_on.set()
        assert sorted(by_id(await first)) == [0]
        status, _ = await here.get("/health/ready")
        assert status == 503


async def test_a_call_may_not_have_the_key_of_another_in_progress() -> None:
    """To cancel by its name would take the other's texts."""
    async with running() as here:
        here.engine.go_on.clear()
        first = asyncio.create_task(here.ask([20], [21], key="same"))
        await until(lambda: here.engine.started == 1)
        with pytest.raises(ReplicaError, match="409"):
            await here.ask([30], key="same")

        here.engine.go_on.set()
        assert sorted(by_id(await first)) == [0, 1]
        assert sorted(by_id(*[await here.ask([30], key="same")])) == [0]


async def test_a_replica_tells_how_long_its_oldest_batch_has_been_computing() -> None:
    """And nothing while none is."""
    async with running() as here:
        assert (await here.upstream.describe(here.url)).oldest_batch_s is None
        here.engine.go_on.clear()
        first = asyncio.create_task(here.ask([20]))
        async with asyncio.timeout(60):
            while ((await here.upstream.describe(here.url)).oldest_batch_s or 0.0) < 0.2:
                await asyncio.sleep(0.05)

        here.engine.go_on.set()
        await first
        assert (await here.upstream.describe(here.url)).oldest_batch_s is None


async def test_a_gateway_that_leaves_takes_its_waiting_texts_along() -> None:
    """A closed connection cancels the call."""
    async with running() as here:
        here.engine.go_on.clear()
        first = asyncio.create_task(here.ask([20]))
        await until(lambda: here.engine.started == 1)
        second = asyncio.create_task(here.ask([30], [31], key="second"))
        await until(lambda: here.replica.batcher.waiting_texts == 2)

        second.cancel()
        await until(lambda: here.replica.batcher.waiting_texts == 0)
        here.engine.go_on.set()
        await first


async def test_texts_can_be_cancelled_one_by_one() -> None:
    """Until their batch starts; the call ends with those that are left."""
    async with running() as here:
        here.engine.go_on.clear()
        first = asyncio.create_task(here.ask([20]))
        await until(lambda: here.engine.started == 1)
        second = asyncio.create_task(here.ask([30], [31], [32], key="second"))
        await until(lambda: here.replica.batcher.waiting_texts == 3)
        await here.upstream.cancel(here.url, "second", [0, 2])
        here.engine.go_on.set()

        await first
        assert sorted(by_id(await second)) == [1]


@pytest.mark.parametrize(
    ("ids", "told"),
    [([1000], "token id of 1000"), ([-1], "token id of -1"), ([], "0 tokens"), ([5] * 513, "513")],
)
async def test_ids_that_the_model_lacks_are_refused(ids: list[int], told: str) -> None:
    """They never reach the engine, whoever sends them."""
    async with running() as here:
        with pytest.raises(ReplicaError, match=told):
            await here.ask(ids)

        assert here.engine.batches == []


async def test_more_than_may_wait_is_refused() -> None:
    """429 with a time; a gateway puts the texts back."""
    async with running() as here:
        here.engine.go_on.clear()
        calls = [asyncio.create_task(here.ask([20] * 500, key=str(n))) for n in range(14)]
        await until(
            lambda: sum(each.done() for each in calls) + here.replica._open_calls == len(calls)
        )
        here.engine.go_on.set()
        results = await asyncio.gather(*calls, return_exceptions=True)

    refused = [result for result in results if isinstance(result, DrainingError)]
    assert 0 < len(refused) < 5
    assert all("max_queued_tokens" in each.message for each in refused)
    assert all((each.retry_after_s or 0) >= 1 for each in refused)


def refused_after_s(replica: Replica) -> tuple[int, float]:
    """Tokens that wait in a full replica, and after how many seconds one may ask again."""

    def nowhere(_: BatchResult) -> None: ...

    jobs = [
        Job(number, np.full(500, 20, np.int32), Lane.BULK, None, 0.0, nowhere)
        for number in range(11)
    ]
    replica.submit(jobs[:10])
    with pytest.raises(OverloadedError) as refused:
        replica.submit(jobs[10:])
    return replica.batcher.waiting_tokens, refused.value.retry_after_s or 0.0


async def test_who_is_refused_may_come_back_when_what_waits_is_computed() -> None:
    """Counted as many texts, not as one that is as long as all together; a minute at most."""
    replica = replica_of(RevealingEngine())
    cost = CostModel(1.0, 0.002, 0.0)
    replica.batcher.cost = CostFit(cost)
    waiting, seconds = refused_after_s(replica)
    assert 1 < seconds < 60
    assert seconds == pytest.approx(cost.per_batch_s + waiting * cost.per_token_s)

    slow = replica_of(RevealingEngine())
    slow.batcher.cost = CostFit(CostModel(1.0, 1.0, 0.0))
    assert refused_after_s(slow)[1] == 60


async def test_texts_without_a_vector_are_counted_as_failed() -> None:
    """Of a batch that failed, and of one that gave a vector to the others."""
    async with running() as here:
        await here.ask([UNLUCKY], [20])
        with contextlib.suppress(ReplicaError):
            await here.ask([POISON], [20])
        _, page = await here.get("/metrics")

    assert 'embedfleet_replica_texts_total{outcome="succeeded"} 1.0' in page.decode()
    assert 'embedfleet_replica_texts_total{outcome="failed"} 3.0' in page.decode()


async def test_metrics_and_health_are_exposed() -> None:
    """By Prometheus' conventions."""
    async with running() as here:
        await here.ask([20, 21])
        _, page = await here.get("/metrics")
        status, _ = await here.get("/health/live")
        assert status == 200

    assert 'embedfleet_replica_texts_total{outcome="succeeded"} 1.0' in page.decode()
    assert "embedfleet_replica_tokens_total 2.0" in page.decode()
    assert "process_resident_memory_bytes" in page.decode()
    assert "embedfleet_replica_gpu_power_watts NaN" in page.decode()  # nobody measures it here


async def test_a_gateway_can_fetch_the_small_files_of_the_model(tmp_path: Path) -> None:
    """Those that exist of a fixed list; nothing else can be read."""
    model, copy = tmp_path / "model", tmp_path / "copy"
    (model / "1_Pooling").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "1_Pooling/config.json").write_text("[]")
    (model / "model.safetensors").write_text("secret")
    copy.mkdir()
    async with running(model) as here:
        await here.upstream.fetch_files(here.url, copy)
        for name in ("model.safetensors", "../model/config.json", "/etc/passwd"):
            status, _ = await here.get(f"/v1/replica/files/{name}")
            assert status == 404

    found = sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file())
    assert found == ["1_Pooling/config.json", "config.json"]


async def test_a_small_file_that_was_changed_is_not_handed_out(tmp_path: Path) -> None:
    """A gateway would put other prompts before the texts than the replica's own endpoint."""
    (tmp_path / "config.json").write_text("{}")
    async with running(tmp_path) as here:
        (tmp_path / "config.json").write_text("[1]")
        status, body = await here.get("/v1/replica/files/config.json")
        assert status == 409
        assert "config.json has changed" in orjson.loads(body)["error"]["message"]


async def test_an_unknown_route_or_method_is_answered_with_what_exists() -> None:
    """In OpenAI's error format."""
    async with running() as here, aiohttp.ClientSession(here.url) as session:
        async with session.get("/v2/nothing") as answer:
            assert answer.status == 404
            assert "/v1/embeddings" in (await answer.json())["error"]["message"]
        async with session.get("/v1/embeddings") as answer:
            assert answer.status == 405


async def until(condition: object, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.01)
