"""What several gateways see, added up."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import web

from embedfleet.autoscaling import Observation
from embedfleet.server.gateway.in_cluster import PeerAggregator
from embedfleet.server.gateway.replicas.connections import Connections
from embedfleet.transport.untrusted import MOST_PAGE_BYTES
from embedfleet.vocabulary import ServiceError

OWN = Observation(
    1.0, 2, arriving_fast=10.0, arriving_slow=10.0, waiting_tokens=5.0, seconds=(4.0, 16.0)
)
OTHER = {
    "now": 12345.0,
    "ready": 3,
    "arriving_fast": 30.0,
    "arriving_slow": 20.0,
    "waiting_tokens": 7.0,
    "tokens_per_s": None,
    "seconds": [30, 20.5, 39.5],
    "memory_used": [],
    "clock": None,
    "planned": 3,
}


class Own:
    async def observe(self, now: float) -> Observation:
        return OWN


@contextlib.asynccontextmanager
async def beside(
    answer: object, status: int = 200
) -> AsyncIterator[tuple[PeerAggregator, list[Any]]]:
    """This gateway's observations beside another gateway that answers so."""
    asked: list[Any] = []

    async def observation(request: web.Request) -> web.Response:
        asked.append(request.headers.get("authorization"))
        body = answer if isinstance(answer, bytes) else orjson.dumps(answer)
        return web.Response(body=body, status=status, content_type="application/json")

    app = web.Application()
    app.router.add_get("/observation", observation)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def others() -> list[str]:
        return [url]

    connections = Connections(connect_timeout_s=20)
    yield PeerAggregator("p", Own(), others, connections, "key"), asked
    connections.close()
    await runner.cleanup()


async def test_traffic_and_work_of_gateways_add_up() -> None:
    async with beside({"pools": {"p": OTHER}}) as (source, asked):
        seen = await source.observe(99.0)

        assert (seen.arriving_fast, seen.arriving_slow, seen.waiting_tokens) == (40.0, 30.0, 12.0)
        assert seen.seconds == (30.0, 24.5, 55.5)
        assert seen.ready == 3
        assert math.isnan(seen.tokens_per_s)
        assert asked == ["Bearer key"]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"pools": {}}, 200),
        ({"pools": {"p": {**OTHER, "ready": "three"}}}, 200),
        ({"pools": {"p": {**OTHER, "seconds": 3}}}, 200),
        ({"pools": {"p": {**OTHER, "seconds": [1.0, "two"]}}}, 200),
        ({"pools": {"p": {"arriving_fast": 1.0}}}, 200),
        (b"<html>", 200),
        (b'{"pools": {"p": {"ready": "\xff"}}}', 200),
        (b"[" * 100_000, 200),
        ({"error": {}}, 401),
        ({}, 302),
    ],
)
async def test_a_gateway_that_tells_nothing_sensible_is_an_error(
    answer: object, status: int
) -> None:
    """Its traffic is unknown, so the number of replicas is held."""
    async with beside(answer, status) as (source, _):
        with pytest.raises(ServiceError, match="the gateway at http"):
            await source.observe(99.0)


async def test_a_gateway_that_is_not_there_is_an_error() -> None:
    async def others() -> list[str]:
        return ["http://127.0.0.1:9"]

    with pytest.raises(ServiceError, match="does not answer: Connection refused"):
        await PeerAggregator("p", Own(), others, Connections(connect_timeout_s=20)).observe(1.0)


async def test_of_an_answer_without_end_no_more_is_read_than_an_observation_has() -> None:
    async with beside(b" " * (MOST_PAGE_BYTES + 1)) as (source, _):
        with pytest.raises(ServiceError, match="has more than"):
            await source.observe(99.0)
