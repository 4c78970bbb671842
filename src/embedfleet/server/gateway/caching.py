"""Builds a gateway's cache from its settings; exposes its statistics, metrics and admin routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from prometheus_client import Counter

from embedfleet.api.endpoint import Endpoint
from embedfleet.cache.breaker import State
from embedfleet.cache.memory import MemoryTier
from embedfleet.cache.tiers import VectorCache
from embedfleet.fleet.fleet import Fleet
from embedfleet.runtime.settings import CacheSettings
from embedfleet.runtime.telemetry.metrics import GatewayMetrics
from embedfleet.transport.asgi import Request, Response, Route
from embedfleet.vocabulary import CallerError

if TYPE_CHECKING:
    from embedfleet.cache.redis import RedisTier
    from embedfleet.server.gateway.workers.primary import Workers


def vector_cache(settings: CacheSettings, metrics: GatewayMetrics) -> VectorCache | None:
    """None where the settings want none. Raises SettingError."""
    remote: RedisTier | None = None
    if settings.redis_url is not None:
        # Only here: who has no Redis need not wait for its library to be loaded.
        from embedfleet.cache.redis import open_redis  # noqa: PLC0415

        remote = open_redis(settings, looked_up=metrics.cache_redis.observe)
    if not settings.memory_mib and remote is None:
        return None
    return VectorCache(MemoryTier(settings.memory_mib * 2**20), remote, numbers=settings.numbers)


def cache_routes(
    cache: VectorCache | None, endpoint: Endpoint, workers: Workers | None = None
) -> Mapping[tuple[str, str], Route]:
    """What `embedfleet cache` asks for at the admin address."""

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
    """The figures of several processes as one: numbers add up, any other is the first one's."""
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
    """Every figure of a cache, by its name."""
    memory, counts, remote = cache.memory, cache.counts, _redis(cache)
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


class CacheTrust:
    """What golden checks of one pool's replicas mean for the vectors that they left in a cache."""

    def __init__(self, cache: VectorCache, pool: str, fleet: Fleet) -> None:
        self._cache = cache
        self._pool = pool
        self._fleet = fleet

    def checking(self, url: str) -> None:
        for source in self._sources(url):
            self._cache.provenance.checking(source)

    def trusted(self, url: str) -> None:
        for source in self._sources(url):
            self._cache.provenance.trusted(source)

    async def distrusted(self, url: str) -> None:
        for source in self._sources(url):
            await self._cache.distrust(source)

    def _sources(self, url: str) -> list[str]:
        return [f"{self._pool}/{member.name}" for member in self._fleet if member.url == url]


class CacheCounter:
    """Brings what a cache counted into the metrics, just before these are read.

    Requests themselves only add to plain numbers.
    """

    def __init__(self, cache: VectorCache | None, metrics: GatewayMetrics) -> None:
        self._cache = cache
        self._metrics = metrics
        self._before: dict[Counter, float] = {}

    def observe(self) -> None:
        cache, metrics = self._cache, self._metrics
        if cache is None:
            return
        counts, memory = cache.counts, cache.memory
        texts = metrics.cache_texts.labels
        self._raise(texts("memory", "hit"), counts.memory_hits)
        self._raise(texts("memory", "miss"), counts.memory_misses)
        self._raise(metrics.cache_shared, counts.shared)
        self._raise(metrics.cache_evicted, memory.evictions)
        self._raise(metrics.cache_distrusted, counts.distrusted)
        metrics.cache_bytes.set(memory.bytes)
        metrics.cache_held.set(len(memory))
        remote = _redis(cache)
        if remote is not None:
            self._raise(texts("redis", "hit"), counts.remote_hits)
            self._raise(texts("redis", "miss"), counts.remote_misses)
            self._raise(texts("redis", "unasked"), remote.counts.unasked)
            self._raise(metrics.cache_rejected, counts.rejected + remote.counts.odd)
            for why, failures in remote.counts.failures.items():
                self._raise(metrics.cache_redis_failures.labels(why), failures)
            for result in ("written", "refused", "unwritten", "deleted", "undeleted"):
                made = getattr(remote.counts, result)
                self._raise(metrics.cache_writes.labels(result), made)
            self._raise(metrics.cache_written, remote.counts.written_bytes)
            metrics.cache_queued.set(remote.queued_bytes)
            for state in State:
                metrics.cache_redis_state.labels(state.value).set(remote.state is state)

    def _raise(self, counter: Counter, total: float) -> None:
        counter.inc(total - self._before.get(counter, 0))
        self._before[counter] = total


def _wanted(cache: VectorCache | None) -> VectorCache:
    if cache is None:
        raise CallerError("this gateway has no cache: cache.memory_mib is 0", code="no_cache")
    return cache


def _redis(cache: VectorCache) -> RedisTier | None:
    return cache.remote  # type: ignore[return-value]  # the only remote tier that there is
