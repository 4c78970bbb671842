"""CORS: which web pages may call the service (https://fetch.spec.whatwg.org/#http-cors-protocol).

ASGI middleware that goes by the `origin` header. Credentials mode is never allowed: API keys travel
in a header of the request, and cookies or stored passwords mean nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from embedfleet.transport.asgi import App, Message, Receive, Scope, Send, first_headers

PREFLIGHT_S = 600
"""Seconds for which a browser need not ask again; Chromium takes up to two hours."""

SHOWN = (
    "x-request-id, retry-after, retry-after-ms, server-timing, x-should-retry, "
    "x-embedfleet-cache, x-embedfleet-overhead-ms, x-embedfleet-space, x-embedfleet-ignored, "
    "x-embedfleet-truncated, x-embedfleet-errors, x-embedfleet-shape, x-embedfleet-dtype, "
    "x-embedfleet-scale, x-embedfleet-usage, metadata, "
    + ", ".join(
        f"x-ratelimit-{which}-{what}"
        for what in ("requests", "tokens")
        for which in ("limit", "remaining", "reset")
    )
)
"""Headers of an answer that a page may read."""

_HEADER_NAMES = re.compile(rb"[A-Za-z0-9\-_, ]{0,2048}")


class Origins:
    """Origins whose pages may ask, as the settings name them."""

    def __init__(self, named: Collection[str]) -> None:
        """`named` are origins as browsers write them, `*`, or a host that begins with `*`."""
        self.all = "*" in named
        self._exact = frozenset(each.encode() for each in named if "*" not in each)
        self._below = tuple(
            re.compile(
                rb"[a-z0-9_-]+(\.[a-z0-9_-]+)*".join(
                    re.escape(part) for part in each.encode().split(b"*")
                )
            )
            for each in named
            if "*" in each and each != "*"
        )

    def __bool__(self) -> bool:
        return self.all or bool(self._exact or self._below)

    def __contains__(self, origin: object) -> bool:
        if self.all or origin in self._exact:
            return True
        return isinstance(origin, bytes) and any(each.fullmatch(origin) for each in self._below)


class Cors:
    """Tells browsers that pages of some origins may ask."""

    def __init__(self, app: App, origins: Collection[str]) -> None:
        """`origins` as `Origins` takes them."""
        self._app = app
        self._origins = Origins(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = first_headers(scope)
        allowed = self._allowed(headers.get(b"origin"))
        if allowed is None:
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            await self._answer_preflight(headers, allowed, send)
        else:
            await self._app(scope, receive, _adding(send, allowed))

    def _allowed(self, origin: bytes | None) -> list[tuple[bytes, bytes]] | None:
        """What every answer to a page of this origin says; None where it may not ask."""
        if origin is None:
            return None
        if self._origins.all:
            return [(b"access-control-allow-origin", b"*")]
        if origin in self._origins:
            return [(b"access-control-allow-origin", origin), (b"vary", b"origin")]
        return None

    async def _answer_preflight(
        self, headers: Mapping[bytes, bytes], allowed: list[tuple[bytes, bytes]], send: Send
    ) -> None:
        wanted = headers.get(b"access-control-request-headers", b"")
        names = wanted if _HEADER_NAMES.fullmatch(wanted) else b"authorization, content-type"
        added = [
            *allowed,
            (b"access-control-allow-methods", b"GET, POST, DELETE"),
            (b"access-control-allow-headers", names),
            (b"access-control-max-age", str(PREFLIGHT_S).encode()),
        ]
        await send({"type": "http.response.start", "status": 204, "headers": added})
        await send({"type": "http.response.body", "body": b""})


def _adding(send: Send, allowed: list[tuple[bytes, bytes]]) -> Send:
    added = [*allowed, (b"access-control-expose-headers", SHOWN.encode())]

    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return send_with
