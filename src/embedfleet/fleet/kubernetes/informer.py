"""A list-and-watch cache of Kubernetes objects.

Follows the API's "efficient detection of changes" and client-go: continue from the version of the
last event or bookmark; resume a broken stream where it broke, with backoff while the server is
unreachable. Any other end of a watch triggers a new list: a version that is too old (410), or one
that the server does not have yet, as after its store was restored from a backup (504). A store that
was rolled back also shows in versions that decrease, and in watches that deliver nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from random import Random

from embedfleet.fleet.kubernetes.cluster import Cluster, ClusterError, Document, RetryPolicy

log = logging.getLogger(__name__)

WATCH_S = 300
"""After so many seconds the server ends a watch, so that a half-dead one is noticed."""
SILENT_S = 150.0
"""A watch that brought nothing in so long is of no version that the server knows: a bookmark comes
every minute."""
PAGE = 500
"""Objects of one page of a list, as kubectl requests them."""


class Collection:
    """One collection of an API server, followed."""

    def __init__(
        self, cluster: Cluster, path: str, selector: str, retry: RetryPolicy, rng: Random
    ) -> None:
        """`selector` chooses by labels, as `app=embedfleet`."""
        self._cluster = cluster
        self._path = path
        self._selector = selector
        self._retry = retry
        self._rng = rng
        self._objects: dict[str, Document] = {}
        self._version = ""
        """To go on from; empty when everything must be listed."""
        self._failures = 0

    async def states(self) -> AsyncIterator[dict[str, Document]]:
        """All objects by name, at first and after each change, for ever."""
        while True:
            try:
                if not self._version:
                    await self._list()
                    yield dict(self._objects)
                began, silent = asyncio.get_running_loop().time(), True
                async for event in self._watch():
                    silent = False
                    if self._take(event):
                        yield dict(self._objects)
                if silent and asyncio.get_running_loop().time() - began >= SILENT_S:
                    self._version = ""
                # It ended as watches do; a server that ends each at once is not asked all the time.
                await asyncio.sleep(self._retry.pause_s(1, self._rng))
            except ClusterError as error:
                await self._recover(error)

    async def _recover(self, error: ClusterError) -> None:
        if error.http is not None and error.http != 429:
            # A server that was reached says why: what it has must be listed. Expired is not even a
            # failure (too much happened since), but a server that says so at once, again and again,
            # must not be asked without a pause.
            self._version = ""
        self._failures += 1
        pause_s = self._retry.pause_s(self._failures, self._rng, error.retry_after_s)
        level = logging.INFO if error.expired else logging.WARNING
        log.log(
            level, "watching %s failed: %s; retrying in %.1f s", self._path, error.message, pause_s
        )
        await asyncio.sleep(pause_s)

    async def _list(self) -> None:
        objects: dict[str, Document] = {}
        query = {"labelSelector": self._selector, "limit": str(PAGE)}
        while True:
            page = await self._cluster.ask("GET", self._path, query=query)
            for item in page.get("items") or ():
                objects[item["metadata"]["name"]] = item
            meta = page.get("metadata") or {}
            if not meta.get("continue"):
                break
            query["continue"] = meta["continue"]
        self._objects, self._version = objects, str(meta.get("resourceVersion", ""))
        self._failures = 0

    async def _watch(self) -> AsyncIterator[Document]:
        query = {
            "labelSelector": self._selector,
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
        }
        async for event in self._cluster.watch(self._path, query):
            self._failures = 0
            yield event

    def _take(self, event: Document) -> bool:
        """Remember an event; return whether an object changed. ClusterError for an old version."""
        kind, item = event.get("type"), event.get("object") or {}
        meta = item.get("metadata") or {}
        name = meta.get("name", "")
        version = str(meta.get("resourceVersion", self._version))
        if _older(version, self._version):
            message = f"version {version} came after {self._version}: its store was restored"
            raise ClusterError(message, code=410)
        self._version = version
        if kind in {"ADDED", "MODIFIED"} and name:
            self._objects[name] = item
        elif kind == "DELETED":
            self._objects.pop(name, None)
        else:
            return False  # a bookmark: nothing changed up to its version
        return True


def _older(version: str, known: str) -> bool:
    """Whether a version is before another; they are numbers that grow with each change."""
    return version.isdecimal() and known.isdecimal() and int(version) < int(known)
