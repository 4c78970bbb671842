"""Third-party engines as real HTTP servers that compute vectors which reveal their text.

What they all share: how they are started, what goes wrong with them on demand, and the vectors. How
each spells its answers is in the modules beside this one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from aiohttp import web
from numpy.typing import NDArray
from tokenizers import Tokenizer

from embedfleet.models.description import ModelDescription, describe
from embedfleet.vocabulary import Encoding
from tests.fakes.revealing_engine import UNLUCKY, WIDTH, vector_of
from tests.small_tokenizer import write_model

MAX_TOKENS = 512


def model(directory: Path) -> ModelDescription:
    """The model that all stand-ins serve."""
    return describe(write_model(directory / "small", hidden_size=WIDTH))


Handler = Callable[[Any, Any], Awaitable[web.StreamResponse]]


def posted(handler: Handler) -> Handler:
    """A handler of the body of a request for vectors or scores, which is kept and waits first."""

    @functools.wraps(handler)
    async def handle(engine: StandIn, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        engine.bodies.append(body)
        return await engine.wait() or await handler(engine, body)

    return handle


@dataclass
class StandIn:
    """One engine; fields are what a test may change while it runs."""

    directory: Path
    name: str = "small"
    """The model that it says it serves."""
    key: str = ""
    metrics: bool = True
    busy: int = 0
    """Requests that it still refuses because it has too much to do."""
    nonsense: str = ""
    """What is wrong with its answers: see `_spoil`."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """Every request for vectors or scores that it got."""
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is not set, nothing is answered."""
    closed: int = 0
    """Requests that were given up by who asked."""
    url: str = ""

    def __post_init__(self) -> None:
        self.go_on.set()
        self.tokenizer = Tokenizer.from_file(str(self.directory / "small" / "tokenizer.json"))
        self._runner: web.AppRunner | None = None

    # -- what an engine is made of --------------------------------------------------------

    public = frozenset({"/health", "/metrics"})
    """Pages that need no key."""

    def routes(self) -> list[web.RouteDef]:
        raise NotImplementedError

    def error(self, status: int, message: str) -> web.Response:
        """A refusal in this engine's own form."""
        raise NotImplementedError

    def ids(self, one: Any) -> list[int]:
        """The token ids of an input, as this engine makes or takes them."""
        if isinstance(one, str):
            found: list[int] = self.tokenizer.encode(one).ids
            return found
        return list(one)

    def vector(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The vector of a text; not finite for one that has an unlucky token."""
        vector = vector_of(ids)
        return np.full_like(vector, np.nan) if UNLUCKY in ids else vector

    # -- serving --------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[str]:
        """Answer on a port of its own; gives the URL."""
        app = web.Application(client_max_size=2**28, middlewares=[self._guard])
        app.add_routes(self.routes())
        # A handler whose caller leaves is cancelled: that is how engines notice, too.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
        try:
            yield self.url
        finally:
            await self.die()

    async def die(self) -> None:
        """Be gone, connections and all."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            for connection in list(runner.server.connections if runner.server else ()):
                if connection.transport is not None:
                    connection.transport.abort()
            await runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        given = request.headers.get("authorization", "")
        if self.key and given != f"Bearer {self.key}" and request.path not in self.public:
            return self.error(401, "Unauthorized")
        if self.nonsense == "html":
            return web.Response(text="<html>It works!</html>", content_type="text/html")
        try:
            response: web.StreamResponse = await handler(request)
        except asyncio.CancelledError:
            self.closed += 1
            raise
        except web.HTTPNotFound:
            return self.error(404, "Not Found")
        return response

    async def wait(self) -> web.Response | None:
        """What every such request meets first; a response when it gets no further."""
        if self.busy:
            self.busy -= 1
            return self.error(429, "Model is overloaded")
        await self.go_on.wait()
        return None

    async def show_metrics(self, _request: web.Request) -> web.Response:
        """Metrics, when they are on."""
        if not self.metrics:
            return self.error(404, "Not Found")
        return web.Response(text="# HELP up Up.\n# TYPE up gauge\nup 1\n")

    # -- answers --------------------------------------------------------------------------

    def spoil(self, rows: list[NDArray[np.float32]]) -> list[tuple[int, NDArray[np.float32]]]:
        """Number the vectors; wrongly, or wrong ones, where nonsense is asked for."""
        if self.nonsense == "zeros":
            rows = [np.zeros_like(row) for row in rows]
        if self.nonsense == "nan":
            rows = [np.full_like(row, np.nan) for row in rows]
        if self.nonsense == "narrow":
            rows = [row[:8] for row in rows]
        if self.nonsense == "missing":
            rows = rows[:-1]
        if self.nonsense == "repeated":
            return [(0, row) for row in rows]
        if self.nonsense == "reversed":  # in another order, rightly numbered: no nonsense at all
            return list(enumerate(rows))[::-1]
        return list(enumerate(rows))


def as_base64(row: NDArray[np.float32]) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


def as_floats(row: NDArray[np.float32]) -> list[float]:
    """JSON has no NaN: orjson writes null, as several engines do."""
    return [float(value) for value in row]


def answer(content: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(content), status=status, content_type="application/json")


def as_list(given: Any) -> list[Any]:
    """OpenAI's four forms of `input` as a list of inputs."""
    if isinstance(given, str) or (isinstance(given, list) and given and isinstance(given[0], int)):
        return [given]
    return list(given)


def encoding(ids: Sequence[int]) -> Encoding:
    return np.array(ids, np.int32)
