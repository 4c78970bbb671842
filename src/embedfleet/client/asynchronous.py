"""The client: texts in, one matrix out, cut into requests that follow what the service can take."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from types import TracebackType
from typing import Any, NamedTuple, Self

import aiohttp
import numpy as np
from numpy.typing import DTypeLike, NDArray

from embedfleet.client import pacing, wire
from embedfleet.client.calling import TEXT_FAILS, Arrived, Call, Embedded, Progress, Watch
from embedfleet.client.errors import AnswerError, RefusedError, UnavailableError
from embedfleet.client.wire import Answer, ServedModel, Texts, Wishes
from embedfleet.vocabulary import Lane, counted

MOST_BODY_BYTES = 1 << 28
MOST_ATTEMPTS = 4
"""At a request whose answer makes no sense, or whose text engines fail: others may do better."""


class _Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class AsyncClient:
    """Embeds texts over HTTP, in requests of about `tokens_per_request` tokens.

        async with AsyncClient("http://127.0.0.1:8080") as client:
            vectors = await client.embed(["one text", "another"], dimensions=256)

    Requests in flight grow in number until the service refuses one (429, 503), and what it says of
    when to come back is followed. A request that fails is sent again, unless the service says that
    it is wrong, until `patience_s` have passed since it was first sent.
    """

    def __init__(  # noqa: PLR0913  by name, and each has a default
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        lane: Lane | str = Lane.INTERACTIVE,
        tokens_per_request: int = 16_384,
        texts_per_request: int = 256,
        most_in_flight: int = 32,
        patience_s: float = 120.0,
        timeout_s: float = 600.0,
        headers: Mapping[str, str] | None = None,
        rng: Random | None = None,
    ) -> None:
        """`url` is the service's, with or without `/v1`. `model` may be left out where one is
        served. `timeout_s` bounds a single request.
        """
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is no address such as http://127.0.0.1:8080")
        self.url = url.rstrip("/").removesuffix("/v1").rstrip("/")
        self.model = model
        self._cutter = pacing.Cutter(tokens_per_request, texts_per_request)
        self._patience_s = patience_s
        self._timeout_s = timeout_s
        self._rng = rng or Random()
        self._headers = {"x-embedfleet-lane": Lane(lane).value, **(headers or {})}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._gate = _Gate(pacing.Pace(most_in_flight))
        self._session: aiohttp.ClientSession | None = None
        self.space: str | None = None
        """Which space vectors are in, by `x-embedfleet-space`; None where none is told."""

    async def embed(
        self,
        texts: str | Texts,
        *,
        dimensions: int | None = None,
        input_type: str | None = None,
        instruction: str | None = None,
        truncate: bool = False,
        dtype: DTypeLike = np.float32,
        progress: Callable[[Progress], None] | None = None,
    ) -> NDArray[Any]:
        """Vectors of shape [texts, dimensions], row i of text i; [dimensions] for a single string.

        A text is a string or a list of token ids. `input_type` is `query` or `document`. `dtype` is
        what the float32 of the service are converted to. Raises RefusedError, UnavailableError,
        AnswerError.
        """
        single = isinstance(texts, str)
        many = [texts] if isinstance(texts, str) else texts
        wishes = Wishes(dimensions, input_type, instruction, truncate)
        found = await self.embed_each(many, wishes, progress=progress, whole=True)
        vectors = found.vectors.astype(dtype, copy=False)
        return vectors[0] if single else vectors

    async def embed_each(
        self,
        texts: Texts,
        wishes: Wishes | None = None,
        *,
        progress: Callable[[Progress], None] | None = None,
        arrived: Arrived | None = None,
        whole: bool = False,
    ) -> Embedded:
        """As `embed`, where a text that the service refuses costs no other one its vector.

        With `whole` the first refusal is raised. `arrived` is handed vectors while others are still
        computed. Raises RefusedError where the fault is in no text, UnavailableError, AnswerError.
        """
        wishes = wishes or Wishes()
        ask = partial(self._ask, await self._model(), wishes)
        watch = Watch(progress, arrived)
        call = Call(ask, self._cutter, self._gate.pace, texts, watch, whole=whole)
        return await call.run(wishes.dimensions or 0)

    async def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens of some texts together, by `POST /v1/tokenize`, which few other services have."""
        model, tokens = await self._model(), 0
        for start in range(0, len(texts), self._cutter.most_texts):
            some = [wire.as_input(text) for text in texts[start : start + self._cutter.most_texts]]
            body = wire.request_body(model, some, Wishes())
            tokens += wire.read_tokens((await self._exchange("POST", "/v1/tokenize", body)).body)
        return tokens

    async def models(self) -> list[ServedModel]:
        """What the service lists."""
        reply = await self._exchange("GET", "/v1/models", None)
        return wire.read_models(reply.body)

    async def served_model(self) -> ServedModel:
        """The model of this client, as the service tells of it. Raises RefusedError where it is not
        served, or where several are and none was named.
        """
        known = await self.models()
        if self.model is None and len(known) == 1:
            return known[0]
        names = ", ".join(each.name for each in known) or "none"
        if self.model is None:
            raise RefusedError(f"{self.url} serves several models; name one of: {names}")
        for each in known:
            if each.name == self.model:
                return each
        raise RefusedError(f"{self.url} serves no model {self.model}; it serves: {names}")

    async def close(self) -> None:
        """Close connections; requests in flight fail."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _model(self) -> str:
        if self.model is None:
            self.model = (await self.served_model()).name
        return self.model

    async def _ask(self, model: str, wishes: Wishes, texts: Sequence[str | list[int]]) -> Answer:
        """One request. Raises RefusedError, UnavailableError, AnswerError."""
        body, attempts = wire.request_body(model, texts, wishes), 0
        while True:
            reply = await self._exchange("POST", "/v1/embeddings", body)
            try:
                answer = wire.read_answer(reply.body, len(texts))
            except AnswerError:
                attempts += 1
                if attempts == MOST_ATTEMPTS:
                    raise
                await asyncio.sleep(pacing.backoff_s(attempts, self._rng))
            else:
                self._keep_to(reply.headers.get("x-embedfleet-space"))
                self._cutter.learn(sum(map(wire.size_of, texts)), answer.tokens)
                return answer

    def _keep_to(self, space: str | None) -> None:
        """Vectors of two spaces can't be compared, and must not come from one client."""
        if None not in {space, self.space} and space != self.space:
            raise AnswerError(
                f"the service computes in another space than before ({space}, before {self.space}):"
                " its model, or the precision of its numbers, changed"
            )
        self.space = space or self.space

    async def _exchange(self, method: str, path: str, body: bytes | None) -> _Reply:
        """A reply of success, after as many attempts as patience allows."""
        began, attempt = time.monotonic(), 0
        while True:
            wait_s: float | None = None
            async with self._gate.turn() as sent_at:
                try:
                    reply = await self._send(method, path, body)
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    trouble = str(error) or type(error).__name__
                else:
                    if 200 <= reply.status < 300:
                        self._gate.pace.answered()
                        return reply
                    refusal = wire.read_refusal(reply.status, reply.body)
                    if not pacing.is_repeated(reply.status, reply.headers) or (
                        refusal.code in TEXT_FAILS and attempt + 1 >= MOST_ATTEMPTS
                    ):
                        raise refusal
                    trouble = refusal.message
                    wait_s = pacing.asked_wait_s(reply.headers, time.time())
                    if reply.status in pacing.NO_ROOM:
                        self._gate.pace.refused(sent_at, time.monotonic(), wait_s)
            pause_s = pacing.backoff_s(attempt, self._rng)
            pause_s = max(pause_s, min(wait_s or 0.0, pacing.MOST_WAIT_S))
            attempt += 1
            waited_s = time.monotonic() - began
            if waited_s + pause_s > self._patience_s:
                raise UnavailableError(
                    f"{self.url}: {trouble}; tried {counted(attempt, 'time')} in {waited_s:.0f} s"
                )
            await asyncio.sleep(pause_s)

    async def _send(self, method: str, path: str, body: bytes | None) -> _Reply:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=10.0),
                trust_env=False,  # nothing is contacted that nobody named
            )
        headers = {**self._headers, "content-type": "application/json"}
        async with self._session.request(
            method, self.url + path, data=body, headers=headers, allow_redirects=False
        ) as answer:
            held = bytearray()
            async for part in answer.content.iter_any():
                held += part
                if len(held) > MOST_BODY_BYTES:
                    raise aiohttp.ClientPayloadError("the answer is larger than 256 MiB")
            return _Reply(answer.status, wire.lower(answer.headers), bytes(held))


class _Gate:
    """Lets requests through as the pace allows, first come first served."""

    def __init__(self, pace: pacing.Pace) -> None:
        self.pace = pace
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def room(self) -> bool:
        return self._in_flight < int(self.pace.limit)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """A place among those in flight; gives the time at which it was had."""
        while not self.room:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._wake()
                raise
        self._in_flight += 1
        try:
            now = time.monotonic()
            if now < self.pace.not_before:
                await asyncio.sleep(self.pace.not_before - now)
            yield time.monotonic()
        finally:
            self._in_flight -= 1
            self._wake()

    def _wake(self) -> None:
        free = int(self.pace.limit) - self._in_flight
        while self._waiting and free > 0:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1
