"""Reads and sets the replica count of a Deployment, and finds other autoscalers that target it.

Needs few permissions: `get` and `patch` on `deployments/scale`, `patch` on `pods`, `list` on
autoscalers.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from random import Random

from embedfleet.fleet.kubernetes.cluster import (
    Cluster,
    ClusterError,
    Document,
    RetryPolicy,
    retried,
)
from embedfleet.fleet.kubernetes.deletion_cost import ANNOTATION
from embedfleet.fleet.kubernetes.endpoints import NAME
from embedfleet.vocabulary import SettingError

TARGET = re.compile(rf"(?P<namespace>{NAME})/(?P<name>{NAME})")


def parse(text: str) -> tuple[str, str]:
    """Read `namespace/name`. Raises SettingError."""
    found = TARGET.fullmatch(text)
    if found is None:
        raise SettingError(
            f'"{text}" must have the form namespace/name, for instance embedfleet/engine'
        )
    return found["namespace"], found["name"]


class Deployment:
    """One Deployment of a cluster."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        retry: RetryPolicy | None = None,
        rng: Random | None = None,
    ) -> None:
        self.namespace = namespace
        self.name = name
        self._cluster = cluster
        self._retry = retry or RetryPolicy()
        self._rng = rng or Random()
        self._scale = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"

    def __str__(self) -> str:
        return f"Deployment {self.namespace}/{self.name}"

    async def replicas(self) -> int:
        """How many it is to have. Raises ClusterError."""
        scale = await self._asked(partial(self._cluster.ask, "GET", self._scale))
        return _replicas(scale, self)

    async def scale(self, replicas: int) -> int:
        """Say how many it is to have; return what holds now. Raises ClusterError.

        A merge patch of one number is idempotent and overwrites no other change.
        """
        body = {"spec": {"replicas": replicas}}
        scale = await self._asked(partial(self._cluster.ask, "PATCH", self._scale, body=body))
        return _replicas(scale, self)

    async def set_cost(self, pod: str, cost: int) -> None:
        """Tell how much a pod would be missed. One that is gone is not. Raises ClusterError."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}"
        body = {"metadata": {"annotations": {ANNOTATION: str(cost)}}}
        try:
            await self._asked(partial(self._cluster.ask, "PATCH", path, body=body))
        except ClusterError as error:
            if not error.missing:
                raise

    async def owners(self) -> list[str]:
        """Autoscalers that write the same number, as `Kind name`. Raises ClusterError."""
        return [owner async for owner in self._owners()]

    async def _owners(self) -> AsyncIterator[str]:
        within = f"namespaces/{self.namespace}"
        for path, kind in (
            (f"/apis/autoscaling/v2/{within}/horizontalpodautoscalers", "HorizontalPodAutoscaler"),
            (f"/apis/keda.sh/v1alpha1/{within}/scaledobjects", "ScaledObject"),
        ):
            try:
                found = await self._asked(partial(self._cluster.ask, "GET", path))
            except ClusterError as error:
                if error.missing:
                    continue  # the cluster has no such kind
                raise
            for item in found.get("items") or ():
                if self._is_target(item):
                    yield f"{kind} {item['metadata']['name']}"

    def _is_target(self, autoscaler: Document) -> bool:
        target = (autoscaler.get("spec") or {}).get("scaleTargetRef") or {}
        # A ScaledObject that names no kind means a Deployment.
        return target.get("name") == self.name and target.get("kind", "Deployment") == "Deployment"

    async def _asked(self, request: Callable[[], Awaitable[Document]]) -> Document:
        return await retried(request, self._retry, self._rng)


def _replicas(scale: Document, deployment: Deployment) -> int:
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or replicas < 0:
        raise ClusterError(f"{deployment} has an invalid number of replicas: {replicas!r}")
    return replicas
