"""A replica that is found lying takes its vectors out of the cache with it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from embedfleet.fleet.states import Event
from embedfleet.server.gateway.caching import CacheTrust
from tests.transport.access.gateway import MODEL, running


async def test_texts_of_a_replica_that_fails_its_check_are_computed_again(tmp_path: Path) -> None:
    """Not those that a good check has vouched for since."""
    async with running(tmp_path) as service, service.client() as client:
        (pool,) = service.gateway.pools
        (member,) = pool.fleet
        cache = service.gateway.cache
        assert cache is not None
        await client.embeddings.create(model=MODEL, input=["one", "two"])
        checks = CacheTrust(cache, pool.name, pool.fleet)
        checks.checking(member.url)
        checks.trusted(member.url)
        await client.embeddings.create(model=MODEL, input=["two", "three"])
        held = len(cache.memory)

        async with asyncio.timeout(60):
            checks.checking(member.url)
            await checks.distrusted(member.url)
        assert held == 3
        assert len(cache.memory) == 2
        assert cache.counts.distrusted == 1


async def test_of_a_replica_that_is_gone_no_keys_are_held(tmp_path: Path) -> None:
    """In a cluster every pod has a name of its own: their keys would add up for ever."""
    async with running(tmp_path) as service, service.client() as client:
        (pool,) = service.gateway.pools
        (member,) = pool.fleet
        cache = service.gateway.cache
        assert cache is not None
        await client.embeddings.create(model=MODEL, input="one")
        held = len(cache.provenance)
        pool.fleet.apply(member, Event.LOST, time.monotonic(), "its pod is gone")

        assert held == 1
        assert len(cache.provenance) == 0
