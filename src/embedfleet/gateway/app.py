"""The routes of a gateway: one table for callers, one for operators."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson

from embedfleet.telemetry.metrics import CONTENT_TYPE
from embedfleet.telemetry.tracing import traced
from embedfleet.vocabulary import DrainingError, NoReplicaError
from embedfleet.wire.asgi import Request, Response, Router

if TYPE_CHECKING:
    from embedfleet.gateway.server import Gateway


def public_app(gateway: Gateway) -> Router:
    """What callers reach."""
    endpoint, health = gateway.endpoint, _Health(gateway)
    return Router(
        {
            ("POST", "/v1/embeddings"): traced(
                endpoint.embeddings, gateway.tracing, "POST /v1/embeddings"
            ),
            ("GET", "/v1/models"): endpoint.list_models,
            ("GET", "/health/live"): health.live,
            ("GET", "/health/ready"): health.ready,
            ("GET", "/health"): health.ready,
        },
        {("GET", "/v1/models/"): endpoint.show_model},
    )


def admin_app(gateway: Gateway) -> Router:
    """What operators reach, on an address of its own."""
    health, admin = _Health(gateway), _Admin(gateway)
    return Router(
        {
            ("GET", "/fleet"): admin.fleet,
            ("GET", "/metrics"): admin.metrics,
            ("GET", "/targets"): admin.targets,
            ("GET", "/health/live"): health.live,
            ("GET", "/health/ready"): health.ready,
        }
    )


class _Health:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def live(self, _request: Request) -> Response:
        return Response(b'{"status":"live"}')

    async def ready(self, _request: Request) -> Response:
        """Ready for traffic: not draining, and every pool has a replica."""
        if self._gateway.draining:
            raise DrainingError("draining")
        for pool in self._gateway.pools:
            if not self._gateway.ready():
                raise NoReplicaError(f"no replica of {pool.name} is ready", retry_after_s=1)
        return Response(b'{"status":"ready"}')


class _Admin:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def fleet(self, _request: Request) -> Response:
        """Every pool and replica, as they are now."""
        now = time.monotonic()
        pools = [
            {
                "name": pool.name,
                "queued_texts": pool.queued_texts,
                "replicas": [
                    {
                        "name": member.name,
                        "url": member.url,
                        "state": member.state.value,
                        "for_s": round(now - member.since, 3),
                        "reason": member.reason,
                        "engine": member.description.device if member.description else None,
                    }
                    for member in pool.fleet
                ],
            }
            for pool in self._gateway.pools
        ]
        return Response(orjson.dumps({"pools": pools}))

    async def targets(self, _request: Request) -> Response:
        """The replicas as Prometheus' HTTP service discovery takes them."""
        found = [
            {
                "targets": [urlsplit(member.url).netloc],
                "labels": {
                    "pool": pool.name,
                    "replica": member.name,
                    "__scheme__": urlsplit(member.url).scheme,
                },
            }
            for pool in self._gateway.pools
            for member in pool.fleet
        ]
        return Response(orjson.dumps(found))

    async def metrics(self, _request: Request) -> Response:
        for pool in self._gateway.pools:
            pool.observe()
        metrics = self._gateway.metrics
        metrics.active_requests.set(self._gateway.endpoint.active)
        return Response(metrics.exposition(), content_type=CONTENT_TYPE)
