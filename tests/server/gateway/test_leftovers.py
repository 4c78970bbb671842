"""Requests are gone when they are over, without the collector of cycles.

It looks through the objects of a gateway seldom, and does not see that a few of them are large.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from embedfleet.transport.cancel_scope import WATCH_AFTER_S
from tests.loops import settle
from tests.transport.access.gateway import MODEL, Running, running

OURS = {"EmbeddingRequest", "Request", "Recollection", "HeldAnswer", "PackedText", "Job"}

BODIES: dict[str, dict[str, Any]] = {
    "answered": {"input": ["a text"] * 20},
    "too long": {"input": ["word " * 5000] * 20},
    "too long, one by one": {"input": ["word " * 5000, "a text"], "on_error": "item"},
    "of no such model": {"input": "a", "model": "other"},
    "of no such size": {"input": "a", "dimensions": 10**6},
    "of no such field": {"input": {"a": 1}},
    "too late": {"input": ["a text"] * 20, "deadline": "0.01"},
}


@pytest.fixture
def _uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def left() -> Counter[str]:
    """What only the collector frees, by its kind."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    return Counter(type(each).__name__ for each in gc.garbage)


async def asked(service: Running, body: dict[str, Any]) -> None:
    headers = {"x-request-deadline-ms": "1"} if "deadline" in body else {}
    sent = {"model": MODEL, **{key: value for key, value in body.items() if key != "deadline"}}
    url = f"{service.url}/v1/embeddings"
    async with service.http.post(url, json=sent, headers=headers) as answer:
        await answer.read()


@pytest.mark.usefixtures("_uncollected")
@pytest.mark.parametrize("kind", BODIES)
async def test_nothing_of_a_request_is_left(kind: str, tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        await asked(service, BODIES[kind])
        gc.collect()
        for _ in range(5):
            await asked(service, BODIES[kind])
        await settle(0.2)
        assert not OURS & left().keys()


@pytest.mark.usefixtures("_uncollected")
async def test_nothing_is_left_of_clients_that_leave(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        gc.collect()
        for number in range(6):
            leaving = asyncio.create_task(asked(service, {"input": ["a text, " * 30] * 300}))
            await asyncio.sleep(0.01 * number)
            leaving.cancel()
            await asyncio.wait([leaving])
        del leaving
        deadline = asyncio.get_running_loop().time() + 20
        while service.gateway.endpoint.active and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        await settle(0.2)
        assert not OURS & left().keys()


async def _slowly(body: bytes) -> AsyncIterator[bytes]:
    yield body[:-1]
    await asyncio.sleep(3 * WATCH_AFTER_S)
    yield body[-1:]


@pytest.mark.usefixtures("_uncollected")
async def test_nothing_is_left_of_a_request_that_takes_long(tmp_path: Path) -> None:
    """Such a one is watched, for its client may leave; the watch is gone with it."""
    async with running(tmp_path) as service:
        body = orjson.dumps({"model": MODEL, "input": ["a text"] * 20})
        gc.collect()
        for _ in range(3):
            url = f"{service.url}/v1/embeddings"
            headers = {"content-type": "application/json"}
            async with service.http.post(url, data=_slowly(body), headers=headers) as answer:
                assert answer.status == 200
                await answer.read()
        await settle(0.2)
        assert not (OURS | {"CancelScope"}) & left().keys()
