"""The routes of a gateway: one table for the public address, one for the admin address; and their
servers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from socket import socket
from urllib.parse import urlsplit

import orjson

from embedfleet.api import pages
from embedfleet.api.routes import contract_routes, meant, render_for
from embedfleet.runtime.telemetry.metrics import CONTENT_TYPE
from embedfleet.server.gateway.admin.cache import cache_routes
from embedfleet.server.gateway.admin.fleet import fleet_routes
from embedfleet.server.gateway.admin.overview import merged, overview
from embedfleet.server.gateway.admin.scaling import scaling_routes
from embedfleet.server.gateway.recording import AccessLog
from embedfleet.server.gateway.server import Gateway
from embedfleet.transport.access.guarded_routes import guarded
from embedfleet.transport.asgi import Follow, Request, Response, Router
from embedfleet.transport.content_encodings import expanded
from embedfleet.transport.headers import trusted_networks
from embedfleet.transport.serving import ClientLimits, Listener, serving
from embedfleet.transport.traced_routes import traced
from embedfleet.vocabulary import DrainingError, NoReplicaError, ReplicaState


def public_listeners(gateway: Gateway, sockets: Sequence[socket]) -> list[Listener]:
    """The public app with its access control, on every socket."""
    app = gateway.guards.public(public_app(gateway))
    return [Listener(app, each, gateway.guards.public_tls) for each in sockets]


def admin_listeners(gateway: Gateway, sockets: Sequence[socket]) -> list[Listener]:
    """The admin app with its access control, on every socket."""
    app = admin_app(gateway)
    return [Listener(app, each, gateway.guards.admin_tls) for each in sockets]


def served(
    gateway: Gateway, listeners: Sequence[Listener]
) -> AbstractAsyncContextManager[Callable[[], None]]:
    """Serve the listeners with the limits of the settings; see `serving`."""
    limits = gateway.settings.gateway
    return serving(
        listeners,
        stop_timeout_s=limits.drain_timeout_s,
        limits=ClientLimits.of(limits),
        answers=gateway.limits.answers,
    )


def public_app(gateway: Gateway) -> Router:
    """The routes for clients."""
    health = _Health(gateway)
    exact, prefixes = contract_routes(
        gateway.endpoint,
        partial(guarded, access=gateway.guards.callers),
        lambda route, name: traced(route, gateway.tracing, name),
    )
    exact |= {
        ("GET", "/health/live"): health.live,
        ("GET", "/health/ready"): health.ready,
        ("GET", "/health"): health.ready,
        ("GET", "/"): health.ready,
    }
    if gateway.batches is not None:
        exact |= gateway.batches.exact()
        prefixes |= gateway.batches.below()
    if gateway.settings.gateway.playground:
        exact |= {**pages.playground(), **pages.api()}
    return Router(
        exact,
        prefixes,
        _follow(gateway),
        guard=gateway.guards.of_callers,
        expand=expanded,
        compress_from=gateway.settings.gateway.compress_from_bytes,
        meant=meant,
        render=render_for,
    )


def _follow(gateway: Gateway) -> Follow | None:
    settings = gateway.settings
    if not settings.log.access:
        return None
    return AccessLog(trusted_networks(settings.gateway.trusted_proxies))


def admin_app(gateway: Gateway) -> Router:
    """The routes for operators, on an address of their own."""
    health, admin = _Health(gateway), _Admin(gateway)
    return Router(
        {
            ("GET", "/fleet"): admin.fleet,
            ("GET", "/metrics"): admin.metrics,
            ("GET", "/targets"): admin.targets,
            **fleet_routes(gateway.pools, gateway.batches),
            **scaling_routes(gateway.scaling),
            **cache_routes(gateway.cache, gateway.endpoint, gateway.workers),
            ("GET", "/health/live"): health.live,
            ("GET", "/health/ready"): health.ready,
            **pages.fleet(),
        },
        follow=_follow(gateway),
        guard=gateway.guards.of_operators,
        expand=expanded,
        compress_from=gateway.settings.gateway.compress_from_bytes,
    )


class _Health:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def live(self, _request: Request) -> Response:
        return Response(b'{"status":"live"}')

    async def ready(self, _request: Request) -> Response:
        """Ready if it is not draining and every pool has a ready replica."""
        if self._gateway.draining:
            raise DrainingError("draining")
        for pool in self._gateway.pools:
            if not pool.fleet.count(ReplicaState.READY):
                raise NoReplicaError(f"no replica of {pool.name} is ready", retry_after_s=1)
        if not self._gateway.ready():
            raise NoReplicaError("no pool has started", retry_after_s=1)
        return Response(b'{"status":"ready"}')


class _Admin:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._rendering = asyncio.Lock()

    async def fleet(self, _request: Request) -> Response:
        """The current state of every pool and replica."""
        document = overview(self._gateway, time.monotonic())
        if self._gateway.workers is not None:
            document = merged(document, await self._gateway.workers.ask("overview"))
        return Response(orjson.dumps(document))

    async def targets(self, _request: Request) -> Response:
        """The replicas in the format of Prometheus' HTTP service discovery."""
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
        """The Prometheus exposition; hundreds of replicas make thousands of lines."""
        gateway = self._gateway
        async with self._rendering:  # one at a time, and off the event loop
            gateway.observe()
            if gateway.workers is not None:
                text = await gateway.workers.exposition(gateway.metrics)
            else:
                text = await asyncio.to_thread(gateway.metrics.exposition)
        return Response(text, content_type=CONTENT_TYPE)
