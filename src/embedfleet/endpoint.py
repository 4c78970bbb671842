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
from embedfleet.telemetry.tracing import current_span
from embedfleet.vocabulary import (
    EmbedfleetError,
    Encoding,
    Lane,
    ModelIdentity,
    NoReplicaError,
    OverloadedError,
    UnknownModelError,
    Vectors,
)
from embedfleet.wire.asgi import Request, Response, error_response
from embedfleet.wire.attendance import Attendance
from embedfleet.wire.headers import (
    NO_PROXIES,
    TrustedProxies,
    client_address,
    deadline_s,
    lane_of,
    timing_headers,
)
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


@dataclass(frozen=True, slots=True)
class Caller:
    """What matters of who asks, beside the texts."""

    lane: Lane
    deadline: float
    """When the answer is of no use any more, monotonic seconds."""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Computed:
    """The vectors of a request, and where its time went."""

    vectors: Vectors
    """[texts, width], in the order of the texts."""
    queue_s: float
    """Longest wait of one of its texts."""
    compute_s: float
    """Longest computation of a batch with one of its texts."""


class Pass(Protocol):
    """What one request may use; opened before its body is read, closed when it is answered."""

    lane: Lane | None
    """The only lane that the caller may use; None leaves it to the request."""

    def enter(self, model: str, texts: int) -> None:
        """Ask for a model and a number of texts; ForbiddenError or RateLimitedError says no."""
        ...

    def charge(self, tokens: int) -> None:
        """Pay for what has to be computed; RateLimitedError before anything is."""
        ...

    def close(self) -> None:
        """Give back what was taken for as long as the request runs."""
        ...


class Access(Protocol):
    """Who may ask, and how much."""

    def open(self, authorization: str | None) -> Pass:
        """Tell callers apart by their `authorization` header; UnauthorizedError says no."""
        ...


class OpenPass:
    """Everything is allowed."""

    lane: Lane | None = None

    def enter(self, model: str, texts: int) -> None: ...

    def charge(self, tokens: int) -> None: ...

    def close(self) -> None: ...


class OpenAccess:
    """Everybody may ask for everything: a service that only this machine reaches."""

    _pass = OpenPass()

    def open(self, authorization: str | None) -> Pass:  # noqa: ARG002
        return self._pass


class Backend(Protocol):
    """Computes vectors for encodings."""

    async def compute(self, encodings: Sequence[Encoding], caller: Caller) -> Computed:
        """Vectors in the order of `encodings`; cancelling forgets the work.

        Raises the error of the first text that has none.
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
    address: str = ""
    """The client's, as far as it can be believed."""


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
        trusted_proxies: TrustedProxies = NO_PROXIES,
        tokenizer_threads: int,
        answered: Callable[[Answered], None],
        access: Access | None = None,
    ) -> None:
        """`models` gives the models served right now, by every name that callers may use."""
        self._models = models
        self._limits = limits
        self._max_body_bytes = max_body_bytes
        self._max_held_bytes = max_held_bytes
        self._held_bytes = 0
        self._timeout_s = timeout_s
        self._trusted_proxies = trusted_proxies
        self._answered = answered
        self._access = access or OpenAccess()
        self._threads = ThreadPoolExecutor(tokenizer_threads, "tokenize")
        self.active = 0
        """Requests being answered."""

    async def embeddings(self, request: Request) -> Response:
        """Answer `POST /v1/embeddings`."""
        started = time.monotonic()
        model: ServedModel | None = None
        allowed: Pass | None = None
        texts = tokens = held = 0
        self.active += 1
        try:
            allowed = self._access.open(request.header(b"authorization"))
            body = await request.body(self._max_body_bytes)
            held = self._hold(len(body))
            parsed = parse_request(body, self._limits)
            model = self._find(parsed.model)
            texts = len(parsed.inputs)
            check_dimensions(parsed, model.identity.width)
            allowed.enter(model.names[0], texts)
            encoded = await self._encode(model, parsed)
            tokens = sum(len(text.ids) for text in encoded)
            allowed.charge(tokens)
            caller = self._caller(request, started, allowed.lane)
            computed = await self._compute(request, model, encoded, caller)
            response = Response(
                render_response(
                    derive(computed.vectors, parsed.dimensions),
                    encoding_format=parsed.encoding_format,
                    model=parsed.model,
                    prompt_tokens=tokens,
                ),
                headers=timing_headers(
                    time.monotonic() - started, computed.queue_s, computed.compute_s
                ),
            )
        except EmbedfleetError as error:
            response = error_response(error)
        finally:
            self.active -= 1
            self._held_bytes -= held
            if allowed is not None:
                allowed.close()
        name = model.names[0] if model else None
        seconds = time.monotonic() - started
        address = client_address(request, self._trusted_proxies)
        if (span := current_span()) is not None:
            span.tell(model=name or "none", texts=texts, tokens=tokens)
        self._answered(Answered(name, response.status, seconds, texts, tokens, address))
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

    def _caller(self, request: Request, started: float, lane: Lane | None) -> Caller:
        timeout_s = deadline_s(request.header(b"x-request-deadline-ms"), self._timeout_s)
        lane = lane_of(request.header(b"x-embedfleet-lane")) if lane is None else lane
        if (span := current_span()) is not None:
            span.tell(lane=lane.value)
        return Caller(lane, started + timeout_s, client_address(request, self._trusted_proxies))

    async def _compute(
        self, request: Request, model: ServedModel, encoded: list[EncodedText], caller: Caller
    ) -> Computed:
        """Wait for the vectors, the deadline or the caller's leaving, whichever comes first."""
        async with Attendance(request, caller.deadline - time.monotonic()):
            return await model.backend.compute([text.ids for text in encoded], caller)
