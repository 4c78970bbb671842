"""A gateway in front of a gateway is an edge cache: it answers what it knows, come what may."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pybase64
import pytest

import embedfleet
from tests.cache.redis_server import RedisServer, redis_server
from tests.ports import free_port
from tests.processes import with_descendants
from tests.service import Service, started

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "06-edge-cache" / "edge.toml"
KNOWN = ["How are you today?", "长城有多长?", "The sea is blue."]
DEADLINE_S = 180.0


class Edge:
    """The example's gateway as a process, on ports of its own."""

    def __init__(self, config: Path, ports: tuple[int, int], log: Path) -> None:
        self.url, self.admin = (f"http://127.0.0.1:{port}" for port in ports)
        with log.open("a") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "embedfleet", "gateway", "--config", str(config)],
                stdout=sink,
                stderr=sink,
            )

    def ask(self, texts: list[str]) -> tuple[int, Any, str]:
        """Status, body and what the cache knew."""
        body = {"model": "builtin", "input": texts, "encoding_format": "base64"}
        return ask(self.url, body)

    def until_answered(self, texts: list[str]) -> tuple[int, Any, str]:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            with contextlib.suppress(OSError):
                answer = self.ask(texts)
                if answer[0] == 200:
                    return answer
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def stats(self) -> Any:
        with urllib.request.urlopen(f"{self.admin}/cache", timeout=60) as answer:  # noqa: S310
            return json.load(answer)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def ask(url: str, body: dict[str, Any]) -> tuple[int, Any, str]:
    request = urllib.request.Request(  # noqa: S310
        f"{url}/v1/embeddings", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, json.load(answer), answer.headers["x-embedfleet-cache"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), ""


def vectors(body: Any) -> np.ndarray:
    rows = [pybase64.b64decode(one["embedding"]) for one in body["data"]]
    return np.stack([np.frombuffer(row, "<f4") for row in rows])


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def configured(place: Path, inner: Service, redis: RedisServer, ports: tuple[int, int]) -> Path:
    """The example's settings with the addresses of this test."""
    text = EXAMPLE.read_text(encoding="utf-8")
    for old, new in (
        ("8090", str(ports[0])),
        ("8091", str(ports[1])),
        ('replica_urls = ["http://127.0.0.1:8080"]', f'replica_urls = ["{inner.root}"]'),
        ("redis://127.0.0.1:6379/0", redis.url),
        # A busy machine may take longer than a request should wait for Redis, and what is not
        # written in time is not written at all.
        ("redis_ttl_s", "redis_timeout_s = 10.0\nredis_ttl_s"),
        (
            "src/embedfleet/models/builtin",
            str(Path(embedfleet.__file__).parent / "models" / "builtin"),
        ),
    ):
        assert old in text
        text = re.sub(re.escape(old), new, text)
    config = place / "edge.toml"
    config.write_text(text, encoding="utf-8")
    return config


def test_known_texts_are_answered_while_the_inner_gateway_is_down(
    tmp_path: Path, redis: RedisServer
) -> None:
    """Also by an edge that was started again meanwhile; others get a clear 503."""
    ports = free_port(), free_port()
    with started("builtin", log=tmp_path / "inner.log", arguments=["--replicas", "1"]) as inner:
        config = configured(tmp_path, inner, redis, ports)
        edge = Edge(config, ports, tmp_path / "edge.log")
        try:
            _, first, _ = edge.until_answered(KNOWN)
            body = {"model": "builtin", "input": KNOWN, "encoding_format": "base64"}
            _, right, _ = ask(inner.root, body)
            # The edge brings what it is given to unit length: the last bit may differ.
            np.testing.assert_allclose(vectors(first), vectors(right), atol=1e-6)
            assert first["usage"] == right["usage"]
            deadline = time.monotonic() + DEADLINE_S
            while edge.stats()["redis"]["written"] < len(KNOWN):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            kill(inner)
            answered(edge, first)
            refused(edge)
        finally:
            edge.stop()
        again = Edge(config, ports, tmp_path / "edge.log")
        try:
            again.until_answered(KNOWN)
            answered(again, first)
            refused(again)
        finally:
            again.stop()


def kill(inner: Service) -> None:
    """With its replicas, as a machine that loses its power."""
    for each in with_descendants(inner.process.pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    inner.process.wait()


def answered(edge: Edge, first: Any) -> None:
    status, body, cache = edge.ask(KNOWN[::-1])
    assert (status, cache) == (200, f"hit={len(KNOWN)}; miss=0")
    assert [row["embedding"] for row in body["data"]] == (
        [row["embedding"] for row in first["data"]][::-1]
    )


def refused(edge: Edge) -> None:
    status, body, _ = edge.ask(["Nobody has asked this."])
    assert status == 503
    assert body["error"]["code"] == "no_replica"
    assert "no replica of builtin can be reached" in body["error"]["message"]
