"""OpenAI's embeddings API over anything that computes vectors.

Decides the way of one request from its bytes to the answer's bytes: parse, find the model, check,
look up, tokenise, charge, compute, derive, render. A gateway and a replica answer with this same
code, so that both keep the same contract. Refuses to know where vectors come from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from embedfleet.access import Access, OpenAccess, Pass
from embedfleet.cache.tiers import VectorCache
from embedfleet.endpoint.answers import AnswerRoom, HeldAnswer
from embedfleet.endpoint.counting_tokens import TokenCounting
from embedfleet.endpoint.describing import ApiDescription
from embedfleet.endpoint.intake import NO_MODEL, Intake
from embedfleet.endpoint.recalling import Recalling, Recollection
from embedfleet.endpoint.seams import Answered, Caller, ServedModel
from embedfleet.endpoint.texts import compute
from embedfleet.endpoint.tokenizing import Tokenizing
from embedfleet.telemetry.tracing import current_span
from embedfleet.vocabulary import (
    EmbedfleetError,
    RateLimitedError,
    ServiceError,
    Vector,
    Vectors,
)
from embedfleet.wire.asgi import ClientGoneError, Request, Response, error_response
from embedfleet.wire.attendance import Attendance
from embedfleet.wire.headers import (
    NO_PROXIES,
    TrustedProxies,
    cache_wishes,
    client_address,
    deadline_s,
    lane_of,
    timing_headers,
)
from embedfleet.wire.openai import (
    EmbeddingRequest,
    EncodingFormat,
    RequestLimits,
    check_dimensions,
    derive,
    render_model,
    render_models,
    render_response,
)

Headers = list[tuple[bytes, bytes]]

INLINE_NUMBERS: Mapping[EncodingFormat, int] = {"float": 16_384, "base64": 1 << 20}
"""Vectors of no more numbers are written on the event loop: about a millisecond either way."""


BYTES_OF_NUMBER: Mapping[EncodingFormat, float] = {"float": 13.0, "base64": 16 / 3}
"""What a number of a vector takes in an answer."""

BYTES_OF_TEXT = 64
"""What stands around each vector."""


@dataclass(slots=True)
class _Found:
    """A request's vectors, full width, and what is told of them."""

    vectors: Vectors | Sequence[Vector]
    tokens: int
    queue_s: float = 0.0
    compute_s: float = 0.0
    hits: int | None = None
    """Texts that a cache knew; None without one."""


class Endpoint:
    """`/v1/embeddings`, `/v1/models`, `/tokenize` and `/openapi.json`."""

    def __init__(  # noqa: PLR0913  by name, and each says what it is
        self,
        models: Callable[[], Mapping[str, ServedModel]],
        *,
        limits: RequestLimits,
        max_body_bytes: int,
        max_held_bytes: int,
        timeout_s: float,
        trusted_proxies: TrustedProxies = NO_PROXIES,
        max_answer_bytes: int = 1 << 28,
        tokenizer_threads: int,
        answered: Callable[[Answered], None],
        access: Access | None = None,
        cache: VectorCache | None = None,
        no_model: Callable[[], str] = lambda: NO_MODEL,
    ) -> None:
        """`models` gives the models served right now, by every name that callers may use;
        `no_model` what they are told while there is none.
        """
        self._intake = Intake(
            models,
            limits=limits,
            max_body_bytes=max_body_bytes,
            max_held_bytes=max_held_bytes,
            no_model=no_model,
        )
        self._timeout_s = timeout_s
        self._trusted_proxies = trusted_proxies
        self._answered = answered
        self._access = access or OpenAccess()
        self._answers = AnswerRoom(max_answer_bytes)
        self._tokenizing = Tokenizing(tokenizer_threads, max_held_bytes)
        self._recalling = Recalling(cache, self._tokenizing) if cache is not None else None
        self._counting = TokenCounting(
            self._intake, self._tokenizing, self._answers, self._access, self._asks
        )
        self._description = ApiDescription(self._intake)
        self.active = 0
        """Requests being answered."""

    async def embeddings(self, request: Request) -> Response:
        """Answer `POST /v1/embeddings`."""
        return await self._embeddings(request, self._access)

    async def warm(self, request: Request) -> Response:
        """Have texts computed that are not known yet, for an operator: no key, no vectors back.

        The body is an embeddings request, so that entries are found by what traffic asks for. The
        answer's `x-embedfleet-cache` says how many were known.
        """
        response = await self._embeddings(request, OpenAccess())
        if response.status != 200:
            return response
        if response.taken is not None:
            response.taken()
        return Response(b"{}", headers=response.headers)

    async def _embeddings(self, request: Request, access: Access) -> Response:
        started = time.monotonic()
        model: ServedModel | None = None
        allowed: Pass | None = None
        texts = tokens = 0
        hits: int | None = None
        status = EmbedfleetError.status  # unless it turns out otherwise
        held, answer = self._intake.holding(), HeldAnswer(self._answers)
        address = client_address(request, self._trusted_proxies)
        response: Response | None = None
        self.active += 1
        try:
            allowed = access.open(request.header(b"authorization"))
            held.caller = allowed.key or address
            caller = self._caller(request, started, address, allowed)
            scope = Attendance(request, caller.deadline - time.monotonic(), whole=False)
            with scope:
                parsed = await self._intake.read(request, held, scope)
                model = self._intake.find(parsed.model)
                texts = len(parsed.inputs)
                check_dimensions(parsed, model.identity.width)
                allowed.enter(model.names[0], texts)
                found = await self._vectors(request, model, parsed, caller, allowed)
                tokens, hits = found.tokens, found.hits
                held.release()
                written = await self._write(found, parsed, answer)
            told = [*_headers(found, texts, started), *allowed.headers()]
            # Texts of a key are in flight until the answer is taken.
            response = Response(written, headers=told, taken=partial(_taken, answer, allowed))
            status = response.status
        except EmbedfleetError as error:
            if allowed is not None and is_ours(error):
                allowed.refund()
            refusal, status = error_response(error), error.status
            return refusal
        except ClientGoneError as left:
            status = left.status
            raise
        finally:
            self.active -= 1
            held.release()
            key = "" if allowed is None else allowed.key
            if response is None:
                answer.give()
                if allowed is not None:
                    allowed.close()
            name = model.names[0] if model else None
            seconds = time.monotonic() - started
            self._tell(request, Answered(name, status, seconds, texts, tokens, address, key, hits))
        return response

    def _tell(self, request: Request, answered: Answered) -> None:
        """However it ended: what went wrong here is counted as well, and who left."""
        if (span := current_span()) is not None:
            span.tell(model=answered.model or "none", texts=answered.texts, tokens=answered.tokens)
        request.notes["answered"] = answered
        self._answered(answered)

    async def list_models(self, _request: Request) -> Response:
        """Answer `GET /v1/models`: every name that may be asked for, a model's first name first."""
        known = self._intake.models()
        return Response(
            render_models([(name, model.created, model.identity) for name, model in known.items()])
        )

    async def show_model(self, request: Request) -> Response:
        """Answer `GET /v1/models/{name}`; names may hold slashes."""
        name = request.path.removeprefix("/v1/models/")
        model = self._intake.find(name)
        return Response(render_model(name, model.created, model.identity))

    async def tokenize(self, request: Request) -> Response:
        """Answer `POST /tokenize`."""
        self.active += 1
        try:
            return await self._counting.answer(request)
        finally:
            self.active -= 1

    async def describe(self, request: Request) -> Response:
        """Answer `GET /openapi.json`."""
        return await self._description.show(request)

    def close(self) -> None:
        self._tokenizing.close()

    def _asks(self, request: Request, allowed: Pass) -> Caller:
        address = client_address(request, self._trusted_proxies)
        return self._caller(request, time.monotonic(), address, allowed)

    def _caller(self, request: Request, started: float, address: str, allowed: Pass) -> Caller:
        timeout_s = deadline_s(request.header(b"x-request-deadline-ms"), self._timeout_s)
        lane = allowed.lane
        if lane is None:
            lane = lane_of(request.header(b"x-embedfleet-lane"))
        if (span := current_span()) is not None:
            span.tell(lane=lane.value)
        return Caller(lane, started + timeout_s, address, allowed.key)

    async def _vectors(
        self,
        request: Request,
        model: ServedModel,
        parsed: EmbeddingRequest,
        caller: Caller,
        allowed: Pass,
    ) -> _Found:
        """From the cache what it knows; the rest, or all without one, from the backend."""
        seen: Recollection | None = None
        if self._recalling is not None:
            wishes = cache_wishes(request.listed(b"cache-control"))
            seen = await self._recalling.begin(model, parsed, wishes)
        if self._recalling is None or seen is None:
            return await self._compute(model, parsed, caller, allowed)
        if seen.hits < len(seen.keys):
            await self._recalling.complete(seen, caller, allowed)
        vectors = [entry.vector for entry in seen.entries if entry is not None]
        return _Found(vectors, seen.tokens, seen.queue_s, seen.compute_s, seen.hits)

    async def _compute(
        self,
        model: ServedModel,
        parsed: EmbeddingRequest,
        caller: Caller,
        allowed: Pass,
    ) -> _Found:
        allowed.reserve(self._tokenizing.least_tokens(model, parsed, parsed.inputs))
        encoded = await self._tokenizing.encode(model, parsed, parsed.inputs, caller)
        tokens = sum(len(text.ids) for text in encoded)
        model.backend.admit(len(encoded), tokens, caller)
        allowed.charge(tokens)
        encodings = [text.ids for text in encoded]
        found = await compute(model.backend, encodings, caller, model.identity.width)
        return _Found(found.rows, tokens, found.queue_s, found.compute_s)

    async def _write(self, found: _Found, parsed: EmbeddingRequest, answer: HeldAnswer) -> bytes:
        """The answer's body; a large one is written beside the event loop."""

        def write() -> bytes:
            return render_response(
                derive(found.vectors, parsed.dimensions),
                encoding_format=parsed.encoding_format,
                model=parsed.model,
                prompt_tokens=found.tokens,
            )

        texts = len(found.vectors)
        numbers = texts * (parsed.dimensions or len(found.vectors[0]))
        await answer.take(
            int(numbers * BYTES_OF_NUMBER[parsed.encoding_format]) + texts * BYTES_OF_TEXT
        )
        if numbers <= INLINE_NUMBERS[parsed.encoding_format]:
            return write()
        return await self._tokenizing.apart(write)


def is_ours(error: EmbedfleetError) -> bool:
    """Whether a request that ended so could not help it, and pays nothing."""
    if isinstance(error, RateLimitedError):
        return False
    return isinstance(error, ServiceError) or error.status >= 500


def _taken(answer: HeldAnswer, allowed: Pass) -> None:
    answer.give()
    allowed.close()


def _headers(found: _Found, texts: int, started: float) -> Headers:
    headers = timing_headers(time.monotonic() - started, found.queue_s, found.compute_s)
    if found.hits is not None:
        told = b"hit=%d; miss=%d" % (found.hits, texts - found.hits)
        headers.append((b"x-embedfleet-cache", told))
    return headers
