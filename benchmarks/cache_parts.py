"""Parts of the cache by themselves: Redis in one round trip, bytes of a vector, what stays.

    python -m benchmarks.cache_parts redis PORT      64 texts from Redis, microseconds
    python -m benchmarks.cache_parts memory          bytes of memory of one vector
    python -m benchmarks.cache_parts admission       hit ratios beside LRU, and theine if here

Each prints one JSON object. A process of its own, so that nothing else is in its memory.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Protocol

from embedfleet.cache.memory import OVERHEAD_BYTES, MemoryTier

WIDTH = 1024
VALUE_BYTES = 4 * WIDTH + 20


def redis_round_trips(port: int) -> dict[str, float]:
    """64 texts at once, one after the other, and what Redis was asked for them."""
    import numpy as np  # noqa: PLC0415
    from redis import Redis  # noqa: PLC0415

    from embedfleet.cache.entry import pack, sealed  # noqa: PLC0415
    from embedfleet.cache.redis import open_redis  # noqa: PLC0415
    from embedfleet.cache.tiers import VectorCache  # noqa: PLC0415
    from embedfleet.runtime.settings import CacheSettings  # noqa: PLC0415

    url = f"redis://127.0.0.1:{port}"
    keys = [number.to_bytes(32, "big") for number in range(64)]
    vector = np.random.default_rng(0).standard_normal(WIDTH).astype(np.float32)

    async def measured() -> list[float]:
        tier = open_redis(CacheSettings(redis_url=url, redis_timeout_s=1.0))
        for key in keys:
            tier.store(key, sealed(key, pack(vector, 20, truncated=False)))
        while tier.counts.written < len(keys):
            await asyncio.sleep(0.01)
        Redis.from_url(url).config_resetstat()
        cache = VectorCache(MemoryTier(0), tier)
        seconds = []
        for _ in range(2000):
            began = time.perf_counter()
            found = await cache.fetch(keys, WIDTH)
            seconds.append(time.perf_counter() - began)
            if None in found:
                raise RuntimeError("a vector is missing")
        await tier.close()
        return sorted(seconds)

    import uvloop  # noqa: PLC0415

    seconds = uvloop.run(measured())
    calls: Any = Redis.from_url(url).info("commandstats")
    asked = {name: each["calls"] for name, each in calls.items() if "get" in name}
    return {
        "p50_us": statistics.median(seconds) * 1e6,
        "p99_us": seconds[len(seconds) * 99 // 100] * 1e6,
        "round_trips": asked.get("cmdstat_mget", 0) / 2000,
        "other_reads": float(asked.get("cmdstat_get", 0)),
    }


def memory_of_vectors() -> dict[str, float]:
    """What a process grows by for each vector, all tables included, beside what is counted: full to
    the brim, after as many others were let go.
    """
    import psutil  # noqa: PLC0415

    count = 60_000
    memory = MemoryTier(count * (VALUE_BYTES + OVERHEAD_BYTES))
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    for number in range(3 * count):
        key = number.to_bytes(32, "big")
        memory.put(key, os.urandom(VALUE_BYTES))
        if number % 2:
            memory.get(key)
    gc.collect()
    grown = (process.memory_info().rss - before) / len(memory)
    return {
        "bytes_per_vector": grown,
        "counted_per_vector": memory.bytes / len(memory),
        "numbers": 4.0 * WIDTH,
        "overhead": grown - VALUE_BYTES,
        "overhead_counted": float(OVERHEAD_BYTES),
    }


class _Cache(Protocol):
    def get(self, key: Any) -> object: ...
    def put(self, key: Any, value: bytes) -> None: ...


def _bytes_key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def _text_key(number: int) -> str:
    return _bytes_key(number).hex()


class _LeastRecentlyUsed:
    def __init__(self, entries: int) -> None:
        self._held: OrderedDict[bytes, bytes] = OrderedDict()
        self._entries = entries

    def get(self, key: bytes) -> object:
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        return None

    def put(self, key: bytes, value: bytes) -> None:
        self._held[key] = value
        if len(self._held) > self._entries:
            self._held.popitem(last=False)


class _Theine:
    """W-TinyLFU of the library theine, which counts entries and takes texts as keys."""

    def __init__(self, entries: int) -> None:
        from theine import Cache  # type: ignore[import-not-found]  # noqa: PLC0415

        self._cache: Any = Cache(entries)

    def get(self, key: str) -> object:
        value, known = self._cache.get(key)
        return value if known else None

    def put(self, key: str, value: bytes) -> None:
        self._cache.set(key, value)


def _zipf(rng: Random, distinct: int) -> Callable[[], int]:
    total, sums = 0.0, []
    for rank in range(1, distinct + 1):
        total += 1 / rank
        sums.append(total)
    return lambda: rng.choices(range(distinct), cum_weights=sums)[0]


def _asked(rng: Random, *, scan: bool) -> Iterator[int]:
    """Questions by Zipf's law; a corpus that is indexed once runs beside them."""
    draw = _zipf(rng, 50_000)
    new = 10**6
    for number in range(400_000):
        if scan and 100_000 <= number < 300_000 and number % 2:
            new += 1
            yield new
        else:
            yield draw()


def admission() -> dict[str, dict[str, float]]:
    """Hit ratios of questions with room for a tenth of them, and microseconds of one access."""
    entries = 5_000
    made: dict[str, tuple[Callable[[], _Cache], Callable[[int], object]]] = {
        "S3-FIFO (ours)": (lambda: MemoryTier(entries * (1 + OVERHEAD_BYTES)), _bytes_key),
        "LRU": (lambda: _LeastRecentlyUsed(entries), _bytes_key),
        "W-TinyLFU (theine)": (lambda: _Theine(entries), _text_key),
    }
    traces = {scan: list(_asked(Random(3), scan=scan)) for scan in (False, True)}
    results: dict[str, dict[str, float]] = {}
    for name, (make, key_of) in made.items():
        try:
            results[name] = {}
            for scan, trace in traces.items():
                cache, hits, asked = make(), 0, 0
                keys = [key_of(number) for number in trace]
                began = time.process_time()
                for number, key in zip(trace, keys, strict=True):
                    known = cache.get(key) is not None
                    if not known:
                        cache.put(key, b"v")
                    if number < 10**6:
                        asked, hits = asked + 1, hits + known
                spent = (time.process_time() - began) / len(trace) * 1e6
                kind = "beside_a_scan" if scan else "alone"
                results[name] |= {f"hit_ratio_{kind}": hits / asked, f"us_{kind}": spent}
        except ImportError:
            del results[name]
    return results


def main() -> None:
    what = sys.argv[1] if len(sys.argv) > 1 else ""
    found: object
    if what == "redis":
        found = redis_round_trips(int(sys.argv[2]))
    elif what == "memory":
        found = memory_of_vectors()
    elif what == "admission":
        found = admission()
    else:
        raise SystemExit(__doc__)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
