"""Admin routes of the autoscaler: recent decisions, pause, resume, manual scale, observations.

`embedfleet autoscale` and other gateways of the same pool read this JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import msgspec
import orjson

from embedfleet.autoscaling import Scaler, outcomes, recording
from embedfleet.server.gateway.scaling import Scaling
from embedfleet.transport.asgi import Request, Response, Route
from embedfleet.vocabulary import CallerError, MediaTypeError

MOST_BYTES = 4096

Order = TypeVar("Order", bound=msgspec.Struct)


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    """The body of an order."""

    pool: str | None = None
    replicas: int | None = None


def scaling_routes(scaling: Scaling) -> Mapping[tuple[str, str], Route]:
    """Decisions, orders and observations of this gateway."""
    routes = _Routes(scaling)
    return {
        ("GET", "/autoscaling"): routes.explain,
        ("GET", "/autoscaling/observations"): routes.observations,
        ("GET", "/observation"): routes.observation,
        ("POST", "/autoscaling/pause"): routes.pause,
        ("POST", "/autoscaling/resume"): routes.resume,
        ("POST", "/autoscaling/scale"): routes.scale,
    }


class _Routes:
    def __init__(self, scaling: Scaling) -> None:
        self._scaling = scaling

    async def explain(self, _request: Request) -> Response:
        """Every scaled pool with its last decisions, oldest first."""
        return _answer({"pools": [_pool(each) for each in self._scaling.scalers.values()]})

    async def observation(self, _request: Request) -> Response:
        """This gateway's observation of each pool; null is unknown."""
        return _answer({"pools": await self._scaling.observations()})

    async def observations(self, _request: Request) -> Response:
        """The last observations and orders of every scaled pool, oldest first, in the format of
        `embedfleet autoscale record`.
        """
        pools = [
            {
                "name": name,
                "settings": msgspec.to_builtins(recording.Settings.of(self._scaling.settings)),
                "observations": [orjson.Fragment(each) for each in lines],
            }
            for name, lines in self._scaling.recorded.items()
        ]
        return _answer({"pools": pools})

    async def pause(self, request: Request) -> Response:
        scaler, _ = await self._order(request)
        scaler.pause()
        return _answer(_pool(scaler))

    async def resume(self, request: Request) -> Response:
        scaler, _ = await self._order(request)
        scaler.resume()
        return _answer(_pool(scaler))

    async def scale(self, request: Request) -> Response:
        scaler, order = await self._order(request)
        if order.replicas is None:
            raise CallerError(
                "`replicas` is missing; it must be the wanted number of replicas", param="replicas"
            )
        scaler.pin(order.replicas)
        return _answer(_pool(scaler))

    async def _order(self, request: Request) -> tuple[Scaler, _Order]:
        order = await order_in(request, _Order, '{"replicas": 3}')
        return self._scaling.find(order.pool), order


async def order_in(request: Request, kind: type[Order], example: str) -> Order:
    """The order in a request's body. Raises CallerError that shows the example."""
    # A web page can post to this machine, but not JSON without a CORS preflight.
    told = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
    if told != "application/json":
        told = "unsupported media type: send content-type: application/json"
        raise MediaTypeError(told, code="unsupported_media_type")
    body = await request.body(MOST_BYTES)
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CallerError(f"invalid JSON body: {error}; expected for instance {example}") from error


def _answer(document: object) -> Response:
    return Response(orjson.dumps(document))


def _pool(scaler: Scaler) -> dict[str, Any]:
    settings = scaler.settings
    return {
        "name": scaler.pool,
        "mode": scaler.mode.value,
        "pinned": scaler.pinned,
        "min_replicas": settings.min_replicas,
        "max_replicas": settings.max_replicas,
        "standby": settings.standby,
        "alternatives": [asdict(each) for each in outcomes(scaler.experience)],
        "decisions": [asdict(each) for each in scaler.journal],
    }
