"""Keeps a fleet in step with the pods behind a Service, and finds the gateways behind another.

Observes the Service's EndpointSlices and applies the changes that `endpoints.py` decides. Whether a
pod gets traffic is then up to the prober, as for any other replica.
"""

from __future__ import annotations

import asyncio
import logging
import time
from random import Random

from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.fleet.kubernetes.cluster import Cluster, RetryPolicy
from embedfleet.fleet.kubernetes.endpoints import KnownReplica, Move, Service, endpoints, moves
from embedfleet.fleet.kubernetes.informer import Collection
from embedfleet.fleet.states import Event
from embedfleet.vocabulary import ReplicaState

log = logging.getLogger(__name__)

DRAIN_OWNER = "kubernetes"
"""Who lets a replica go whose pod terminates."""


class FleetSync:
    """Adds the pods of one Service to a fleet, and takes them out in time."""

    def __init__(
        self,
        fleet: Fleet,
        service: Service,
        cluster: Cluster,
        retry: RetryPolicy | None = None,
        rng: Random | None = None,
    ) -> None:
        self._fleet = fleet
        self._service = service
        self._slices = Collection(
            cluster,
            f"/apis/discovery.k8s.io/v1/namespaces/{service.namespace}/endpointslices",
            f"kubernetes.io/service-name={service.name}",
            retry or RetryPolicy(),
            rng or Random(),
        )
        self._members: dict[str, Member] = {}

    async def run(self) -> None:
        """Follow the Service until cancelled."""
        async for slices in self._slices.states():
            found = endpoints(slices.values(), self._service.port)
            known = {
                name: KnownReplica(member.url, DRAIN_OWNER in member.leaving)
                for name, member in self._members.items()
            }
            for move, name, url in moves(known, found):
                log.info("pod %s at %s: %s", name, url, move)
                self._move(move, name, url)

    def _move(self, move: Move, name: str, url: str) -> None:
        now = time.monotonic()
        if move is Move.LOSE:
            self._fleet.apply(self._members.pop(name), Event.LOST, now, "its pod is gone")
        elif move is Move.LEAVE:
            self._leave(self._members[name], now)
        elif name in self._members:
            member = self._members[name]
            self._fleet.readmit(member, DRAIN_OWNER, now, "its pod is ready again")
        else:
            self._members[name] = self._fleet.add(name, url, now)

    def _leave(self, member: Member, now: float) -> None:
        member.leaving.add(DRAIN_OWNER)
        if member.state is ReplicaState.STARTING:
            # Nothing was given to it; it joins afresh should it become ready.
            del self._members[member.name]
            self._fleet.apply(member, Event.LOST, now, "its pod was removed before it was ready")
            return
        self._fleet.apply(member, Event.DRAIN, now, "its pod is terminating or not ready")


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
