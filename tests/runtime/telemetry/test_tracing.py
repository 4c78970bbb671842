"""Traces of a gateway and a replica over real sockets, kept in memory."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from embedfleet.api.endpoint import Endpoint
from embedfleet.api.formats.openai import RequestLimits
from embedfleet.models.description import describe
from embedfleet.models.files import Snapshot
from embedfleet.runtime.settings import Pool as PoolSettings
from embedfleet.runtime.settings import Settings, TracingSettings
from embedfleet.runtime.telemetry.tracing import Tracing, calling, carried, opened
from embedfleet.scheduling.delivery.pool import Pool
from embedfleet.server.gateway.app import public_app
from embedfleet.server.gateway.server import Gateway
from embedfleet.server.replica.service import Replica
from embedfleet.transport.asgi import Message, Request
from embedfleet.transport.serving import Listener, bind, serving
from embedfleet.vocabulary import ReplicaError, SettingError
from tests.fakes.revealing_engine import WIDTH, RevealingEngine
from tests.small_tokenizer import write_model

why = "takes the extra `tracing`"
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason=why)
export = pytest.importorskip("opentelemetry.sdk.trace.export", reason=why)
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter", reason=why)
trace = pytest.importorskip("opentelemetry.trace", reason=why)

TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT = "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{CLIENT}-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{CLIENT}-00"}

REQUEST, CALL, WORK = "POST /v1/embeddings", "call to a replica", "POST /v1/work"


@dataclass
class Traced:
    """A gateway with one replica, whose spans come together."""

    url: str
    engine: RevealingEngine
    pool: Pool
    exporter: Any
    session: aiohttp.ClientSession

    async def ask(self, *texts: str | list[int], headers: Mapping[str, str] | None = None) -> int:
        body = {"model": "small", "input": texts}
        url = f"{self.url}/v1/embeddings"
        async with self.session.post(url, json=body, headers=headers) as answer:
            await answer.read()
            return answer.status

    async def spans(self, name: str, count: int = 1) -> list[Any]:
        """The spans of this name, once there are so many: they end after the answer is out."""
        async with asyncio.timeout(60):
            while len(found := self.named(name)) < count:
                await asyncio.sleep(0.01)
        return found

    def named(self, name: str) -> list[Any]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


@contextlib.asynccontextmanager
async def traced(
    directory: Path, *, ratio: float = 1.0, gateway_too: bool = True
) -> AsyncIterator[Traced]:
    model = describe(write_model(directory / "small", hidden_size=WIDTH))
    exporter = memory.InMemorySpanExporter()
    tracing = Tracing(export.SimpleSpanProcessor(exporter), ratio=ratio, service="test")
    engine = RevealingEngine()
    engine.info = type(engine.info)(
        width=WIDTH,
        max_tokens=model.identity.max_tokens,
        vocabulary=model.identity.vocabulary,
        precision=engine.info.precision,
        device="fake",
        batch_tokens=64,
    )
    replica = Replica(
        engine,
        model.identity,
        served_names=["small"],
        files=Snapshot.of(model.directory),
        max_body_bytes=10**6,
        max_queued_tokens=5000,
    )
    endpoint = Endpoint(
        dict,
        limits=RequestLimits(),
        max_body_bytes=10**6,
        max_held_bytes=10**7,
        timeout_s=60,
        tokenizer_threads=1,
        answered=lambda _: None,
    )
    behind = Listener(replica.app(endpoint, tracing), bind("127.0.0.1", 0))
    pool = PoolSettings(
        served_names=("small",), replicas=0, replica_urls=(f"http://{behind.address}",)
    )
    gateway = Gateway(Settings(pools=(pool,)), tracing if gateway_too else None)
    front = Listener(public_app(gateway), bind("127.0.0.1", 0))
    batching = asyncio.create_task(replica.batcher.run())
    async with serving([behind, front], stop_timeout_s=1), aiohttp.ClientSession() as session:
        gateway.add_pool(pool, model)
        try:
            async with asyncio.timeout(60):
                while not gateway.ready():
                    await asyncio.sleep(0.01)
            exporter.clear()
            url = f"http://{front.address}"
            yield Traced(url, engine, gateway.pools[0], exporter, session)
        finally:
            engine.go_on.set()
            await gateway.close()
            batching.cancel()
            endpoint.close()


async def test_one_trace_spans_client_gateway_and_replica(tmp_path: Path) -> None:
    """A call with texts of one request is a part of it: each span is the next one's parent."""
    async with traced(tmp_path) as running:
        assert await running.ask("one text", "another", headers=SAMPLED) == 200
        (request,) = await running.spans(REQUEST)
        (call,) = await running.spans(CALL)
        (work,) = await running.spans(WORK)
    spans = (request, call, work)
    assert [f"{span.context.trace_id:032x}" for span in spans] == [TRACE] * 3
    assert f"{request.parent.span_id:016x}" == CLIENT
    assert call.parent.span_id == request.context.span_id
    assert work.parent.span_id == call.context.span_id
    assert [len(span.links) for span in spans] == [0, 0, 0]


async def test_spans_tell_sizes_and_times_and_never_what_a_text_says(tmp_path: Path) -> None:
    async with traced(tmp_path) as running:
        headers = {"authorization": "Bearer sk-secret", "x-embedfleet-lane": "bulk"}
        assert await running.ask("unmistakable", headers=headers) == 200
        (request,) = await running.spans(REQUEST)
        (call,) = await running.spans(CALL)
        (work,) = await running.spans(WORK)
    tokens = request.attributes["embedfleet.tokens"]
    assert tokens > 1
    assert dict(request.attributes) == {
        "embedfleet.lane": "bulk",
        "embedfleet.model": "small",
        "embedfleet.texts": 1,
        "embedfleet.tokens": tokens,
        "http.response.status_code": 200,
    }
    assert dict(call.attributes) == {
        "embedfleet.replica": "remote-0",
        "embedfleet.requests": 1,
        "embedfleet.texts": 1,
        "embedfleet.tokens": tokens,
    }
    assert dict(work.attributes) == {"embedfleet.texts": 1, "embedfleet.tokens": tokens}
    (batch,) = work.events
    assert batch.name == "batch finished"
    assert batch.attributes["embedfleet.texts"] == 1
    assert batch.attributes["embedfleet.queue_s"] >= 0
    assert batch.attributes["embedfleet.compute_s"] > 0
    shown = "".join(span.to_json() for span in (request, call, work))
    assert "unmistakable" not in shown
    assert "sk-secret" not in shown


async def test_a_call_for_several_requests_is_linked_to_each_of_them(tmp_path: Path) -> None:
    """It has no single parent, so that it is a trace of its own; the replica joins that one."""
    async with traced(tmp_path) as running:
        running.engine.go_on.clear()
        # More than the window: what comes next waits, and leaves in one call.
        long = asyncio.create_task(running.ask(*([60 + number] * 30 for number in range(20))))
        async with asyncio.timeout(60):
            while not running.pool.queued_texts:
                await asyncio.sleep(0.01)
            before = running.pool.waiting_tokens
            more = [asyncio.create_task(running.ask([41 + number])) for number in range(4)]
            while running.pool.waiting_tokens < before + len(more):
                await asyncio.sleep(0.01)
        running.engine.go_on.set()
        assert set(await asyncio.gather(long, *more)) == {200}
        requests = {span.context.span_id for span in await running.spans(REQUEST, 5)}
        async with asyncio.timeout(60):
            while not (mixed := [call for call in running.named(CALL) if call.links]):
                await asyncio.sleep(0.01)
        works = await running.spans(WORK, len(running.named(CALL)))
    for call in mixed:
        assert call.parent is None
        assert len(call.links) == call.attributes["embedfleet.requests"] > 1
        assert {link.context.span_id for link in call.links} <= requests
        (work,) = [each for each in works if each.parent.span_id == call.context.span_id]
        assert work.context.trace_id == call.context.trace_id


async def test_a_request_that_fails_says_so_by_its_status(tmp_path: Path) -> None:
    async with traced(tmp_path) as running:
        assert await running.ask("x", headers={"x-embedfleet-lane": "fast"}) == 400
        (request,) = await running.spans(REQUEST)
    assert request.attributes["http.response.status_code"] == 400
    assert request.status.status_code is trace.StatusCode.UNSET  # the caller's fault


async def test_a_request_that_we_fail_is_an_error(tmp_path: Path) -> None:
    async with traced(tmp_path) as running:
        running.engine.go_on.clear()
        assert await running.ask("x", headers={"x-request-deadline-ms": "100"}) == 504
        (request,) = await running.spans(REQUEST)
    assert request.attributes["http.response.status_code"] == 504
    assert request.status.status_code is trace.StatusCode.ERROR


async def test_a_broken_call_names_its_error_without_its_message() -> None:
    """What an error says may quote what a caller sent."""
    exporter = memory.InMemorySpanExporter()
    tracing = Tracing(export.SimpleSpanProcessor(exporter), ratio=1, service="test")
    request = tracing.begin(REQUEST, Request({"headers": []}, nothing, ignored), join=False)
    assert request is not None

    def broken() -> None:
        with calling("r", [request], texts=1, tokens=2):
            assert carried()["traceparent"].startswith("00-")
            raise ReplicaError("unmistakable")

    with pytest.raises(ReplicaError):
        broken()
    assert carried() == {}
    (call,) = exporter.get_finished_spans()
    assert call.attributes["error.type"] == "ReplicaError"
    assert call.status.status_code is trace.StatusCode.ERROR
    assert "unmistakable" not in call.to_json()


async def test_a_call_for_unrecorded_requests_inherits_nothing() -> None:
    """Its task is started by whichever request came last, and that one may be recorded."""
    exporter = memory.InMemorySpanExporter()
    tracing = Tracing(export.SimpleSpanProcessor(exporter), ratio=1, service="test")
    request = tracing.begin(REQUEST, Request({"headers": []}, nothing, ignored), join=False)
    assert request is not None

    async def call() -> dict[str, str]:
        with calling("r", [None], texts=1, tokens=2):
            return carried()

    with request:
        assert await asyncio.create_task(call()) == {}
        assert carried() != {}


async def nothing() -> Message:
    return {}


async def ignored(message: Message) -> None:
    pass


@pytest.mark.parametrize(
    ("ratio", "headers", "recorded"),
    [
        pytest.param(0.0, {}, 0, id="none of our own"),
        pytest.param(0.0, SAMPLED, 1, id="the caller wants it"),
        pytest.param(1.0, UNSAMPLED, 0, id="the caller does not"),
        pytest.param(1.0, {"traceparent": "nonsense"}, 1, id="nonsense is no decision"),
    ],
)
async def test_the_caller_decides_and_else_the_ratio(
    tmp_path: Path, ratio: float, headers: dict[str, str], recorded: int
) -> None:
    """What a gateway does not record, a replica does not either."""
    async with traced(tmp_path, ratio=ratio) as running:
        assert await running.ask("x", headers=headers) == 200
        await asyncio.sleep(0.1)
        for name in (REQUEST, CALL, WORK):
            assert len(await running.spans(name, recorded)) == recorded


async def test_a_replica_starts_no_trace_of_its_own(tmp_path: Path) -> None:
    async with traced(tmp_path, gateway_too=False) as running:
        assert await running.ask("x", headers=SAMPLED) == 200
        await asyncio.sleep(0.1)
        assert running.exporter.get_finished_spans() == ()


def test_tracing_is_off_by_default_and_loads_nothing() -> None:
    code = (
        "import sys, embedfleet.server.gateway.process, embedfleet.server.replica.process\n"
        "from embedfleet.runtime.settings import TracingSettings\n"
        "from embedfleet.runtime.telemetry.tracing import opened\n"
        "with opened(TracingSettings(), 'x') as tracing: assert tracing is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    assert run(code) == "[]"


def test_a_missing_extra_is_named_with_the_way_out() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from embedfleet.runtime.settings import TracingSettings\n"
        "from embedfleet.runtime.telemetry.tracing import opened\n"
        "from embedfleet.vocabulary import SettingError\n"
        "try:\n"
        "    with opened(TracingSettings(endpoint='http://127.0.0.1:1/v1/traces'), 'x'): pass\n"
        "except SettingError as error: print(error)"
    )
    assert "[tracing]" in run(code)


def test_an_endpoint_that_is_not_an_address_is_refused_by_name() -> None:
    with (
        pytest.raises(SettingError, match=r"tracing\.endpoint.*not an address"),
        opened(TracingSettings(endpoint="collector:4318"), "x"),
    ):
        pass


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()
