"""A service of OpenAI's embeddings API whose vectors reveal their texts, with faults on demand."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from aiohttp import web
from numpy.typing import NDArray

WIDTH = 16
MODEL = "revealing"


def vector_of(text: str | Sequence[int], dimensions: int = WIDTH) -> NDArray[np.float32]:
    """The vector of a text: of unit length, and of no other text."""
    seed = hashlib.blake2b(orjson.dumps(text), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(seed, "little"))
    row = rng.standard_normal(dimensions).astype(np.float32)
    return row / np.linalg.norm(row)


def vectors_of(texts: Sequence[str], dimensions: int = WIDTH) -> NDArray[np.float32]:
    return np.stack([vector_of(text, dimensions) for text in texts])


Fault = Callable[[int, dict[str, Any]], web.Response | None]
"""Takes the number of a request, from 0, and its body; what it returns is answered instead."""


def error(status: int, code: str, param: str | None = None, **headers: str) -> web.Response:
    """An error in OpenAI's format."""
    told = {"message": f"{code} of {param}", "type": "x", "code": code, "param": param}
    return web.json_response({"error": told}, status=status, headers=headers)


@dataclass
class RevealingService:
    """Answers embeddings requests, and counts what it computed."""

    fault: Fault | None = None
    computed: Counter[str] = field(default_factory=Counter)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_in_flight: int = 0
    url: str = ""
    floats: bool = False
    """Answer with numbers in JSON, as services do that know no base64."""
    salt: str = ""
    """Another salt is another model."""
    _in_flight: int = 0

    async def embeddings(self, request: web.Request) -> web.Response:
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            body = orjson.loads(await request.read())
            number = len(self.requests)
            self.requests.append(body)
            self.headers.append({key.lower(): value for key, value in request.headers.items()})
            await asyncio.sleep(0)
            if self.fault is not None and (answer := self.fault(number, body)) is not None:
                return answer
            return self.answer(body)
        finally:
            self._in_flight -= 1

    def answer(self, body: dict[str, Any]) -> web.Response:
        data = []
        for index, text in enumerate(body["input"]):
            if isinstance(text, str) and not text.strip():
                return error(400, "blank_string", f"input[{index}]")
            self.computed[str(text)] += 1
            row = vector_of(self.salt + text if self.salt else text, body.get("dimensions", WIDTH))
            coded: Any = row.tolist() if self.floats else base64.b64encode(row.tobytes()).decode()
            data.append({"object": "embedding", "index": index, "embedding": coded})
        tokens = sum(len(str(text)) // 4 + 1 for text in body["input"])
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        told = {"object": "list", "data": data[::-1], "model": MODEL, "usage": usage}
        return web.Response(body=orjson.dumps(told), content_type="application/json")

    async def models(self, _request: web.Request) -> web.Response:
        known = {"id": MODEL, "object": "model", "dimensions": WIDTH, "max_tokens": 512}
        return web.json_response({"object": "list", "data": [known]})


@contextlib.contextmanager
def running(service: RevealingService | None = None) -> Iterator[RevealingService]:
    """A service in a thread, at a free port of this machine."""
    service = service or RevealingService()
    loop = asyncio.new_event_loop()
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/embeddings", service.embeddings)
    app.router.add_get("/v1/models", service.models)
    runner = web.AppRunner(app)

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return int(runner.addresses[0][1])

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    port = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    service.url = f"http://127.0.0.1:{port}"
    try:
        yield service
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
