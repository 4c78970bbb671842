"""How a replica process comes to its end, with an engine that reveals its texts."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest

from embedfleet.model.description import describe
from embedfleet.model.source import resolve
from embedfleet.replica.process import ENGINE_LOST, Door, LoadedModel, serve
from embedfleet.serving import Listener, bind, serving
from embedfleet.settings import Pool, Settings
from embedfleet.vocabulary import EngineLostError
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

    async def exit_code(self) -> int:
        async with asyncio.timeout(10):
            return await self.ended


async def stopped(stop: asyncio.Event) -> None:
    await stop.wait()


@contextlib.asynccontextmanager
async def process() -> AsyncIterator[Process]:
    engine, stop, door = ClosedSomewhere(), asyncio.Event(), Door()
    source = resolve("builtin", progress=False)
    loaded = LoadedModel(describe(source.directory, name=source.name), engine, 0.1)
    settings = Settings(pools=(Pool(model="builtin", replicas=1),))
    listener = Listener(door, bind("127.0.0.1", 0))
    stopping = asyncio.create_task(stopped(stop))
    async with (
        serving([listener], stop_timeout_s=1),
        aiohttp.ClientSession(f"http://{listener.address}") as session,
    ):
        ended = asyncio.create_task(serve(loaded, settings, door, stopping, None))
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

    assert "nothing is computed any more" in caplog.text


async def test_a_replica_that_is_told_to_stop_closes_its_engine_beside_the_event_loop() -> None:
    """Closing waits for what the device still does."""
    async with process() as here:
        here.stop.set()
        assert await here.exit_code() == 0

    assert here.engine.closed_by not in {None, threading.get_ident()}


async def test_an_engine_that_was_lost_before_it_is_closed_is_told_as_such(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No text came that would have shown it."""
    async with process() as here:
        here.engine.lost = True
        here.stop.set()
        assert await here.exit_code() == ENGINE_LOST

    assert "the engine was lost before it was closed" in caplog.text
