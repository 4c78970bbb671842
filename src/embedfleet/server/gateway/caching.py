"""A gateway's cache: construction from the settings, results of golden checks, and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter

from embedfleet.cache.breaker import State
from embedfleet.cache.memory import MemoryTier
from embedfleet.cache.tiers import VectorCache
from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.runtime.settings import CacheSettings
from embedfleet.runtime.telemetry.metrics import GatewayMetrics
from embedfleet.vocabulary import ReplicaState

if TYPE_CHECKING:
    from embedfleet.cache.redis import RedisTier


def vector_cache(settings: CacheSettings, metrics: GatewayMetrics) -> VectorCache | None:
    """The cache, or None if it is disabled. Raises SettingError."""
    remote: RedisTier | None = None
    if settings.redis_url is not None:
        # Imported here, so that gateways without Redis do not load its library.
        from embedfleet.cache.redis import open_redis  # noqa: PLC0415

        remote = open_redis(settings, looked_up=metrics.cache_redis.observe)
    if not settings.memory_mib and remote is None:
        return None
    return VectorCache(MemoryTier(settings.memory_mib * 2**20), remote, numbers=settings.numbers)


class CacheTrust:
    """Invalidates cached vectors of replicas that fail a golden check."""

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

    def follow(self, member: Member, _left: ReplicaState) -> None:
        """Listen to the fleet: of a replica that is gone nothing more is to be remembered."""
        if member.state is ReplicaState.GONE:
            self._cache.provenance.forget(self._source(member))

    def _sources(self, url: str) -> list[str]:
        return [self._source(member) for member in self._fleet if member.url == url]

    def _source(self, member: Member) -> str:
        return f"{self._pool}/{member.name}"


class CacheCounter:
    """Copies the cache's counters into the metrics when these are scraped; requests only increment
    plain integers.
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
        remote = redis_of(cache)
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


def redis_of(cache: VectorCache) -> RedisTier | None:
    return cache.remote  # type: ignore[return-value]  # the only remote tier that there is
