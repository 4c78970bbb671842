"""Web pages: a playground and the API for clients, the fleet for operators at the admin address.

Static files without a build step or external resources: a strict content security policy lets a
page load scripts from, and send requests to, its own address only. The pages need no key, since
they hold no data; the requests they send do.

The API is shown by Swagger UI (Apache-2.0): `files/swagger-ui` holds files of the npm package
`swagger-ui-dist`, unchanged, which a test verifies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

from embedfleet.transport.asgi import Request, Response, Route

ASSETS: Final = "/assets/"

_KINDS: Final = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
}
_POLICY: Final = b"; ".join(
    (
        b"default-src 'none'",
        b"script-src 'self'",
        b"style-src 'self'",
        b"worker-src 'self'",
        b"connect-src 'self'",
        b"img-src 'self' data:",
        b"base-uri 'none'",
        b"form-action 'none'",
        b"frame-ancestors 'none'",
    )
)
_HEADERS: Final = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
)

Routes = Mapping[tuple[str, str], Route]


def playground() -> Routes:
    """The routes of the page on which texts are tried."""
    return _routes("/", "playground.html", ("playground.js", "compute.js"))


def api() -> Routes:
    """The routes of the page that shows the API."""
    library = ("swagger-ui/swagger-ui-bundle.js", "swagger-ui/swagger-ui.css")
    return _routes("/docs", "docs.html", ("docs.js", "docs.css", *library))


def fleet() -> Routes:
    """The routes of the page that shows the fleet."""
    return _routes("/", "fleet.html", ("fleet.js",))


def _routes(path: str, page: str, parts: tuple[str, ...]) -> Routes:
    shared = ("pages.css", "asking.js", "words.js")
    assets = {("GET", ASSETS + name): _route(name) for name in (*parts, *shared)}
    return {("GET", path): _route(page), **assets}


def _route(name: str) -> Route:
    """The file, read once; answered 304 if the browser has it already."""
    content = files(__name__).joinpath("files", name).read_bytes()
    tag = b'"%b"' % hashlib.sha256(content).hexdigest()[:16].encode()
    kind = _KINDS[name[name.rindex(".") :]]
    headers = (*_HEADERS, (b"etag", tag))

    async def answer(request: Request) -> Response:
        if request.header(b"if-none-match") == tag.decode():
            return Response(b"", 304, kind, headers)
        return Response(content, 200, kind, headers)

    return answer
