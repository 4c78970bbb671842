"""What a gateway's cache is made of, and what it tells."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from embedfleet.cache.memory import MemoryTier
from embedfleet.cache.tiers import VectorCache
from embedfleet.runtime.settings import CacheSettings
from embedfleet.runtime.telemetry.metrics import GatewayMetrics
from embedfleet.server.gateway.admin.cache import cache_routes, figures_of
from embedfleet.server.gateway.caching import CacheCounter, vector_cache
from embedfleet.vocabulary import CallerError
from tests.fakes.asking import MODEL, Asker, heard, request


def test_memory_is_on_by_default_and_zero_turns_it_off() -> None:
    made = vector_cache(CacheSettings(), GatewayMetrics())
    assert made is not None
    assert made.memory.most_bytes == 256 * 2**20
    assert vector_cache(CacheSettings(memory_mib=0), GatewayMetrics()) is None


def test_a_gateway_without_redis_does_not_load_its_library() -> None:
    """Nor an engine: its start and its memory are those of a small process."""
    program = (
        "import sys, embedfleet.server.gateway.process; "
        "print({'redis', 'openvino'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert done.stdout == b"set()\n"


async def test_redis_alone_is_a_cache_too() -> None:
    settings = CacheSettings(memory_mib=0, redis_url="redis://127.0.0.1:1")
    made = vector_cache(settings, GatewayMetrics())
    assert made is not None
    assert figures_of(made)["redis"]["state"] == "closed"
    await made.close()


async def test_counts_go_into_the_metrics_once(tmp_path: Path) -> None:
    cache, metrics = VectorCache(MemoryTier(2**20)), GatewayMetrics()
    counter, asker = CacheCounter(cache, metrics), Asker(tmp_path / "model", cache)
    await asker.ask(["a", "b"])
    counter.observe()
    await asker.ask(["a", "c"])
    counter.observe()
    counter.observe()
    shown = metrics.exposition().decode()
    assert 'embedfleet_cache_texts_total{result="hit",tier="memory"} 1.0' in shown
    assert 'embedfleet_cache_texts_total{result="miss",tier="memory"} 3.0' in shown
    assert "embedfleet_cache_held_texts 3.0" in shown
    assert re.search(r"embedfleet_cache_held_bytes [1-9]", shown)


async def test_an_operator_sees_clears_and_warms_it(tmp_path: Path) -> None:
    cache = VectorCache(MemoryTier(2**20))
    asker = Asker(tmp_path / "model", cache)
    routes = cache_routes(cache, asker.endpoint)

    async def ask(method: str, path: str, body: object = None) -> object:
        response = await routes[method, path](request(body, {}, None))
        assert response is not None
        return orjson.loads(response.body)

    warming = request({"model": MODEL, "input": ["a", "b"]}, {}, None)
    warmed = await routes["POST", "/cache/warm"](warming)
    assert warmed is not None
    assert heard(warmed).cache == "hit=0; miss=2"
    seen = await ask("GET", "/cache")
    assert isinstance(seen, dict)
    assert seen["memory"]["texts"] == 2
    assert seen["redis"] is None
    assert await ask("POST", "/cache/clear") == {"memory": 2, "redis": 0}
    assert (await asker.ask("a")).cache == "hit=0; miss=1"


async def test_without_a_cache_its_routes_say_so(tmp_path: Path) -> None:
    routes = cache_routes(None, Asker(tmp_path / "model", None).endpoint)
    with pytest.raises(CallerError, match=r"cache\.memory_mib"):
        await routes["GET", "/cache"](request({}, {}, None))
