"""Which web pages may ask, as browsers will read it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from embedfleet.transport.access.cors import Cors, Origins
from embedfleet.transport.asgi import Message, Request, Response, Router

ORIGIN = "https://example.org"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os",
}


async def answer(_: Request) -> Response:
    return Response(b"{}")


async def asked(
    origins: Sequence[str], method: str, path: str = "/v1/models", **headers: str
) -> tuple[int, dict[str, str]]:
    """Status and headers of the answer."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    app = Cors(Router({("GET", "/v1/models"): answer}), origins)
    pairs = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": pairs}
    await app(scope, receive, send)
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told


async def test_a_page_of_a_named_origin_may_ask_and_read_what_it_needs() -> None:
    status, told = await asked([ORIGIN], "GET", origin=ORIGIN)
    assert status == 200
    assert told["access-control-allow-origin"] == ORIGIN
    assert told["vary"] == "origin"
    assert "x-ratelimit-remaining-tokens" in told["access-control-expose-headers"]
    assert "x-request-id" in told["access-control-expose-headers"]


async def test_its_preflight_is_answered_with_the_headers_that_it_wants_to_send() -> None:
    status, told = await asked([ORIGIN], "OPTIONS", origin=ORIGIN, **PREFLIGHT)
    assert status == 204
    assert "content-length" not in told  # RFC 9110, 8.6
    assert told["access-control-allow-origin"] == ORIGIN
    assert told["access-control-allow-methods"] == "GET, POST, DELETE"  # all that routes have
    assert told["access-control-allow-headers"] == PREFLIGHT["access-control-request-headers"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://example.org.evil.com",
        "http://example.org",
        "https://example.org:444",
        "https://sub.example.org",
        "null",
        "*",
    ],
)
async def test_any_other_origin_gets_no_cors_headers(origin: str) -> None:
    for method, headers in (("GET", {}), ("OPTIONS", PREFLIGHT)):
        _, told = await asked([ORIGIN], method, origin=origin, **headers)
        assert not [name for name in told if name.startswith("access-control")]


async def test_a_star_is_every_origin() -> None:
    _, told = await asked(["*"], "GET", origin=ORIGIN)
    assert told["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("origins", [[ORIGIN], ["*"]])
async def test_browsers_are_never_asked_to_send_cookies_along(origins: list[str]) -> None:
    for method, headers in (("GET", {}), ("OPTIONS", PREFLIGHT)):
        _, told = await asked(origins, method, origin=ORIGIN, **headers)
        assert "access-control-allow-credentials" not in told


async def test_errors_can_be_read_by_the_page_too() -> None:
    status, told = await asked([ORIGIN], "GET", "/none", origin=ORIGIN)
    assert status == 404
    assert told["access-control-allow-origin"] == ORIGIN


async def test_clients_other_than_browsers_see_no_difference() -> None:
    _, told = await asked([ORIGIN], "GET")
    assert not [name for name in told if name.startswith("access-control") or name == "vary"]


async def test_nothing_but_names_of_headers_is_sent_back() -> None:
    headers = PREFLIGHT | {"access-control-request-headers": "a\r\nset-cookie: b"}
    _, told = await asked([ORIGIN], "OPTIONS", origin=ORIGIN, **headers)
    assert told["access-control-allow-headers"] == "authorization, content-type"


@pytest.mark.parametrize(
    ("named", "origin", "allowed"),
    [
        ("app://obsidian.md", b"app://obsidian.md", True),
        ("null", b"null", True),
        ("https://*.example.org", b"https://a.b.example.org", True),
        ("https://*.example.org", b"https://example.org", False),
        ("https://*.example.org", b"https://evil.org/.example.org", False),
        ("https://*.example.org", b"https://evilexample.org", False),
        ("https://*.example.org", b"http://a.example.org", False),
        ("https://*.example.org", b"https://a.example.org:444", False),
        ("vscode-webview://*", b"vscode-webview://1a2b", True),
        ("vscode-webview://*", b"http://1a2b", False),
    ],
)
def test_an_origin_matches_as_it_is_named(named: str, origin: bytes, *, allowed: bool) -> None:
    assert (origin in Origins([named])) is allowed
