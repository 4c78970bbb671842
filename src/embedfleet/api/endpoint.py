"""Handles one request for vectors: parse, find the model, look up the cache, tokenise, compute.

Gateway and replica, and all API contracts, share this code; what differs between APIs is in
`contracts`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import msgspec

from embedfleet.api.answer_memory import AnswerRoom, HeldAnswer, delivered
from embedfleet.api.cached_compute import CachedCompute, CacheLookup
from embedfleet.api.contracts.contract import Answer, Contract, TwoApis
from embedfleet.api.contracts.openai import OPENAI
from embedfleet.api.descriptions import ApiDescription, Cards
from embedfleet.api.formats.embedding_request import (
    EmbeddingRequest,
    RequestLimits,
    check_dimensions,
)
from embedfleet.api.formats.openapi import More
from embedfleet.api.formats.vector_forms import Form, Layout
from embedfleet.api.intake import NO_MODEL, Holding, Intake
from embedfleet.api.served_model import Answered, ServedModel, fitted
from embedfleet.api.tokenize import TokenCounting
from embedfleet.api.tokenizing import Tokenizing, whole
from embedfleet.api.vector_space import Spaces
from embedfleet.cache.tiers import VectorCache
from embedfleet.models.encoding.encoder import EncodedText
from embedfleet.runtime.telemetry.tracing import current_span
from embedfleet.scheduling.texts import Caller, Waiting, compute
from embedfleet.transport.access import Access, OpenAccess, Quota
from embedfleet.transport.asgi import (
    ClientGoneError,
    Request,
    Response,
    Route,
    error_response,
)
from embedfleet.transport.cancel_scope import CancelScope
from embedfleet.transport.compression import Content
from embedfleet.transport.headers import (
    NO_PROXIES,
    TrustedProxies,
    cache_directives,
    client_address,
    deadline_s,
    lane_of,
    timing_headers,
)
from embedfleet.vocabulary import (
    DeadlineError,
    EmbedfleetError,
    RateLimitedError,
    ServiceError,
    Task,
    Vector,
)

Headers = list[tuple[bytes, bytes]]

INLINE_NUMBERS: Mapping[Layout, int] = {"float": 16_384, "base64": 1 << 20}
"""Vectors of no more numbers are written on the event loop: about a millisecond either way."""

INLINE_ROUNDED = 1 << 17
"""The same of numbers of another kind than float32."""

BYTES_OF_TEXT = 64
"""What stands around each vector."""


class Endpoint:
    """Vectors by every contract, `/v1/models`, `/tokenize` and `/openapi.json`."""

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
        described: Sequence[More] = (),
    ) -> None:
        """`models` gives the models served right now, by every name that callers may use;
        `no_model` what they are told while there is none. `described` are other routes of the same
        address, for its OpenAPI document.
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
        self.answers = AnswerRoom(max_answer_bytes)
        self._tokenizing = Tokenizing(
            tokenizer_threads, max_held_bytes, own_ids=limits.input_ids == "check"
        )
        self._cached = CachedCompute(cache, self._tokenizing) if cache is not None else None
        self._counting = TokenCounting(
            self._intake, self._tokenizing, self.answers, self._access, self._asks
        )
        self._description = ApiDescription(self._intake, described)
        self._spaces = Spaces()
        self.cards = Cards(self._intake, self._spaces)
        self.active = 0
        """Requests being answered."""

    def embeddings(self, request: Request) -> Awaitable[Response]:
        """Answer `POST /v1/embeddings`."""
        return self._embeddings(request, self._access, OPENAI)

    def by(self, contract: Contract | TwoApis, access: Access | None = None) -> Route:
        """The route of a contract; `access` where it differs from the endpoint's."""
        access = access or self._access
        if isinstance(contract, TwoApis):
            return lambda request: self._embeddings(request, access, contract.begin())
        return partial(self._embeddings, access=access, contract=contract)

    async def warm(self, request: Request) -> Response:
        """Have texts computed that are not known yet, for an operator: no key, no vectors back.

        The body is an embeddings request, so that entries are found by what traffic asks for. The
        answer's `x-embedfleet-cache` says how many were known.
        """
        response = await self._embeddings(request, OpenAccess(), OPENAI)
        if response.status != 200:
            return response
        if response.taken is not None:
            response.taken()
        return Response(b"{}", headers=response.headers)

    async def _embeddings(self, request: Request, access: Access, contract: Contract) -> Response:
        started = time.monotonic()
        model: ServedModel | None = None
        allowed: Quota | None = None
        texts = tokens = 0
        hits: int | None = None
        status = EmbedfleetError.status  # unless it turns out otherwise
        held, answer = Holding(self._intake), HeldAnswer(self.answers)
        address = client_address(request, self._trusted_proxies)
        response: Response | None = None
        self.active += 1
        try:
            allowed = access.open(request.credentials)
            held.caller = allowed.key or address
            caller = self._caller(request, started, address, allowed)
            scope = CancelScope(request, caller.deadline - time.monotonic(), whole=False)
            with scope:
                parsed = await self._intake.read(request, held, scope, contract)
                model = self._intake.find(parsed.model, reranks=bool(parsed.queries))
                texts = parsed.texts
                check_dimensions(parsed, model.identity.width)
                allowed.enter(model.names[0], texts)
                told = await self._vectors(request, model, parsed, caller, allowed)
                tokens, hits = told.tokens, told.hits
                held.release()
                told.name, told.seconds = request.id, time.monotonic() - started
                written = await self._write(told, texts, contract, answer)
            headers = [*_headers(told, texts, started), *self._of_space(model)]
            response = _response(written, headers, answer, allowed, _content(parsed))
            status = response.status
        except EmbedfleetError as error:
            if allowed is not None and is_ours(error):
                allowed.refund()
            status = error.status
            return error_response(_explained(error, model), contract.refuse)
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

    def _asks(self, request: Request, allowed: Quota) -> Caller:
        address = client_address(request, self._trusted_proxies)
        return self._caller(request, time.monotonic(), address, allowed)

    def _caller(self, request: Request, started: float, address: str, allowed: Quota) -> Caller:
        timeout_s, lane = self._timeout_s, allowed.lane
        if b"x-request-deadline-ms" in request.first:
            timeout_s = deadline_s(request.header(b"x-request-deadline-ms"), timeout_s)
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
        allowed: Quota,
    ) -> Answer:
        """From the cache what it knows; the rest, or all without one, from the backend."""
        asked = fitted(parsed, model)
        seen: CacheLookup | None = None
        if self._cached is not None:
            directives = cache_directives(request.listed(b"cache-control"))
            seen = await self._cached.begin(model, asked, directives)
        if self._cached is None or seen is None:
            return await self._compute(model, parsed, asked, caller, allowed)
        if seen.hits < len(seen.keys):
            await self._cached.complete(seen, caller, allowed)
        vectors: list[Vector] = []
        truncated: list[int] = []
        faults: dict[int, EmbedfleetError] = {}
        tokens = 0
        for place, entry in enumerate(seen.entries):
            if entry is None:
                faults[place] = seen.faults[seen.keys[place]]
                continue
            vectors.append(entry.vector)
            tokens += entry.tokens
            if entry.truncated:
                truncated.append(place)
        found = Answer(parsed, vectors, tokens, seen.queue_s, seen.compute_s, seen.hits)
        plain = parsed.places is None and not truncated and not faults
        return found if plain else _placed(found, truncated, faults)

    async def _compute(
        self,
        model: ServedModel,
        parsed: EmbeddingRequest,
        asked: EmbeddingRequest,
        caller: Caller,
        allowed: Quota,
    ) -> Answer:
        """Vectors of `asked`, the request as its model is asked, without a cache."""
        every = await self._tokenizing.encode(model, asked, asked.inputs, caller, allowed.reserve)
        if not asked.by_item:
            encoded = whole(every)
            done, tokens = await self._compute_all(model, encoded, caller, allowed)
            found = Answer(parsed, done.rows, tokens, done.queue_s, done.compute_s)
            truncated = [at for at, text in enumerate(encoded) if text.truncated]
            plain = parsed.places is None and not truncated
            return found if plain else _placed(found, truncated, {})
        faults: dict[int, EmbedfleetError] = {}
        good: dict[int, EncodedText] = {}
        for at, one in enumerate(every):
            if isinstance(one, EncodedText):
                good[at] = one
            else:
                faults[at] = one
        done, tokens = await self._compute_all(
            model, list(good.values()), caller, allowed, by_item=True
        )
        rows = dict(zip(good, done.rows, strict=True))
        faults |= {at: row for at, row in rows.items() if isinstance(row, EmbedfleetError)}
        vectors = [row for at, row in rows.items() if at not in faults]
        truncated = [at for at, text in good.items() if text.truncated and at not in faults]
        found = Answer(parsed, vectors, tokens, done.queue_s, done.compute_s)
        return _placed(found, truncated, faults)

    async def _compute_all(
        self,
        model: ServedModel,
        encoded: Sequence[EncodedText],
        caller: Caller,
        allowed: Quota,
        *,
        by_item: bool = False,
    ) -> tuple[Waiting, int]:
        """Compute valid texts; returns their rows and tokens. With `by_item` rows may be errors."""
        ids = [text.ids for text in encoded]
        tokens = sum(map(len, ids))
        model.backend.admit(len(ids), tokens, caller)
        allowed.charge(tokens)
        if not ids:
            return Waiting([]), 0
        width = model.identity.width
        return await compute(model.backend, ids, caller, width, by_item=by_item), tokens

    async def _write(
        self, told: Answer, texts: int, contract: Contract, answer: HeldAnswer
    ) -> Response:
        """Render the answer to so many texts; a large one off the event loop."""
        vectors, parsed = len(told.full), told.request
        width = 0 if not vectors else parsed.dimensions or len(told.full[0])
        size, inline = BYTES_OF_TEXT, True
        for form in parsed.forms:
            size += form.size(width)
            inline = inline and vectors * width <= _inline(form)
        await answer.take(vectors * size + BYTES_OF_TEXT * texts)
        if inline:
            return contract.write(told)
        return await self._tokenizing.apart(partial(contract.write, told))

    def _of_space(self, model: ServedModel) -> Headers:
        if model.identity.task is not Task.EMBED:
            return []
        space = self._spaces.of(model)
        return [] if space is None else [(b"x-embedfleet-space", space.encode())]


def _explained(error: EmbedfleetError, model: ServedModel | None) -> EmbedfleetError:
    """Say of a deadline that passed whether it is the replicas' doing."""
    if not isinstance(error, DeadlineError) or model is None or error.parts:
        return error
    why = model.backend.shortage()
    return DeadlineError(f"{error.message}: {why}") if why else error


def _inline(form: Form) -> int:
    """Numbers of a form that are written on the event loop."""
    most = INLINE_NUMBERS.get(form.layout, INLINE_NUMBERS["base64"])
    return most if form.kind == "float32" else min(most, INLINE_ROUNDED)


def _placed(
    found: Answer, truncated: Sequence[int], faults: Mapping[int, EmbedfleetError]
) -> Answer:
    """The answer with places in the request; `truncated` and `faults` are by place in `inputs`."""
    parsed = found.request
    places = range(len(parsed.inputs)) if parsed.places is None else parsed.places
    found.faults = dict(zip(parsed.faulty, parsed.faults, strict=True))
    found.faults |= {places[at]: fault for at, fault in faults.items()}
    found.places = [place for place in places if place not in found.faults]
    found.truncated = frozenset(places[at] for at in truncated)
    return found


def is_ours(error: EmbedfleetError) -> bool:
    """Whether a request that ended so could not help it, and pays nothing."""
    if isinstance(error, RateLimitedError):
        return False
    return isinstance(error, ServiceError) or error.status >= 500


def _content(parsed: EmbeddingRequest) -> Content:
    for form in parsed.forms:
        if form.layout != "float":
            return "packed"
    return "numbers"


def _response(
    written: Response, headers: Headers, answer: HeldAnswer, allowed: Quota, content: Content
) -> Response:
    return msgspec.structs.replace(
        written,
        headers=[*written.headers, *headers, *allowed.headers()],
        # Texts of a key are in flight until the answer is taken.
        taken=partial(delivered, answer, allowed),
        content=content,
    )


MOST_PLACES = 256
"""Most positions of texts that a header lists."""


def _headers(told: Answer, texts: int, started: float) -> Headers:
    headers = timing_headers(time.monotonic() - started, told.queue_s, told.compute_s)
    if told.hits is not None:
        counts = b"hit=%d; miss=%d" % (told.hits, texts - told.hits)
        headers.append((b"x-embedfleet-cache", counts))
    if ignored := told.request.ignored:
        headers.append((b"x-embedfleet-ignored", ", ".join(ignored).encode()))
    if told.truncated:
        headers.append((b"x-embedfleet-truncated", _listed(sorted(told.truncated))))
    if told.faults:
        headers.append((b"x-embedfleet-errors", b"%d" % len(told.faults)))
    return headers


def _listed(places: Sequence[int]) -> bytes:
    """Places in the request, as a header lists them."""
    some = [str(place) for place in places[:MOST_PLACES]]
    more = len(places) - len(some)
    return (", ".join(some) + (f" and {more} more" if more else "")).encode()
