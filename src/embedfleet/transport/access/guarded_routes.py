"""Authentication of routes and whole apps.

Health checks need no key: orchestrators and load balancers have none, and learn only that the
process is alive. Static pages need none either; the data that they fetch does.
"""

from __future__ import annotations

from embedfleet.transport.access.access import Access, OpenAccess
from embedfleet.transport.asgi import (
    App,
    Guard,
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
    """The route for callers with a valid key, within the limits of the key."""

    async def answer(request: Request) -> Response | None:
        opened = access.open(request.credentials)
        request.notes["key"] = opened.key
        try:
            return await route(request)
        finally:
            opened.close()

    return answer


def key_guard(
    access: Access, below: tuple[str, ...] = (*OPEN, "/assets/"), paths: tuple[str, ...] = ("/",)
) -> Guard | None:
    """A guard that requires a valid key for everything but `paths` and what is `below` others; None
    where authentication is disabled.
    """
    if isinstance(access, OpenAccess):
        return None

    def guard(request: Request) -> None:
        if request.path not in paths and not request.path.startswith(below):
            opened = access.open(request.credentials)
            request.notes["key"] = opened.key
            opened.close()

    return guard


def behind(app: App, guard: Guard | None) -> App:
    """The app behind a guard, where no router has it; the app itself without one."""
    return app if guard is None else Guarded(app, guard)


class Guarded:
    """An app behind a guard: requests that the guard refuses do not reach it."""

    def __init__(self, app: App, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope, receive, send)
            try:
                self._guard(request)
            except EmbedfleetError as error:
                await send_response(send, error_response(error), request.id)
                return
        await self._app(scope, receive, send)
