"""An API server of Kubernetes, small: objects with versions, watches, merge patches, `scale`.

What is true of the real one where it matters here: each change has a version of its own; a write
of an older version is refused (409); a watch goes on from a version, and one that is forgotten gets
410 as an event; a list can come in pages; `scale` is another view of a Deployment. Faults are what
a test asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

Document = dict[str, Any]

OBJECT_KINDS = {
    "endpointslices": ("discovery.k8s.io/v1", "EndpointSlice"),
    "leases": ("coordination.k8s.io/v1", "Lease"),
    "deployments": ("apps/v1", "Deployment"),
    "pods": ("v1", "Pod"),
    "horizontalpodautoscalers": ("autoscaling/v2", "HorizontalPodAutoscaler"),
    "scaledobjects": ("keda.sh/v1alpha1", "ScaledObject"),
}


@dataclass
class Fault:
    """What goes wrong with requests whose method and path fit."""

    method: str
    part: str
    """Of the path."""
    status: int = 0
    """To answer; 0 breaks the connection."""
    times: int = 1
    retry_after: str = ""


@dataclass
class ApiServer:
    """Objects, and what is said of them; fields are what a test may change while it runs."""

    collections: dict[str, dict[str, Document]] = field(default_factory=dict)
    """By path of the collection, then by name."""
    absent: set[str] = field(default_factory=set)
    """Kinds that the cluster does not have, such as `scaledobjects` without KEDA."""
    faults: list[Fault] = field(default_factory=list)
    asked: list[tuple[str, str, Document | None]] = field(default_factory=list)
    """Every request: method, path with query, body."""
    version: int = 100
    forgotten: int = 0
    """Versions up to this one can't be gone on from."""
    url: str = ""
    page: int = 0
    """Objects of a page at most, whatever is asked for; 0 for no limit."""
    watches: int = 0
    """Open ones."""
    token: str = ""
    """What clients must bring; empty lets everybody in."""
    waits_for_versions: bool = False
    """Whether a watch of a version that is not there yet waits for it, in silence. Servers whose
    watches come from a cache refuse it (504)."""

    def __post_init__(self) -> None:
        self._events: deque[tuple[int, int, str, Document]] = deque()
        self._serial = 0
        """Of events; it only grows, whatever becomes of versions."""
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()

    # -- what tests do -----------------------------------------------------------------

    def put(self, path: str, item: Document) -> Document:
        """Create or change an object, as another client would."""
        *_, kind = path.rsplit("/", 1)
        api, name_of_kind = OBJECT_KINDS[kind]
        item = {"apiVersion": api, "kind": name_of_kind, **copy.deepcopy(item)}
        held = self.collections.setdefault(path, {})
        name = item["metadata"]["name"]
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self._tell("MODIFIED" if name in held else "ADDED", path, item)
        held[name] = item
        return item

    def remove(self, path: str, name: str) -> None:
        item = self.collections[path].pop(name)
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self._tell("DELETED", path, item)

    def bookmark(self, path: str) -> None:
        """Tell every watch the current version, as is done about once a minute."""
        self.version += 1
        api, kind = OBJECT_KINDS[path.rsplit("/", 1)[1]]
        item = {"apiVersion": api, "kind": kind, "metadata": {"resourceVersion": str(self.version)}}
        self._tell("BOOKMARK", path, item)

    def forget(self) -> None:
        """Compact: no watch can go on from before now."""
        self.forgotten = self.version
        self._events.clear()

    def restore(self, collections: dict[str, dict[str, Document]], version: int) -> None:
        """As when the store behind it is restored from a backup: versions go back."""
        self.collections, self.version = copy.deepcopy(collections), version
        self.forgotten = 0
        self._events.clear()

    def end_watches(self) -> None:
        self._ended.set()
        self._ended = asyncio.Event()

    def count(self, method: str, part: str) -> int:
        return sum(each[0] == method and part in each[1] for each in self.asked)

    # -- what clients get --------------------------------------------------------------

    def _tell(self, kind: str, path: str, item: Document) -> None:
        self._serial += 1
        event = {"type": kind, "object": copy.deepcopy(item)}
        self._events.append((self._serial, self.version, path, event))
        self._changed.set()
        self._changed = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read()) if request.can_read_body else None
        self.asked.append((request.method, request.path_qs, body))
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return refused(401, "Unauthorized")
        for fault in self.faults:
            fits = fault.method == request.method and fault.part in request.path_qs
            if fits and fault.times > 0:
                fault.times -= 1
                if not fault.status:
                    assert request.transport is not None
                    request.transport.abort()
                    return web.Response()
                headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
                return refused(fault.status, "a fault that the test asked for", headers)
        return await self._served(request, body)

    async def _served(self, request: web.Request, body: Document | None) -> web.StreamResponse:
        path = request.path
        parts = path.strip("/").split("/")
        if any(kind in parts for kind in self.absent):
            return refused(404, "the server could not find the requested resource")
        if parts[-1] == "scale":
            return self._scale("/".join(parts[:-2]), parts[-2], request.method, body)
        if parts[-1] in OBJECT_KINDS:
            if request.method == "POST":
                assert body is not None
                return self._create(path, body)
            if request.query.get("watch") == "true":
                return await self._watch(request, path)
            return self._list(request, path)
        return self._object(path.rpartition("/")[0], parts[-1], request.method, body)

    def _list(self, request: web.Request, path: str) -> web.Response:
        items = [each for each in self.collections.get(path, {}).values() if chosen(request, each)]
        size = self.page or int(request.query.get("limit", "0")) or len(items)
        start = int(request.query.get("continue", "0"))
        meta: Document = {"resourceVersion": str(self.version)}
        if start + size < len(items):
            meta["continue"] = str(start + size)
        return shown({"kind": "List", "metadata": meta, "items": items[start : start + size]})

    async def _watch(self, request: web.Request, path: str) -> web.StreamResponse:
        since, seen = int(request.query.get("resourceVersion", "0")), 0
        if since > self.version and not self.waits_for_versions:
            message = f"Timeout: Too large resource version: {since}, current: {self.version}"
            return refused(504, message, {"Retry-After": "1"})
        if since > self.version:
            seen = self._serial
        stream = web.StreamResponse(headers={"Content-Type": "application/json"})
        await stream.prepare(request)
        self.watches += 1
        try:
            while True:
                changed, ended = self._changed, self._ended
                if since < self.forgotten:
                    gone = {"kind": "Status", "code": 410, "reason": "Expired"}
                    await stream.write(orjson.dumps({"type": "ERROR", "object": gone}) + b"\n")
                    return stream
                for serial, version, where, event in list(self._events):
                    if serial > seen and (seen or version > since) and where == path:
                        seen, since = serial, max(since, version)
                        if event["type"] == "BOOKMARK" or chosen(request, event["object"]):
                            await stream.write(orjson.dumps(event) + b"\n")
                waits = [asyncio.ensure_future(each.wait()) for each in (changed, ended)]
                _, left = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for each in left:
                    each.cancel()
                if ended.is_set():
                    return stream
        finally:
            self.watches -= 1

    def _create(self, path: str, body: Document) -> web.Response:
        if body["metadata"]["name"] in self.collections.get(path, {}):
            return refused(409, "already exists")
        return shown(self.put(path, body), 201)

    def _object(self, path: str, name: str, method: str, body: Document | None) -> web.Response:
        held = self.collections.get(path, {}).get(name)
        if held is None:
            return refused(404, f"{name} not found")
        if method == "GET":
            return shown(held)
        assert body is not None
        given = (body.get("metadata") or {}).get("resourceVersion")
        if given is not None and given != held["metadata"]["resourceVersion"]:
            return refused(409, "the object has been modified")
        return shown(self.put(path, body if method == "PUT" else merged(held, body)))

    def _scale(self, path: str, name: str, method: str, body: Document | None) -> web.Response:
        held = self.collections.get(f"/{path}", {}).get(name)
        if held is None:
            return refused(404, f"{name} not found")
        if method == "PATCH":
            assert body is not None
            held = self.put(
                f"/{path}", merged(held, {"spec": {"replicas": body["spec"]["replicas"]}})
            )
        labels = held["spec"].get("selector", {}).get("matchLabels", {})
        return shown(
            {
                "kind": "Scale",
                "apiVersion": "autoscaling/v1",
                "metadata": held["metadata"],
                "spec": {"replicas": held["spec"].get("replicas", 1)},
                "status": {
                    "replicas": held["spec"].get("replicas", 1),
                    "selector": ",".join(f"{key}={value}" for key, value in labels.items()),
                },
            }
        )


def chosen(request: web.Request, item: Document) -> bool:
    """Whether an object has the labels that the request asks for."""
    labels = item["metadata"].get("labels", {})
    wanted = [each for each in request.query.get("labelSelector", "").split(",") if each]
    return all(
        labels.get(key) == value for key, _, value in (each.partition("=") for each in wanted)
    )


def merged(held: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(held) if isinstance(held, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def shown(item: Document, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(item), status=status, content_type="application/json")


def refused(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": status, "message": message}
    return web.Response(
        body=orjson.dumps(body), status=status, headers=headers, content_type="application/json"
    )


@contextlib.asynccontextmanager
async def api_server() -> AsyncIterator[ApiServer]:
    """Run one on a free port of this machine."""
    server = ApiServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        server.end_watches()
        await runner.cleanup()
