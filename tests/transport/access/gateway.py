"""A gateway as it runs, with one replica, inside the process of a test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import openai

from embedfleet.api.endpoint import Endpoint
from embedfleet.api.formats.openai import RequestLimits
from embedfleet.models.description import describe
from embedfleet.models.files import Snapshot
from embedfleet.runtime.settings import Pool, Settings
from embedfleet.server.gateway.app import admin_listeners, public_listeners
from embedfleet.server.gateway.server import Gateway
from embedfleet.server.replica.service import Replica
from embedfleet.transport.access import Access, OpenAccess
from embedfleet.transport.access.guarded_routes import behind, key_guard
from embedfleet.transport.serving import ClientLimits, Listener, bind, serving
from tests.fakes.revealing_engine import WIDTH, RevealingEngine
from tests.small_tokenizer import write_model

MODEL = "small"


@dataclass
class Running:
    """Where it answers, and what is behind."""

    url: str
    admin: str
    gateway: Gateway
    engine: RevealingEngine
    http: aiohttp.ClientSession

    def client(self, key: str = "none", *, retries: int = 0) -> openai.AsyncOpenAI:
        """OpenAI's own client."""
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=retries)

    async def metrics(self) -> str:
        async with self.http.get(f"{self.admin}/metrics") as answer:
            return await answer.text()


@contextlib.asynccontextmanager
async def running(
    directory: Path,
    settings: Settings | None = None,
    *,
    given: Sequence[str] | None = None,
    replica_access: Access | None = None,
    replica_key_file: Path | None = None,
    patience_s: float = 60.0,
    clients: ClientLimits | None = None,
) -> AsyncIterator[Running]:
    """Serve while the block runs; `given` are keys as they are, `settings` all but the pool.

    Raises TimeoutError when the replica is not ready after `patience_s`.
    """
    model = describe(write_model(directory / "model", hidden_size=WIDTH))
    engine = RevealingEngine()
    engine.info = replace(
        engine.info,
        width=WIDTH,
        max_tokens=model.identity.max_tokens,
        vocabulary=model.identity.vocabulary,
        device="fake",
        batch_tokens=64,
    )
    replica = Replica(
        engine,
        model.identity,
        served_names=[MODEL],
        files=Snapshot.of(model.directory),
        max_body_bytes=10**6,
        max_queued_tokens=5000,
    )
    endpoint = Endpoint(
        dict,
        limits=RequestLimits(),
        max_body_bytes=10**6,
        max_held_bytes=10**7,
        timeout_s=60,
        tokenizer_threads=1,
        answered=lambda _: None,
    )
    app = behind(replica.app(endpoint), key_guard(replica_access or OpenAccess(), paths=()))
    replica_listener = Listener(app, bind("127.0.0.1", 0))
    pool = Pool(
        served_names=(MODEL, "another-name"),
        replicas=0,
        replica_urls=(replica_listener.url,),
        replica_key_file=replica_key_file,
    )
    chosen = replace(settings or Settings(), pools=(pool,))
    gateway = Gateway(chosen, api_keys=given)
    (public,) = public_listeners(gateway, [bind("127.0.0.1", 0)])
    (admin,) = admin_listeners(gateway, [bind("127.0.0.1", 0)])
    batching = asyncio.create_task(replica.batcher.run())
    async with (
        serving(
            [replica_listener, public, admin],
            stop_timeout_s=1,
            limits=clients or ClientLimits(),
        ),
        aiohttp.ClientSession() as session,
    ):
        gateway.add_pool(pool, model)
        try:
            async with asyncio.timeout(patience_s):
                while not gateway.ready():
                    await asyncio.sleep(0.01)
            yield Running(public.url, admin.url, gateway, engine, session)
        finally:
            engine.go_on.set()
            await gateway.close()
            batching.cancel()
            endpoint.close()
