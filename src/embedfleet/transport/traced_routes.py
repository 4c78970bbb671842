"""Routes with a span around each answer."""

from __future__ import annotations

from embedfleet.runtime.telemetry.tracing import Tracing
from embedfleet.transport.asgi import Request, Response, Route


def traced(route: Route, tracing: Tracing | None, name: str, *, join: bool = False) -> Route:
    """The route with a span around each answer; the route itself where tracing is off."""
    if tracing is None:
        return route

    async def answer(request: Request) -> Response | None:
        span = tracing.begin(name, request, join=join)
        if span is None:
            return await route(request)
        with span:
            response = await route(request)
            if response is not None:
                span.answered(response.status)
        return response

    return answer
