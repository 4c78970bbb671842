"""Authentication of routes and whole apps.

Health checks need no key: orchestrators and load balancers have none, and learn only that the
process is alive. Static pages need none either; the data that they fetch does.
"""

from __future__ import annotations

from collections.abc import Callable

from embedfleet.transport.access.access import Access, OpenAccess
from embedfleet.transport.asgi import (
    App,
    Receive,
    Request,
    Response,
    Route,
    Scope,
    Send,
    error_response,
    send_response,
)
from embedfleet.vocabulary import EmbedfleetError

OPEN = ("/health",)


def guarded(route: Route, access: Access) -> Route:
    """The route for callers with a good key, as far as the requests of the key go."""

    async def answer(request: Request) -> Response | None:
        opened = access.open(request.credentials)
        request.notes["key"] = opened.key
        try:
            return await route(request)
        finally:
            opened.close()

    return answer


def asking(access: Access) -> Callable[[Request], None] | None:
    """Authentication hook that runs before routing; None if authentication is disabled."""
    if isinstance(access, OpenAccess):
        return None

    def guard(request: Request) -> None:
        if request.path != "/" and not request.path.startswith((*OPEN, "/assets/")):
            opened = access.open(request.credentials)
            request.notes["key"] = opened.key
            opened.close()

    return guard


def behind(app: App, access: Access, free: tuple[str, ...] = OPEN) -> App:
    """The app behind authentication; the app itself where authentication is disabled."""
    return app if isinstance(access, OpenAccess) else Guarded(app, access, free)


class Guarded:
    """An app that wants one key for everything but the paths that begin with `free`."""

    def __init__(self, app: App, access: Access, free: tuple[str, ...]) -> None:
        self._app = app
        self._access = access
        self._free = free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(self._free):
            request = Request(scope, receive, send)
            try:
                self._access.open(request.credentials).close()
            except EmbedfleetError as error:
                await send_response(send, error_response(error), request.id)
                return
        await self._app(scope, receive, send)
