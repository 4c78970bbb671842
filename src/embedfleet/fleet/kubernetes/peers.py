"""Discovers the other gateways of a Service by the addresses of their pods."""

from __future__ import annotations

import asyncio
from random import Random

from embedfleet.fleet.kubernetes.cluster import Cluster, RetryPolicy
from embedfleet.fleet.kubernetes.endpoints import Service, endpoints
from embedfleet.fleet.kubernetes.informer import Collection


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
            RetryPolicy(),
            Random(),
        )
        self._urls: list[str] = []
        self._known = asyncio.Event()

    async def urls(self) -> list[str]:
        """Addresses of the others; waits until they were listed once."""
        await self._known.wait()
        return list(self._urls)

    async def run(self) -> None:
        """Follow the Service until cancelled."""
        async for slices in self._slices.states():
            found = endpoints(slices.values(), self._service.port)
            self._urls = [
                each.url for name, each in sorted(found.items()) if each.ready and name != self._me
            ]
            self._known.set()
