"""OpenAI's embeddings API over anything that computes vectors.

Decides the way of one request from its bytes to the answer's bytes: parse, find the model, check,
look up, tokenise, charge, compute, derive, render. A gateway and a replica answer with this same
code, so that both keep the same contract. Refuses to know where vectors come from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from embedfleet.access import Access, OpenAccess, Pass
from embedfleet.cache.tiers import VectorCache
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
    parse_request,
    render_model,
    render_models,
    render_response,
)

Headers = list[tuple[bytes, bytes]]

INLINE_NUMBERS: Mapping[EncodingFormat, int] = {"float": 16_384, "base64": 1 << 20}
"""Vectors of no more numbers are written on the event loop: about a millisecond either way."""


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
        self._tokenizing = Tokenizing(tokenizer_threads)
        self._recalling = Recalling(cache, self._tokenizing) if cache is not None else None
        self._counting = TokenCounting(self._intake, self._tokenizing, self._access)
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
        return Response(b"{}", headers=response.headers)

    async def _embeddings(self, request: Request, access: Access) -> Response:
        started = time.monotonic()
        model: ServedModel | None = None
        allowed: Pass | None = None
        texts = tokens = 0
        hits: int | None = None
        status = EmbedfleetError.status  # unless it turns out otherwise
        held = self._intake.holding()
        address = client_address(request, self._trusted_proxies)
        self.active += 1
        try:
            allowed = access.open(request.header(b"authorization"))
            body = await self._intake.body(request, held)
            parsed = parse_request(body, self._intake.limits)
            model = self._intake.find(parsed.model)
            texts = len(parsed.inputs)
            check_dimensions(parsed, model.identity.width)
            allowed.enter(model.names[0], texts)
            caller = self._caller(request, started, address, allowed)
            found = await self._vectors(request, model, parsed, caller, allowed)
            tokens, hits = found.tokens, found.hits
            written = await self._write(found, parsed)
            told = [*_headers(found, texts, started), *allowed.headers()]
            response = Response(written, headers=told)
            status = response.status
        except EmbedfleetError as error:
            response, status = error_response(error), error.status
        except ClientGoneError as left:
            status = left.status
            raise
        finally:
            self.active -= 1
            held.release()
            key = ""
            if allowed is not None:
                allowed.close()
                key = allowed.key
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

    def _caller(self, request: Request, started: float, address: str, allowed: Pass) -> Caller:
        timeout_s = deadline_s(request.header(b"x-request-deadline-ms"), self._timeout_s)
        lane = allowed.lane
        if lane is None:
            lane = lane_of(request.header(b"x-embedfleet-lane"))
        if (span := current_span()) is not None:
            span.tell(lane=lane.value)
        return Caller(lane, started + timeout_s, address)

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
            return await self._compute(request, model, parsed, caller, allowed)
        if seen.hits < len(seen.keys):
            await self._recalling.complete(seen, request, caller, allowed)
        vectors = [entry.vector for entry in seen.entries if entry is not None]
        return _Found(vectors, seen.tokens, seen.queue_s, seen.compute_s, seen.hits)

    async def _compute(
        self,
        request: Request,
        model: ServedModel,
        parsed: EmbeddingRequest,
        caller: Caller,
        allowed: Pass,
    ) -> _Found:
        """Wait for the vectors, the deadline or the caller's leaving, whichever comes first."""
        encoded = await self._tokenizing.encode(model, parsed, parsed.inputs)
        tokens = sum(len(text.ids) for text in encoded)
        model.backend.admit(len(encoded), tokens, caller)
        allowed.charge(tokens)
        encodings = [text.ids for text in encoded]
        with Attendance(request, caller.deadline - time.monotonic()):
            found = await compute(model.backend, encodings, caller, model.identity.width)
        return _Found(found.rows, tokens, found.queue_s, found.compute_s)

    async def _write(self, found: _Found, parsed: EmbeddingRequest) -> bytes:
        """The answer's body; a large one is written beside the event loop."""

        def write() -> bytes:
            return render_response(
                derive(found.vectors, parsed.dimensions),
                encoding_format=parsed.encoding_format,
                model=parsed.model,
                prompt_tokens=found.tokens,
            )

        numbers = len(found.vectors) * len(found.vectors[0])
        if numbers <= INLINE_NUMBERS[parsed.encoding_format]:
            return write()
        return await self._tokenizing.apart(write)


def _headers(found: _Found, texts: int, started: float) -> Headers:
    headers = timing_headers(time.monotonic() - started, found.queue_s, found.compute_s)
    if found.hits is not None:
        told = b"hit=%d; miss=%d" % (found.hits, texts - found.hits)
        headers.append((b"x-embedfleet-cache", told))
    return headers
