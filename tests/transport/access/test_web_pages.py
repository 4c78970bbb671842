"""What web pages can do with a service that asks for no key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from embedfleet.runtime.settings import GatewaySettings, Settings
from embedfleet.transport.access.web_pages import NoPages, is_local_name
from embedfleet.transport.asgi import Message, Request, Response, Router
from tests.transport.access.gateway import MODEL, running

BODY = b'{"model": "small", "input": "a"}'


async def answer(_: Request) -> Response:
    return Response(b"{}")


async def status(*origins: str, by_name: bool = True, **headers: str) -> int:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    app = Router({("POST", "/"): answer}, guard=NoPages(origins, by_name=by_name))
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await app({"type": "http", "method": "POST", "path": "/", "headers": pairs}, receive, send)
    code: int = sent[0]["status"]
    return code


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:3000", "http://localhost:8080"]
)
async def test_a_page_of_another_origin_is_refused(origin: str) -> None:
    assert await status(origin=origin, host="127.0.0.1:8080") == 403


async def test_programs_send_no_origin_and_are_served() -> None:
    assert await status(host="127.0.0.1:8080") == 200
    assert await status(host="embeddings.example") == 200
    assert await status() == 200


async def test_named_origins_and_pages_of_the_address_itself_are_served() -> None:
    page = "https://page.example"
    assert await status(page, origin=page, host="127.0.0.1:8080") == 200
    assert await status("*", origin=page, host="127.0.0.1:8080") == 200
    assert await status(origin="http://127.0.0.1:8080", host="127.0.0.1:8080") == 200


async def test_dns_rebinding_does_not_make_a_same_origin() -> None:
    rebound = "evil.example:8080"
    assert await status(origin=f"http://{rebound}", host=rebound) == 403
    assert await status(host=rebound, by_name=False) == 403
    assert await status(host="localhost:8081", by_name=False) == 200


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1:8080", True),
        ("127.0.0.1", True),
        ("[::1]:8080", True),
        ("localhost", True),
        ("", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.nip.io", False),
        ("[evil.example]", False),
        ("\xff", False),
    ],
)
def test_a_host_name_that_can_not_be_rebound_is_accepted(host: str, local: bool) -> None:
    assert is_local_name(host.encode("latin-1")) is local


async def test_a_page_gets_nothing_computed_and_no_order_through_without_keys(
    tmp_path: Path,
) -> None:
    page = {"origin": "https://evil.example"}
    async with running(tmp_path) as service:
        before = len(service.engine.batches)
        url = f"{service.url}/v1/embeddings"
        async with service.http.post(url, data=BODY, headers=page) as answered:
            assert answered.status == 403
        assert len(service.engine.batches) == before
        async with service.http.post(f"{service.admin}/anything", headers=page) as answered:
            assert answered.status == 403
        rebound = {"host": "evil.example"}
        async with service.http.get(f"{service.admin}/fleet", headers=rebound) as answered:
            assert answered.status == 403
        async with service.http.post(url, data=BODY) as answered:
            assert answered.status == 200


async def test_a_named_page_may_ask_without_keys_too(tmp_path: Path) -> None:
    page = "https://page.example"
    settings = replace(Settings(), gateway=GatewaySettings(cors_origins=(page,)))
    async with running(tmp_path, settings) as service:
        url = f"{service.url}/v1/models/{MODEL}"
        async with service.http.get(url, headers={"origin": page}) as answered:
            assert answered.status == 200
            assert answered.headers["access-control-allow-origin"] == page
        preflight = {"origin": page, "access-control-request-method": "POST"}
        async with service.http.options(f"{service.url}/v1/embeddings", headers=preflight) as told:
            assert told.status == 204
