"""The other gateways of a Service, by the addresses of their pods.

A shell around `endpoints.py`. Refuses to know what they are asked.
"""

from __future__ import annotations

import asyncio
import logging
from random import Random

from embedfleet.kubernetes.cluster import Cluster, Patience
from embedfleet.kubernetes.endpoints import Service, endpoints
from embedfleet.kubernetes.following import Collection

log = logging.getLogger(__name__)


class Peers:
    """Gateways beside this one, kept true."""

    def __init__(self, cluster: Cluster, service: Service, me: str) -> None:
        """`me` is the name of this pod."""
        self._service = service
        self._me = me
        self._slices = Collection(
            cluster,
            f"/apis/discovery.k8s.io/v1/namespaces/{service.namespace}/endpointslices",
            f"kubernetes.io/service-name={service.name}",
            Patience(),
            Random(),
        )
        self._urls: list[str] = []
        self._known = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._follow())
        self._task.add_done_callback(_ended)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def urls(self) -> list[str]:
        """Addresses of the others; waits until they were listed once."""
        await self._known.wait()
        return list(self._urls)

    async def _follow(self) -> None:
        async for slices in self._slices.states():
            found = endpoints(slices.values(), self._service.port)
            self._urls = [
                each.url for name, each in sorted(found.items()) if each.ready and name != self._me
            ]
            self._known.set()


def _ended(task: asyncio.Task[None]) -> None:
    """It follows for ever; a bug that ends it must not pass in silence."""
    if not task.cancelled():
        log.critical("gateways are no longer followed. This is a bug.", exc_info=task.exception())
