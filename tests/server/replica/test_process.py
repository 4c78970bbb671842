"""How a replica process comes to its end, with an engine that reveals its texts."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import numpy as np
import pytest

from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.files import Snapshot
from embedfleet.models.source import resolve
from embedfleet.runtime.background import Background
from embedfleet.runtime.settings import Pool, ReplicaSettings, Settings
from embedfleet.server.replica.process import (
    ENGINE_HUNG,
    ENGINE_LOST,
    LoadedModel,
    LoadingApp,
    serve,
    stop_requested,
)
from embedfleet.transport.frames import CallText, encode_call, encoding_bytes
from embedfleet.transport.serving import Listener, bind, serving
from embedfleet.vocabulary import EngineLostError
from embedfleet.work import MEASURED
from tests.fakes.revealing_engine import RevealingEngine


class ClosedSomewhere(RevealingEngine):
    """Notes which thread closed it."""

    closed_by: int | None = None

    def close(self) -> None:
        self.closed_by = threading.get_ident()
        super().close()
        if self.lost:
            raise EngineLostError("the device is gone")


@dataclass
class Process:
    engine: ClosedSomewhere
    stop: asyncio.Event
    ended: asyncio.Task[int]
    session: aiohttp.ClientSession

    async def embed(self, *ids: int) -> int:
        """The status of the answer to a request of one text."""
        body = {"model": "builtin", "input": [list(ids)]}
        async with self.session.post("/v1/embeddings", json=body) as answer:
            return answer.status

    async def work(self, *ids: int) -> bytes:
        """The frames of a call of one text."""
        text = CallText(0, encoding_bytes(np.array(ids)), bulk=False, deadline_ms=0)
        call = encode_call("gateway", secrets.token_hex(8), [text])
        async with self.session.post("/v1/work", data=call) as answer:
            return await answer.read()

    async def exit_code(self) -> int:
        async with asyncio.timeout(60):
            return await self.ended


async def stopped(stop: asyncio.Event) -> None:
    await stop.wait()


@contextlib.asynccontextmanager
async def process(batch_timeout_s: float = 30.0) -> AsyncIterator[Process]:
    engine, stop, loading_app = ClosedSomewhere(), asyncio.Event(), LoadingApp()
    source = resolve("builtin", progress=False)
    description = describe(source.directory, name=source.name)
    files = Snapshot.of(source.directory)
    loaded = LoadedModel(description, Encoder(description), engine, files, 0.1)
    replica = ReplicaSettings(batch_timeout_s=batch_timeout_s)
    settings = Settings(pools=(Pool(model="builtin", replicas=1),), replica=replica)
    listener = Listener(loading_app, bind("127.0.0.1", 0))
    stopping = asyncio.create_task(stopped(stop))
    async with (
        serving([listener], stop_timeout_s=1),
        aiohttp.ClientSession(f"http://{listener.address}") as session,
    ):
        ended = asyncio.create_task(serve(loaded, settings, loading_app, stopping, None))
        await asyncio.sleep(0.01)
        yield Process(engine, stop, ended, session)
        stop.set()
        await ended


async def test_a_replica_whose_engine_is_lost_answers_and_exits_so_that_it_is_started_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It would live and answer probes, and never compute again."""
    async with process() as here:
        here.engine.lost = True
        assert await here.embed(20, 21) == 502
        assert await here.exit_code() == ENGINE_LOST == 1

    assert "the engine is lost; exiting" in caplog.text


async def test_a_stopped_replica_closes_its_engine_off_the_event_loop() -> None:
    """Closing waits for what the device still does."""
    async with process() as here:
        here.stop.set()
        assert await here.exit_code() == 0

    assert here.engine.closed_by not in {None, threading.get_ident()}


async def test_an_engine_lost_before_shutdown_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No text came that would have shown it."""
    async with process() as here:
        here.engine.lost = True
        here.stop.set()
        assert await here.exit_code() == ENGINE_LOST

    assert "the engine was lost before shutdown" in caplog.text


async def test_a_replica_whose_engine_hangs_answers_and_exits_with_a_code_of_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its HTTP would live on, and nothing would ever be computed again."""
    async with process(batch_timeout_s=2.0) as here:
        for number in range(MEASURED):
            assert b"replica_failed" not in await here.work(20, 21 + number)
        here.engine.go_on.clear()
        assert await here.embed(20, 99) == 502
        assert await here.exit_code() == ENGINE_HUNG == 3
        here.engine.go_on.set()

    assert "the engine hangs" in caplog.text


async def test_a_replica_that_is_slow_and_not_measured_yet_goes_on() -> None:
    """The first batches compile kernels."""
    async with process(batch_timeout_s=0.5) as here:
        here.engine.go_on.clear()
        slow = asyncio.create_task(here.work(20, 99))
        await asyncio.sleep(1.2)
        here.engine.go_on.set()
        assert b"replica_failed" not in await slow
        here.stop.set()
        assert await here.exit_code() == 0


async def test_a_replica_process_ends_when_a_bug_ends_one_of_its_loops(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As a gateway does: whoever started it starts it again, and nobody would start the loop."""

    async def broken() -> None:
        raise ZeroDivisionError("a bug")

    background, signalled = Background(), asyncio.Event()
    told = asyncio.create_task(stop_requested(signalled, background))
    background.start(broken(), "watching a key")
    async with asyncio.timeout(60):
        await told
    assert background.failed.is_set()
    assert "watching a key ended unexpectedly" in caplog.text
    await background.close()

    told = asyncio.create_task(stop_requested(signalled, Background()))
    signalled.set()
    async with asyncio.timeout(60):
        await told
