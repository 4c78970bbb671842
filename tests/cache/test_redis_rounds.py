"""How questions share connections, and what is counted. With a client that answers when it is told.

What a real server does with them is in test_redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from embedfleet.cache.breaker import FAILURES_TO_OPEN, State
from embedfleet.cache.memory import MemoryTier
from embedfleet.cache.redis import RedisTier, ignored
from embedfleet.cache.tiers import VectorCache
from embedfleet.runtime.settings import CacheSettings

WIDTH = 8


class Told(Redis):
    """Knows no key; answers once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()
        self.trouble: Exception | None = None
        self.asked: list[list[str]] = []

    async def mget(self, keys: Any, *_: Any) -> list[Any]:
        self.asked.append(keys)
        await self.may.wait()
        if self.trouble is not None:
            raise self.trouble
        return [None] * len(keys)


@pytest.fixture
async def client() -> AsyncIterator[Told]:
    async with Told() as client:
        yield client


def tier(client: Told, times: list[float] | None = None, **options: Any) -> RedisTier:
    settings = CacheSettings(**({"redis_timeout_s": 5.0, "redis_connections": 1} | options))
    return RedisTier(client, settings, looked_up=ignored if times is None else times.append)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_is_asked_while_the_only_connection_is_busy_is_asked_next(client: Told) -> None:
    remote = tier(client)
    first = asyncio.create_task(remote.fetch([b"a"]))
    await turns()
    second = asyncio.create_task(remote.fetch([b"b", b"c"]))
    await turns()
    assert len(client.asked) == 1
    client.may.set()
    assert [await first, await second] == [[None], [None, None]]
    assert [len(each) for each in client.asked] == [1, 2]


async def test_lookups_that_were_abandoned_say_nothing_about_redis(client: Told) -> None:
    """Neither that it is well nor that it is quick; and who came meanwhile is asked for."""
    times: list[float] = []
    remote = tier(client, times)
    client.may.set()
    client.trouble = OSError("gone")
    for _ in range(FAILURES_TO_OPEN - 1):
        assert await remote.fetch([b"a"]) is None
    left = asyncio.create_task(remote.fetch([b"a"]))
    await asyncio.sleep(0)
    left.cancel()
    await turns()
    assert (remote.state, times) == (State.CLOSED, [])
    assert await remote.fetch([b"b"]) is None
    assert remote.state is State.OPEN
    assert len(client.asked) == FAILURES_TO_OPEN


async def test_each_text_is_counted_once_whatever_became_of_it(client: Told) -> None:
    """Known, unknown, or not asked for: because there was trouble, no time, or no hope."""
    remote = tier(client, redis_timeout_s=0.5)
    cached = VectorCache(MemoryTier(2**20), remote)
    counts = cached.counts

    async def looked_up() -> tuple[int, int, int]:
        assert await cached.fetch([b"a", b"b"], WIDTH) == [None, None]
        return counts.remote_hits, counts.remote_misses, remote.counts.unasked

    assert await looked_up() == (0, 0, 2)  # it did not answer in time
    client.may.set()
    assert await looked_up() == (0, 2, 2)
    client.trouble = OSError("gone")
    for number in range(FAILURES_TO_OPEN):
        assert await looked_up() == (0, 2, 4 + 2 * number)
    assert remote.state is State.OPEN
    assert await looked_up() == (0, 2, 4 + 2 * FAILURES_TO_OPEN)
