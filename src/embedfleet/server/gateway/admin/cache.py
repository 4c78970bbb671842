"""Admin routes of the cache: its figures, and the orders to clear and to warm it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from embedfleet.api.endpoint import Endpoint
from embedfleet.cache.tiers import VectorCache
from embedfleet.server.gateway.caching import redis_of
from embedfleet.transport.asgi import Request, Response, Route
from embedfleet.vocabulary import CallerError

if TYPE_CHECKING:
    from embedfleet.server.gateway.workers.primary import Workers


def cache_routes(
    cache: VectorCache | None, endpoint: Endpoint, workers: Workers | None = None
) -> Mapping[tuple[str, str], Route]:
    """The routes that `embedfleet cache` uses."""

    async def stats(_request: Request) -> Response:
        figures = figures_of(_wanted(cache))
        if workers is not None and (held := await workers.ask("cache")):
            figures = summed(held)
        return Response(orjson.dumps(figures))

    async def clear(_request: Request) -> Response:
        memory, redis = await _wanted(cache).clear()
        if workers is not None:
            memory += sum(texts for texts, _ in await workers.ask("clear_cache"))
        return Response(orjson.dumps({"memory": memory, "redis": redis}))

    async def warm(request: Request) -> Response:
        if workers is not None and _wanted(cache).remote is None:
            raise CallerError(
                "each gateway process has its own memory cache (gateway.workers): only a cache "
                "in Redis can be warmed for all of them",
                code="no_cache",
            )
        _wanted(cache)
        return await endpoint.warm(request)

    return {
        ("GET", "/cache"): stats,
        ("POST", "/cache/clear"): clear,
        ("POST", "/cache/warm"): warm,
    }


def summed(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of several processes merged: numbers are added, others are the first's."""
    first = figures[0]
    return {
        key: summed([each[key] for each in figures])
        if isinstance(value, dict)
        else sum(each[key] for each in figures)
        if isinstance(value, int | float)
        else value
        for key, value in first.items()
    }


def figures_of(cache: VectorCache) -> dict[str, Any]:
    """All figures of a cache."""
    memory, counts, remote = cache.memory, cache.counts, redis_of(cache)
    redis = None
    if remote is not None:
        did = remote.counts
        redis = {
            "state": remote.state.value,
            "writing": remote.writing.value,
            "hits": counts.remote_hits,
            "misses": counts.remote_misses,
            "rejected": counts.rejected + did.odd,
            "unasked": did.unasked,
            "written": did.written,
            "refused": did.refused,
            "unwritten": did.unwritten,
            "deleted": did.deleted,
            "undeleted": did.undeleted,
            "failures": dict(did.failures),
            "queued_bytes": remote.queued_bytes,
        }
    return {
        "memory": {
            "texts": len(memory),
            "bytes": memory.bytes,
            "most_bytes": memory.most_bytes,
            "hits": counts.memory_hits,
            "misses": counts.memory_misses,
            "evicted": memory.evictions,
            "distrusted": counts.distrusted,
        },
        "redis": redis,
        "in_flight": counts.in_flight,
        "shared": counts.shared,
    }


def _wanted(cache: VectorCache | None) -> VectorCache:
    if cache is None:
        raise CallerError("this gateway has no cache: cache.memory_mib is 0", code="no_cache")
    return cache
