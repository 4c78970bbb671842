"""What is measured of a gateway; one function per question.

Each gets a stage with fresh replicas and one gateway in front of them, and returns numbers. The
replicas are the emulated ones of `gateway_replica.py`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, cast

from benchmarks.gateway_contenders import Contender, Running
from benchmarks.gateway_load import Answered, Clients, request_bytes, spread, texts_body, wrk

HERE = Path(__file__).parent
QUERY_TOKENS = 20
BULK_TOKENS = 8000
TEXT: Final = "What is the capital of France, and how large is its metropolitan area today?"

WARM_UP_S = 11.0
"""embedfleet gives a replica that is new to it a quarter of its window at first, and the whole
after ten seconds. Others have made their first health checks after 2.5 s."""

Numbers = dict[str, float]


@dataclass(frozen=True)
class Stage:
    """Where a measurement takes place."""

    place: Path
    """For configurations and logs."""
    model: Path
    width: int
    seconds: float
    """How long to measure."""
    first_port: int = 19_000
    lanes: bool = False
    """Whether replicas put interactive texts first; third-party engines do not."""

    @property
    def gateway_port(self) -> int:
        return self.first_port + 50


@dataclass(frozen=True)
class Set:
    """A gateway with its replicas, running."""

    gateway: Running | None
    replicas: list[Running]
    port: int
    """Where to send requests."""


def _emulated(stage: Stage, port: int, speed: float) -> list[str]:
    command = [sys.executable, str(HERE / "gateway_replica.py"), "--port", str(port)]
    options = ["--model", str(stage.model), "--width", str(stage.width)]
    return [*command, *options, "--speed", str(speed), *(["--lanes"] if stage.lanes else [])]


def _real(stage: Stage, port: int) -> list[str]:
    """The built-in model on a thread of this processor."""
    config = stage.place / "replica.toml"
    config.write_text(
        '[engine]\nthreads = 1\n[[pools]]\nmodel = "builtin"\nserved_names = ["bench"]\n'
    )
    command = [sys.executable, "-m", "embedfleet", "replica", "builtin", "--port", str(port)]
    return [*command, "--config", str(config)]


@contextmanager
def running(stage: Stage, contender: Contender | None, speeds: Sequence[float]) -> Iterator[Set]:
    """Start replicas of these speeds and the gateway; without one, the first replica is asked.

    A speed that is negative makes it a real replica on a processor.
    """
    ports = [stage.first_port + number for number in range(len(speeds))]
    body = texts_body(1, QUERY_TOKENS)
    with ExitStack() as stack:
        replicas = []
        cores = spread(len(speeds), os.cpu_count() or 1)
        for port, speed, core in zip(ports, speeds, cores, strict=True):
            command = _real(stage, port) if speed < 0 else _emulated(stage, port, speed)
            replicas.append(Running(command, core, stage.place / f"replica-{port}.log"))
            stack.callback(replicas[-1].stop)
        for port, replica in zip(ports, replicas, strict=True):
            replica.wait_until_it_answers(f"http://127.0.0.1:{port}/v1/replica")
        if contender is None:
            yield Set(None, replicas, ports[0])
            return
        command = contender.command(stage.gateway_port, ports, stage.place)
        gateway = Running(command, 0, stage.place / f"{contender.name}.log")
        stack.callback(gateway.stop)
        url = f"http://127.0.0.1:{stage.gateway_port}/v1/embeddings"
        answer = gateway.wait_until_it_answers(url, body, contender.key(stage.place))
        if b'"embedding":"' not in answer:
            raise RuntimeError(f"{contender.name} answers {answer[:200]!r}")
        time.sleep(WARM_UP_S if contender.name == "embedfleet" and all(speeds) else 2.5)
        yield Set(gateway, replicas, stage.gateway_port)


def queries_beside_bulk(stage: Stage, contender: Contender) -> Numbers:
    """(a) Short queries at a steady rate while long documents saturate two GPUs."""
    with running(stage, contender, [1.0, 1.0]) as here:

        async def load() -> tuple[Answered, Answered, float]:
            clients, bulk_clients = Clients(here.port), Clients(here.port)
            query = request_bytes(texts_body(1, QUERY_TOKENS), lane="interactive")
            bulk = request_bytes(texts_body(1, BULK_TOKENS), lane="bulk")
            began = time.monotonic()
            length = stage.seconds + 3
            queries, documents = await asyncio.gather(
                clients.steady(query, 30, length), bulk_clients.saturate(bulk, 32, length)
            )
            return queries, documents, began

        queries, documents, began = asyncio.run(load())
        start, end = began + 3, began + 3 + stage.seconds
        measured = queries.between(start, end)
        tokens_per_s = documents.per_second(start, end) * BULK_TOKENS
        tokens_per_s += queries.per_second(start, end) * QUERY_TOKENS
        return {
            "query_p50_ms": measured.percentile_ms(50),
            "query_p99_ms": measured.percentile_ms(99),
            "tokens_per_s": tokens_per_s,
            "errors": float(queries.errors + documents.errors),
        }


UNEQUAL = (0.25, 0.75)
"""Speeds in H200s; small enough that these processors are not what limits them."""


def unequal_replicas(stage: Stage, contender: Contender | None, speeds: Sequence[float]) -> Numbers:
    """(b) Tokens per second of replicas of unequal speed, or of one that is asked directly."""
    with running(stage, contender, speeds) as here:

        async def load() -> tuple[Answered, float]:
            request = request_bytes(texts_body(16, 128), lane="bulk")
            began = time.monotonic()
            return await Clients(here.port).saturate(request, 48, stage.seconds + 3), began

        answered, began = asyncio.run(load())
        start, end = began + 3, began + 3 + stage.seconds
        tokens_per_s = answered.per_second(start, end) * 16 * 128
        return {"tokens_per_s": tokens_per_s, "errors": float(answered.errors)}


def single_texts(stage: Stage, contender: Contender, *, text: bool) -> Numbers:
    """(c) Requests of one text, as fast as one core of the gateway can; replicas cost nothing."""
    body = texts_body(1, QUERY_TOKENS).decode()
    if text:
        body = f'{{"model":"bench","input":"{TEXT}","encoding_format":"base64"}}'
    with running(stage, contender, [0.0, 0.0, 0.0]) as here:
        gateway = cast("Running", here.gateway)
        core = 1 if (os.cpu_count() or 1) > 1 else 0
        load = partial(wrk, here.port, body, stage.place, connections=64, core=core)
        key = contender.key(stage.place)
        load(seconds=2, key=key)
        before = gateway.cpu_s
        seen = load(seconds=stage.seconds, key=key)
        cpu_s = gateway.cpu_s - before
        return {
            "texts_per_s": seen.requests / seen.seconds,
            "cpu_us_per_text": cpu_s / max(1, seen.requests) * 1e6,
            "core_busy": cpu_s / seen.seconds,
            "p50_ms": seen.p50_ms,
            "p99_ms": seen.p99_ms,
            "errors": float(seen.errors),
            "memory_mib": gateway.memory_mib,
        }


def replica_dies(stage: Stage, contender: Contender) -> Numbers:
    """(d) One of three replicas is killed at half time: who notices, and for how long."""
    half = stage.seconds / 2
    with running(stage, contender, [1.0, 1.0, 1.0]) as here:

        async def kill() -> float:
            await asyncio.sleep(half)
            here.replicas[0].kill()
            return time.monotonic()

        async def load() -> tuple[Answered, Answered, float]:
            query = request_bytes(texts_body(1, QUERY_TOKENS))
            document = request_bytes(texts_body(1, 1000), lane="bulk")
            length = half + 10
            return await asyncio.gather(
                Clients(here.port).steady(query, 50, length),
                Clients(here.port).steady(document, 60, length),
                kill(),
            )

        queries, documents, killed = asyncio.run(load())
        before = queries.between(killed - half + 2, killed)
        after = queries.between(killed, killed + 10)
        return {
            "errors": float(queries.errors + documents.errors),
            "requests": float(len(queries.ok) + len(documents.ok)),
            "query_p99_ms_before": before.percentile_ms(99),
            "query_p99_ms_after": after.percentile_ms(99),
        }


def latency(stage: Stage, contender: Contender | None) -> Numbers:
    """(e) One query after the other, with pauses: what a gateway adds to a replica's own time."""
    with running(stage, contender, [0.0, 0.0]) as here:
        query = request_bytes(texts_body(1, QUERY_TOKENS))
        answered = asyncio.run(Clients(here.port).steady(query, 50, stage.seconds))
        return {
            "p50_ms": answered.percentile_ms(50),
            "p99_ms": answered.percentile_ms(99),
            "errors": float(answered.errors),
        }


def processors(stage: Stage, contender: Contender) -> Numbers:
    """(f) Queries at a steady rate beside bulk, over two real replicas of the built-in model."""
    with running(stage, contender, [-1.0, -1.0]) as here:

        async def load() -> tuple[Answered, Answered, float]:
            query = request_bytes(texts_body(1, QUERY_TOKENS), lane="interactive")
            bulk = request_bytes(texts_body(16, 256), lane="bulk")
            began = time.monotonic()
            length = stage.seconds + 3
            queries, documents = await asyncio.gather(
                Clients(here.port).steady(query, 10, length),
                Clients(here.port).saturate(bulk, 12, length),
            )
            return queries, documents, began

        queries, documents, began = asyncio.run(load())
        start, end = began + 3, began + 3 + stage.seconds
        measured = queries.between(start, end)
        return {
            "query_p50_ms": measured.percentile_ms(50),
            "query_p99_ms": measured.percentile_ms(99),
            "tokens_per_s": documents.per_second(start, end) * 16 * 256,
            "errors": float(queries.errors + documents.errors),
        }
