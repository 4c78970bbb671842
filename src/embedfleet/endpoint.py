"""OpenAI's embeddings API over anything that computes vectors.

Decides the way of one request from its bytes to the answer's bytes: parse, find the model, check,
tokenise, compute, derive, render. A gateway and a replica answer with this same code, so that both
keep the same contract. Refuses to know where vectors come from.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from embedfleet.encoding.encoder import EncodedText, Encoder
from embedfleet.encoding.prompts import prompt_for
from embedfleet.vocabulary import (
    CallerError,
    DeadlineError,
    EmbedfleetError,
    Encoding,
    Lane,
    ModelIdentity,
    NoReplicaError,
    OverloadedError,
    UnknownModelError,
    Vectors,
)
from embedfleet.wire.asgi import ClientGoneError, Request, Response, error_response
from embedfleet.wire.openai import (
    EmbeddingRequest,
    RequestLimits,
    check_dimensions,
    derive,
    parse_request,
    render_model,
    render_models,
    render_response,
)

INLINE_CHARACTERS = 4096
"""Requests with no more text than this are tokenised on the event loop: they take well under a
millisecond there, and a hop to a thread and back would cost more than the work."""


class Backend(Protocol):
    """Computes vectors for encodings."""

    async def compute(
        self, encodings: Sequence[Encoding], *, lane: Lane, deadline: float
    ) -> Vectors:
        """Vectors in the order of `encodings`, [texts, width]; cancelling forgets the work.

        `deadline` is on the monotonic clock. Raises the error of the first text that has none.
        """
        ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as callers see it."""

    identity: ModelIdentity
    names: tuple[str, ...]
    """What callers may call it; the first one is shown in lists."""
    encoder: Encoder
    backend: Backend
    created: int
    """Seconds since 1970, for OpenAI's model list."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What is told of each finished request, to be counted."""

    model: str | None
    """First name of the model; None when the request did not get that far."""
    status: int
    seconds: float
    texts: int = 0
    tokens: int = 0


class Endpoint:
    """`/v1/embeddings` and `/v1/models`."""

    def __init__(
        self,
        models: Callable[[], Mapping[str, ServedModel]],
        *,
        limits: RequestLimits,
        max_body_bytes: int,
        max_held_bytes: int,
        timeout_s: float,
        tokenizer_threads: int,
        answered: Callable[[Answered], None],
    ) -> None:
        """`models` gives the models served right now, by every name that callers may use."""
        self._models = models
        self._limits = limits
        self._max_body_bytes = max_body_bytes
        self._max_held_bytes = max_held_bytes
        self._held_bytes = 0
        self._timeout_s = timeout_s
        self._answered = answered
        self._threads = ThreadPoolExecutor(tokenizer_threads, "tokenize")
        self.active = 0
        """Requests being answered."""

    async def embeddings(self, request: Request) -> Response:
        """Answer `POST /v1/embeddings`."""
        started = time.monotonic()
        model: ServedModel | None = None
        texts = tokens = held = 0
        self.active += 1
        try:
            body = await request.body(self._max_body_bytes)
            held = self._hold(len(body))
            parsed = parse_request(body, self._limits)
            model = self._find(parsed.model)
            texts = len(parsed.inputs)
            check_dimensions(parsed, model.identity.width)
            encoded = await self._encode(model, parsed)
            tokens = sum(len(text.ids) for text in encoded)
            vectors = await self._compute(request, model, encoded, started + self._timeout_s)
            response = Response(
                render_response(
                    derive(vectors, parsed.dimensions),
                    encoding_format=parsed.encoding_format,
                    model=parsed.model,
                    prompt_tokens=tokens,
                )
            )
        except EmbedfleetError as error:
            response = error_response(error)
        finally:
            self.active -= 1
            self._held_bytes -= held
        name = model.names[0] if model else None
        seconds = time.monotonic() - started
        self._answered(Answered(name, response.status, seconds, texts, tokens))
        return response

    async def list_models(self, _request: Request) -> Response:
        """Answer `GET /v1/models`."""
        known = {model.names[0]: model for model in self._models().values()}
        return Response(
            render_models([(name, model.created, model.identity) for name, model in known.items()])
        )

    async def show_model(self, request: Request) -> Response:
        """Answer `GET /v1/models/{name}`; names may hold slashes."""
        name = request.path.removeprefix("/v1/models/")
        model = self._find(name)
        return Response(render_model(name, model.created, model.identity))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _hold(self, size: int) -> int:
        """Count a body among those held in memory; OverloadedError where they are too many."""
        if self._held_bytes and self._held_bytes + size > self._max_held_bytes:
            raise OverloadedError(
                f"{self._held_bytes} bytes of requests are being worked on; the limit is "
                f"{self._max_held_bytes} (gateway.max_queued_bytes); try again later",
                retry_after_s=1,
            )
        self._held_bytes += size
        return size

    def _find(self, name: str) -> ServedModel:
        models = self._models()
        model = models.get(name)
        if not models:
            raise NoReplicaError(
                "no replica has answered yet, so no model is known; try again soon"
            )
        if model is None:
            known = ", ".join(f"`{known}`" for known in models) or "none yet"
            raise UnknownModelError(
                f"the model `{name}` does not exist here; served: {known}",
                param="model",
                code="model_not_found",
            )
        return model

    async def _encode(self, model: ServedModel, parsed: EmbeddingRequest) -> list[EncodedText]:
        prompt = prompt_for(model.identity, role=parsed.role, instruction=parsed.instruction)
        encode = partial(
            model.encoder.encode, parsed.inputs, prompt=prompt, truncate=parsed.truncate
        )
        characters = sum(len(text) for text in parsed.inputs)
        if characters <= INLINE_CHARACTERS:
            return encode()
        return await asyncio.get_running_loop().run_in_executor(self._threads, encode)

    async def _compute(
        self, request: Request, model: ServedModel, encoded: list[EncodedText], deadline: float
    ) -> Vectors:
        """Wait for the vectors, the deadline or the caller's leaving, whichever comes first."""
        work = asyncio.ensure_future(
            model.backend.compute(
                [text.ids for text in encoded], lane=_lane(request), deadline=deadline
            )
        )
        gone = asyncio.ensure_future(request.gone())
        try:
            left = deadline - time.monotonic()
            await asyncio.wait({work, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if gone.done():
                raise ClientGoneError
            raise DeadlineError(
                f"no answer within {self._timeout_s:g} s; the service is behind with its work"
            )
        finally:
            work.cancel()
            gone.cancel()


def _lane(request: Request) -> Lane:
    value = request.header(b"x-embedfleet-lane")
    if value is None:
        return Lane.INTERACTIVE
    try:
        return Lane(value.strip().lower())
    except ValueError:
        raise CallerError(
            f"header x-embedfleet-lane is {value!r}; it takes `interactive` or `bulk`",
            param="x-embedfleet-lane",
            code="invalid_header",
        ) from None
