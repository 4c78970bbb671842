"""A service that is too busy for everybody's first request."""

from __future__ import annotations

from embedfleet.transport.asgi import (
    App,
    Receive,
    Request,
    Scope,
    Send,
    error_response,
    send_response,
)
from embedfleet.vocabulary import OverloadedError


class BusyAtFirst:
    """An ASGI app around another one: the first request of each key is answered 429."""

    def __init__(self, app: App) -> None:
        self.refused: list[str] = []
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        key = request.header(b"authorization") or ""
        if key in self.refused:
            await self._app(scope, receive, send)
            return
        self.refused.append(key)
        await request.body(2**20)
        await send_response(send, error_response(OverloadedError("busy", retry_after_s=1)))
