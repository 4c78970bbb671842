"""What a replica answers to whom: web pages, Prometheus, and others of the machine."""

from __future__ import annotations

from datetime import UTC, datetime

import aiohttp
import pytest

from embedfleet.server.replica.process import LoadingApp, fronted
from embedfleet.transport.access import KeyRing, OpenAccess
from embedfleet.transport.access.records import plain
from embedfleet.transport.serving import Listener, bind, serving


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:1"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example"}, 403),
    ],
)
async def test_a_replica_without_a_key_answers_no_page_and_no_foreign_name(
    headers: dict[str, str], status: int
) -> None:
    listener = Listener(fronted(LoadingApp(), OpenAccess(), "127.0.0.1"), bind("127.0.0.1", 0))
    async with (
        serving([listener], stop_timeout_s=1),
        aiohttp.ClientSession() as client,
        client.get(f"{listener.url}/health/live", headers=headers) as answer,
    ):
        assert answer.status == status


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/health/live", {}, 200),
        ("/metrics", {}, 503),  # nothing is loaded; Prometheus has no key of this start
        ("/metrics", {"host": "evil.example"}, 403),
        ("/metrics", {"origin": "http://evil.example"}, 403),
        ("/v1/replica", {}, 401),
        ("/v1/embeddings", {}, 401),
        ("/v1/embeddings", {"authorization": "Bearer key-of-this-start"}, 503),
    ],
)
async def test_a_replica_of_a_gateway_requires_its_key_except_for_health_and_metrics(
    path: str, headers: dict[str, str], status: int
) -> None:
    ring = KeyRing(plain(["key-of-this-start"], datetime.now(UTC), "test"))
    app = fronted(LoadingApp(), ring, "127.0.0.1", ours=True)
    listener = Listener(app, bind("127.0.0.1", 0))
    async with (
        serving([listener], stop_timeout_s=1),
        aiohttp.ClientSession() as client,
        client.get(f"{listener.url}{path}", headers=headers) as answer,
    ):
        assert answer.status == status
