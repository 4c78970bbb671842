"""What a web page gets from a replica that asks for no key."""

from __future__ import annotations

import aiohttp
import pytest

from embedfleet.access import OpenAccess
from embedfleet.replica.process import Door, fronted
from embedfleet.serving import Listener, bind, serving


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
    listener = Listener(fronted(Door(), OpenAccess(), "127.0.0.1"), bind("127.0.0.1", 0))
    async with (
        serving([listener], stop_timeout_s=1),
        aiohttp.ClientSession() as client,
        client.get(f"{listener.url}/health/live", headers=headers) as answer,
    ):
        assert answer.status == status
