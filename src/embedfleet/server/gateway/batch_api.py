"""The Batch API of a gateway: its routes and its runner."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from embedfleet.api.batches.routes import BatchRoutes
from embedfleet.api.batches.runner import Runner
from embedfleet.api.batches.store import BatchStore, Quota
from embedfleet.api.contracts.contract import Asked, Contract
from embedfleet.api.contracts.openai import OPENAI
from embedfleet.api.contracts.rerank import RERANK, SCORE
from embedfleet.api.endpoint import Endpoint
from embedfleet.api.formats.embedding_request import EmbeddingRequest
from embedfleet.api.formats.large_bodies import Body, Step
from embedfleet.runtime.background import Background
from embedfleet.runtime.folders import LocalStore, Store, StoreError, store_at
from embedfleet.runtime.settings.batches import BatchesSettings
from embedfleet.runtime.text_files import reason
from embedfleet.server.gateway.in_cluster import InCluster
from embedfleet.transport.access import Access, DelegatedAccess
from embedfleet.transport.asgi import Request, Response
from embedfleet.vocabulary import CallerError

log = logging.getLogger(__name__)

LOCK = "runner.lock"
POLL_EVERY_S = 2.0


def batches_of(
    settings: BatchesSettings,
    access: Access,
    endpoint: Endpoint,
    background: Background,
    inside: InCluster | None,
    store_failed: Callable[[], None],
) -> BatchRoutes | None:
    """The routes of the Batch API, with its runner started in the background; None if batches are
    off. Raises StoreError.
    """
    if settings.directory is None:
        return None
    store = _store(settings.directory)
    batch_store = BatchStore(store, settings.file_days)
    asks = {path: partial(_asked, access, endpoint, path) for path in CONTRACTS}
    runner = Runner(
        batch_store,
        asks,
        concurrent=settings.concurrent_requests,
        most_requests=settings.max_requests,
        store_failed=store_failed,
    )
    if isinstance(store, LocalStore):
        running = _while_locked(store, runner.run, store_failed)
    elif inside is not None:
        running = inside.leading("embedfleet-batches", runner.run).run()
    else:
        running = runner.run()
    background.start(running, "batches")
    return BatchRoutes(
        batch_store,
        access,
        asks,
        max_file_bytes=settings.max_file_bytes,
        quota=Quota(settings.max_files, settings.max_stored_bytes, settings.max_batches),
        wake=runner.wake,
        store_failed=store_failed,
    )


def _store(address: str) -> Store:
    """Where batches are kept. Raises StoreError where it can't be reached, or not locked: each
    gateway would wait for ever to run them.
    """
    try:
        store = store_at(address, alone=False)
        if isinstance(store, LocalStore):
            held = store.lock(LOCK)
            if held is not None:
                os.close(held)
    except StoreError as error:
        raise StoreError(f"batches.directory: {error}") from error
    except OSError as error:
        raise StoreError(
            f"batches.directory: {address}/{LOCK} can't be locked: {reason(error)}"
        ) from error
    return store


class _InJson:
    """A contract whose answers become JSON lines: raw bytes are refused."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self.name = contract.name
        self.write = contract.write
        self.refuse = contract.refuse

    def read(self, body: Body, asked: Asked) -> EmbeddingRequest:
        return _checked(self._contract.read(body, asked))

    def read_large(self, body: Body, asked: Asked, step: Step) -> EmbeddingRequest:
        return _checked(self._contract.read_large(body, asked, step))


def _checked(request: EmbeddingRequest) -> EmbeddingRequest:
    """Raise CallerError for forms that a JSON line can't hold."""
    for form in request.forms:
        if not form.in_json:
            raise CallerError(
                f"a batch is answered in JSON lines, which hold no bytes; request `encoding_format`"
                f' "float" or "base64" instead of "{form.layout}".',
                param="encoding_format",
                code="invalid_value",
            )
    return request


CONTRACTS: Final[Mapping[str, Contract]] = {
    "/v1/embeddings": _InJson(OPENAI),
    "/v1/rerank": _InJson(RERANK),
    "/v1/score": _InJson(SCORE),
}
"""The endpoints that batches may name."""


async def _asked(
    access: Access, endpoint: Endpoint, path: str, name: str, body: bytes, owner: str
) -> Response:
    """Process a request of a batch like one from a client, with the batch's key."""
    came = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if came.is_set():
            await asyncio.Event().wait()  # never disconnects
        came.set()
        return {"type": "http.request", "body": body}

    async def send(_message: Any) -> None:
        raise RuntimeError("a batch request must return its response")

    headers = [(b"content-type", b"application/json"), (b"x-embedfleet-lane", b"bulk")]
    scope = {
        "type": "http", "method": "POST", "path": path, "headers": headers,
        "client": None,
    }  # fmt: skip
    answer = endpoint.by(CONTRACTS[path], DelegatedAccess(access, owner))
    response = await answer(Request(scope, receive, send, name))
    if response is None:
        raise RuntimeError("a batch request must return its response")
    return response


async def _while_locked(
    store: LocalStore, work: Callable[[], Awaitable[None]], failed: Callable[[], None]
) -> None:
    """Run the work in one of the processes that share a folder, by a lock that the kernel releases
    when its holder dies.
    """
    while True:
        try:
            held = store.lock(LOCK)
        except OSError as error:
            failed()
            log.warning("%s can't be locked: %s", store.path / LOCK, error)
            held = None
        if held is not None:
            try:
                await work()
            finally:
                os.close(held)
        await asyncio.sleep(POLL_EVERY_S)
