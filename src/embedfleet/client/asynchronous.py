"""The asynchronous client: texts in, one matrix out, in requests sized to the service's limits."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import aiohttp
import numpy as np
from numpy.typing import DTypeLike, NDArray

from embedfleet.client import flow_control, wire
from embedfleet.client.calling import (
    TEXT_FAILS,
    Arrived,
    Call,
    Callbacks,
    Embedded,
    Progress,
    Ranking,
)
from embedfleet.client.errors import AnswerError, RefusedError, UnavailableError
from embedfleet.client.wire import (
    DTYPES,
    Answer,
    EmbedOptions,
    EncodingFormat,
    OutputDtype,
    ServedModel,
    Texts,
)
from embedfleet.vocabulary import Lane, counted

MOST_BODY_BYTES = 1 << 28
MOST_ATTEMPTS = 4
"""For a request whose answer is malformed, or whose text an engine fails: another replica may do
better."""


class _Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class AsyncClient:
    """Embeds and reranks texts over HTTP, in requests of about `tokens_per_request` tokens.

        async with AsyncClient("http://127.0.0.1:8080") as client:
            vectors = await client.embed(["one text", "another"], dimensions=256)
            best = (await client.rerank("a query", ["one text", "another"])).order[0]

    The number of requests in flight grows until the service refuses one (429, 503), and
    `retry-after` is honoured. A failed request is retried, unless the service rejects it, until
    `retry_timeout_s` have passed since its first attempt.
    """

    def __init__(  # noqa: PLR0913  by name, and each has a default
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        lane: Lane | str = Lane.INTERACTIVE,
        encoding_format: EncodingFormat = "base64",
        tokens_per_request: int = 16_384,
        texts_per_request: int = 256,
        most_in_flight: int = 32,
        retry_timeout_s: float = 120.0,
        timeout_s: float = 600.0,
        headers: Mapping[str, str] | None = None,
        rng: Random | None = None,
    ) -> None:
        """`url` is the service's, with or without `/v1`. `model` is the default of calls that name
        none; without it, the only model that embeds, or reranks. `encoding_format` is the encoding
        of vectors on the wire and does not change them. `timeout_s` bounds a single request.
        """
        self.url = wire.base_of(url)
        self.model = model
        self.encoding_format = encoding_format
        self._sizer = flow_control.RequestSizer(tokens_per_request, texts_per_request)
        self._pair_sizer = flow_control.RequestSizer(tokens_per_request, texts_per_request)
        self._only: dict[str, str] = {}  # the only model that is served, by task
        self._retry_timeout_s = retry_timeout_s
        self._timeout_s = timeout_s
        self._rng = rng or Random()
        self._headers = {
            "x-embedfleet-lane": Lane(lane).value,
            # An invalid text is isolated here, whatever the service's default is.
            "x-embedfleet-on-error": "request",
            **(headers or {}),
        }
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._gate = _Gate(flow_control.ConcurrencyLimit(most_in_flight))
        self._session: aiohttp.ClientSession | None = None
        self.spaces: dict[str, str] = {}
        """The vector space of each model, from the header `x-embedfleet-space`."""

    @property
    def space(self) -> str | None:
        """The vector space of this client's model; None before the first answer, and where vectors
        of several models were requested and `model` is not set.
        """
        if self.model is None and len(self.spaces) == 1:
            return next(iter(self.spaces.values()))
        return self.spaces.get(self.model or "")

    async def embed(
        self,
        texts: str | Texts,
        *,
        dimensions: int | None = None,
        input_type: str | None = None,
        instruction: str | None = None,
        truncate: bool = False,
        output_dtype: OutputDtype = "float32",
        dtype: DTypeLike | None = None,
        model: str | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> NDArray[Any]:
        """Vectors of shape [texts, dimensions], row i of text i; [dimensions] for a single string.

        A text is a string or a list of token ids. `input_type` is `query` or `document`.
        `output_dtype` is the type that the service rounds numbers to (`wire.DTYPES` has the
        array's); bits have shape [texts, dimensions / 8]. `dtype` is the type that this client
        converts them to. The scale of int8 and uint8 is in the result of `embed_each` and in
        `served_model`. Raises RefusedError, UnavailableError, AnswerError.
        """
        single = isinstance(texts, str)
        many = [texts] if isinstance(texts, str) else texts
        options = EmbedOptions(dimensions, input_type, instruction, truncate, output_dtype)
        found = await self.embed_each(many, options, model=model, progress=progress, whole=True)
        vectors = found.vectors if dtype is None else found.vectors.astype(dtype, copy=False)
        return vectors[0] if single else vectors

    async def embed_each(
        self,
        texts: Texts,
        options: EmbedOptions | None = None,
        *,
        model: str | None = None,
        progress: Callable[[Progress], None] | None = None,
        arrived: Arrived | None = None,
        whole: bool = False,
    ) -> Embedded:
        """As `embed`, but a text that the service refuses does not fail the others.

        With `whole` the first refusal is raised. `arrived` is called with vectors while others are
        still being computed. Raises RefusedError for a request that is refused for another reason
        than one of its texts, UnavailableError, AnswerError.
        """
        options = options or EmbedOptions()
        ask = partial(self._ask, model or await self._model("embed"), options)
        callbacks = Callbacks(progress, arrived)
        call = Call(ask, self._sizer, self._gate.concurrency, texts, callbacks, whole=whole)
        return await call.run(options.columns or 0, DTYPES[options.output_dtype])

    async def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        instruction: str | None = None,
        truncate: bool | None = None,
        raw_scores: bool = False,
        model: str | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Ranking:
        """Relevance of each document to the query, by `POST /v1/rerank`: from 0 to 1, or logits
        with `raw_scores`.

        Takes any number of documents, since a score depends on no other document. `instruction`
        replaces the model's own; `truncate=False` makes the service refuse documents that are too
        long instead of cutting them. Raises RefusedError (`index` is the document's place),
        UnavailableError, AnswerError.
        """
        if top_n is not None and top_n < 1:
            raise ValueError(f"top_n is {top_n}; it must be at least 1")
        if isinstance(documents, str):
            raise TypeError("documents must be a list of strings")
        asked = {
            "instruction": instruction,
            "truncate": truncate,
            "raw_scores": raw_scores or None,
        }
        more = {name: value for name, value in asked.items() if value is not None}
        text = wire.as_input(query)
        if not isinstance(text, str):
            raise TypeError("a query must be a string")
        beside = wire.size_of(text) + wire.size_of(instruction or "")
        ask = partial(self._ask_scores, model or await self._model("rerank"), text, more)
        call = Call(
            ask,
            self._pair_sizer,
            self._gate.concurrency,
            documents,
            Callbacks(progress),
            whole=True,
            beside=beside,
        )
        found = await call.run(1, np.dtype(np.float64))
        scores = found.vectors.reshape(-1)
        order = np.argsort(-scores, kind="stable")[:top_n]
        return Ranking(scores, order, found.tokens)

    async def count_tokens(self, texts: Sequence[str]) -> int:
        """The number of tokens of all texts together, by `POST /v1/tokenize` (an extension)."""
        model, tokens = await self._model("embed"), 0
        for start in range(0, len(texts), self._sizer.most_texts):
            some = [wire.as_input(text) for text in texts[start : start + self._sizer.most_texts]]
            body = wire.request_body(model, some, EmbedOptions())
            tokens += wire.read_tokens((await self._exchange("POST", "/v1/tokenize", body)).body)
        return tokens

    async def models(self) -> list[ServedModel]:
        """What the service lists."""
        reply = await self._exchange("GET", "/v1/models", None)
        return wire.read_models(reply.body)

    async def served_model(
        self, name: str | None = None, *, task: Literal["embed", "rerank"] = "embed"
    ) -> ServedModel:
        """The service's description of a model: the one of this name, this client's, or the only
        one for a task. Raises RefusedError if it is not served, or if several are and none was
        named.
        """
        listed = await self.models()
        name = name or self.model
        if name is not None:
            for each in listed:
                if each.name == name:
                    return each
            names = ", ".join(each.name for each in listed) or "none"
            raise RefusedError(f"{self.url} serves no model {name}; it serves: {names}")
        # Other services do not tell the task; all of their models are listed as embedders.
        fit = [each for each in listed if each.task == task] or listed
        if len(fit) == 1:
            return fit[0]
        names = ", ".join(each.name for each in fit) or "none"
        raise RefusedError(f"{self.url} serves several models; name one of: {names}")

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

    async def _model(self, task: Literal["embed", "rerank"]) -> str:
        if self.model is not None:
            return self.model
        if task not in self._only:
            self._only[task] = (await self.served_model(task=task)).name
        return self._only[task]

    async def _ask(
        self, model: str, options: EmbedOptions, texts: Sequence[str | list[int]]
    ) -> Answer:
        """One request. Raises RefusedError, UnavailableError, AnswerError."""
        body = wire.request_body(model, texts, options, self.encoding_format)

        def read(reply: _Reply) -> Answer:
            if self.encoding_format == "bytes":
                return wire.read_bytes(reply.headers, reply.body, len(texts), options.output_dtype)
            return wire.read_answer(reply.body, len(texts), options.output_dtype)

        reply, answer = await self._understood("/v1/embeddings", body, read)
        self._keep_to(model, reply.headers.get("x-embedfleet-space"))
        return answer

    async def _ask_scores(
        self,
        model: str,
        query: str,
        more: Mapping[str, object],
        documents: Sequence[str | list[int]],
    ) -> Answer:
        """One request for scores. Raises as `_ask` does."""
        body = wire.rerank_body(model, query, documents, more)
        _, answer = await self._understood(
            "/v1/rerank", body, lambda reply: wire.read_scores(reply.body, len(documents))
        )
        return answer

    async def _understood(
        self, path: str, body: bytes, read: Callable[[_Reply], Answer]
    ) -> tuple[_Reply, Answer]:
        """A well-formed answer, after at most `MOST_ATTEMPTS` attempts."""
        attempts = 0
        while True:
            reply = await self._exchange("POST", path, body)
            try:
                return reply, read(reply)
            except AnswerError:
                attempts += 1
                if attempts == MOST_ATTEMPTS:
                    raise
                await asyncio.sleep(flow_control.backoff_s(attempts, self._rng))

    def _keep_to(self, model: str, space: str | None) -> None:
        """Refuse vectors of another space than before: the two can't be compared."""
        before = self.spaces.get(model)
        if None not in {space, before} and space != before:
            raise AnswerError(
                f"the service answers in another space than before ({space}, before {before}): it "
                "serves another model or precision"
            )
        if space is not None:
            self.spaces[model] = space

    async def _exchange(self, method: str, path: str, body: bytes | None) -> _Reply:
        """A successful reply, after as many attempts as `retry_timeout_s` allows."""
        began, attempt = time.monotonic(), 0
        while True:
            wait_s: float | None = None
            async with self._gate.turn() as sent_at:
                try:
                    reply = await self._send(method, path, body)
                except aiohttp.ClientConnectorCertificateError as error:
                    raise UnavailableError(f"{self.url}: {_described(error)}") from error
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    trouble = _described(error)
                else:
                    if 200 <= reply.status < 300:
                        self._gate.concurrency.answered()
                        return reply
                    refusal = wire.read_refusal(reply.status, reply.body)
                    if not flow_control.is_repeated(reply.status, reply.headers) or (
                        refusal.code in TEXT_FAILS and attempt + 1 >= MOST_ATTEMPTS
                    ):
                        raise refusal
                    trouble = refusal.message
                    wait_s = flow_control.asked_wait_s(reply.headers, time.time())
                    if reply.status in flow_control.NO_ROOM:
                        self._gate.concurrency.refused(sent_at, time.monotonic(), wait_s)
            pause_s = flow_control.backoff_s(attempt, self._rng)
            pause_s = max(pause_s, min(wait_s or 0.0, flow_control.MOST_WAIT_S))
            attempt += 1
            waited_s = time.monotonic() - began
            if waited_s + pause_s > self._retry_timeout_s:
                raise UnavailableError(
                    f"{self.url}: {trouble}; tried {counted(attempt, 'time')} in {waited_s:.0f} s"
                )
            await asyncio.sleep(pause_s)

    async def _send(self, method: str, path: str, body: bytes | None) -> _Reply:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=10.0),
                trust_env=False,  # only configured addresses are contacted
            )
        headers = {**self._headers, "content-type": "application/json"}
        async with self._session.request(
            method, self.url + path, data=body, headers=headers, allow_redirects=False
        ) as answer:
            parts, size = [], 0
            async for part in answer.content.iter_any():
                parts.append(part)
                size += len(part)
                if size > MOST_BODY_BYTES:
                    raise aiohttp.ClientPayloadError("the answer is larger than 256 MiB")
            return _Reply(answer.status, wire.lower(answer.headers), b"".join(parts))


def _described(error: Exception) -> str:
    """What kept a reply from coming; in the system's words where no connection was made."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        told = getattr(cause, "verify_message", cause)
        return f"its certificate is not accepted: {told}; SSL_CERT_FILE names those to trust"
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, ssl.SSLError):
        number = error.os_error.errno
        # Numbers of name resolution are negative, and their words right; asyncio's are an address.
        if number is not None and number > 0:
            return os.strerror(number)
        return error.os_error.strerror or str(error.os_error)
    return str(error) or type(error).__name__


class _Gate:
    """Admits requests up to the concurrency limit, first come first served."""

    def __init__(self, concurrency: flow_control.ConcurrencyLimit) -> None:
        self.concurrency = concurrency
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def room(self) -> bool:
        return self._in_flight < int(self.concurrency.limit)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """A slot among the requests in flight; yields the time at which it was granted."""
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
            if now < self.concurrency.not_before:
                await asyncio.sleep(self.concurrency.not_before - now)
            yield time.monotonic()
        finally:
            self._in_flight -= 1
            self._wake()

    def _wake(self) -> None:
        free = int(self.concurrency.limit) - self._in_flight
        while self._waiting and free > 0:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1
