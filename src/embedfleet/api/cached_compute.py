"""Looks up a request's texts in the cache, and computes the rest.

A text that another request is already computing is awaited instead of being computed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from embedfleet.api.formats.embedding_request import EmbeddingRequest
from embedfleet.api.served_model import ModelVersion, ServedModel, prompt_of, truncation
from embedfleet.api.tokenizing import Tokenizing, whole
from embedfleet.cache.entry import Entry
from embedfleet.cache.key import Keys, VectorIdentity
from embedfleet.cache.single_flight import SharedText, SingleFlight
from embedfleet.cache.tiers import VectorCache
from embedfleet.models.encoding.encoder import EncodedText
from embedfleet.scheduling.texts import Caller, Waiting
from embedfleet.transport.access import Quota
from embedfleet.transport.headers import CacheDirectives
from embedfleet.vocabulary import CallerError, EmbedfleetError, Truncation

MOST_IDENTITIES = 1024
"""Prompts whose state of hashing is remembered; callers make them up, so there must be an end."""

INLINE_KEYED = 16_384
"""Requests with no more characters or ids get their keys on the event loop; a millisecond."""


NONE: frozenset[bytes] = frozenset()


@dataclass(slots=True, eq=False)
class CacheLookup:
    """What is known of a request's texts so far."""

    model: ServedModel
    parsed: EmbeddingRequest
    directives: CacheDirectives
    keys: list[bytes]
    entries: list[Entry | None]
    """In the order of the texts; None where nothing is known yet."""
    hits: int
    queue_s: float = 0.0
    compute_s: float = 0.0
    faults: dict[bytes, EmbedfleetError] = field(default_factory=dict)
    """What is wrong with texts that have no entry, where each is for itself."""

    def missing(self) -> dict[bytes, int]:
        """The first place of each text that is missing; equal ones are one."""
        found: dict[bytes, int] = {}
        for place, (key, entry) in enumerate(zip(self.keys, self.entries, strict=True)):
            if entry is None and key not in self.faults:
                found.setdefault(key, place)
        return found

    def fill(self, known: dict[bytes, Entry]) -> int:
        """Put entries to all places of their texts; return how many those are."""
        filled = 0
        for place, key in enumerate(self.keys):
            if self.entries[place] is None and (entry := known.get(key)) is not None:
                self.entries[place] = entry
                filled += 1
        return filled


class CachedCompute:
    """Vectors of requests, through a cache."""

    def __init__(self, cache: VectorCache, tokenizing: Tokenizing) -> None:
        self._cache = cache
        self._flights = SingleFlight(cache)
        self._tokenizing = tokenizing
        self._keys: dict[tuple[object, ...], Keys] = {}
        """By all that a request may say of what stands before its texts and becomes of long ones:
        so that usual requests need not have either worked out."""

    async def begin(
        self, model: ServedModel, parsed: EmbeddingRequest, directives: CacheDirectives
    ) -> CacheLookup | None:
        """Look up in memory; None while the version of the model is not known."""
        version = model.version()
        if version is None:
            return None
        of = self._keys_for(version, model, parsed).of
        if sum(map(len, parsed.inputs)) <= INLINE_KEYED:
            keys = [of(text) for text in parsed.inputs]
        else:
            keys = await self._tokenizing.apart(lambda: [of(text) for text in parsed.inputs])
        if not directives.answer:
            return CacheLookup(model, parsed, directives, keys, [None] * len(keys), 0)
        entries = self._cache.recall(keys)
        hits = len(keys) - entries.count(None)
        return CacheLookup(model, parsed, directives, keys, entries, hits)

    async def complete(self, seen: CacheLookup, caller: Caller, allowed: Quota) -> None:
        """Get what is missing: from Redis, from a request that computes it, or from the backend.

        Raises what a request without a cache would.
        """
        if seen.directives.answer and self._cache.remote is not None:
            await self._fetch(seen)
        if missing := seen.missing():
            await self._compute(seen, missing, caller, allowed)
        if None in seen.entries and seen.missing():
            raise EmbedfleetError("vectors are missing in an answer. This is a bug.")

    async def _fetch(self, seen: CacheLookup) -> None:
        missing = list(seen.missing())
        found = await self._cache.fetch(missing, seen.model.identity.width)
        # What came meanwhile is in memory by now.
        later = (entry or self._cache.peek(key) for key, entry in zip(missing, found, strict=True))
        known = {key: entry for key, entry in zip(missing, later, strict=True) if entry}
        seen.hits += seen.fill(known)

    async def _compute(
        self,
        seen: CacheLookup,
        missing: dict[bytes, int],
        caller: Caller,
        allowed: Quota,
    ) -> None:
        """Wait for what others have computed, have the rest computed."""
        keys = list(missing)
        waiting = Waiting([None] * len(keys), by_item=seen.parsed.by_item)
        # A text that must not be stored is not shared: other clients could learn that it was sent.
        shares = seen.directives.answer and seen.directives.store
        flying = self._flights.among(missing.keys()) if shares else NONE
        join = self._flights.join
        try:
            alone = [
                at
                for at, key in enumerate(keys)
                if key not in flying or not join(waiting, at, key, caller)
            ]
            if alone:
                places = [missing[keys[at]] for at in alone]
                encoded = await self._encode(seen, places, caller, allowed)
                texts = []
                for at, text in zip(alone, encoded, strict=True):
                    if isinstance(text, CallerError):
                        waiting.take(at, text)
                    else:
                        texts.append(
                            SharedText(text.ids, waiting, at, keys[at], truncated=text.truncated)
                        )
                self._lead(seen, waiting, texts, caller, allowed, shares=shares)
            await waiting.finished
        finally:
            self._flights.leave(waiting)
            seen.queue_s, seen.compute_s = waiting.queue_s, waiting.compute_s
        found: dict[bytes, Entry] = {}
        for key, row in zip(keys, waiting.rows, strict=True):
            if isinstance(row, EmbedfleetError):
                seen.faults[key] = row
            else:
                found[key] = row
        seen.fill(found)

    def _lead(
        self,
        seen: CacheLookup,
        waiting: Waiting,
        texts: Sequence[SharedText],
        caller: Caller,
        allowed: Quota,
        *,
        shares: bool,
    ) -> None:
        """Have texts computed, but for those that others began with while these were encoded."""
        keys = {text.key for text in texts} if shares else NONE
        known, flying = self._cache.memory.among(keys), self._flights.among(keys)
        led: list[SharedText] = []
        for text in texts:
            key, ((_, place),) = text.key, text.waiting
            if key in known and (entry := self._cache.peek(key)) is not None:
                waiting.take(place, entry)
            elif key not in flying or not self._flights.join(waiting, place, key, caller):
                led.append(text)
        if not led:
            allowed.charge(0)
            return
        backend, tokens = seen.model.backend, sum(len(text.encoding) for text in led)
        backend.admit(len(led), tokens, caller)
        allowed.charge(tokens)
        self._flights.lead(waiting, led, backend, caller, stores=seen.directives.store)

    async def _encode(
        self, seen: CacheLookup, places: Sequence[int], caller: Caller, allowed: Quota
    ) -> list[EncodedText | CallerError]:
        parsed = seen.parsed
        texts = [parsed.inputs[place] for place in places]
        encoded = await self._tokenizing.encode(
            seen.model, parsed, texts, caller, allowed.reserve, places
        )
        return encoded if parsed.by_item else [*whole(encoded)]

    def _keys_for(
        self, version: ModelVersion, model: ServedModel, parsed: EmbeddingRequest
    ) -> Keys:
        asked = (parsed.role, parsed.instruction, parsed.queries, parsed.truncate, parsed.cut)
        made = (model.identity.tokenizer, model.encoder.template, model.pooling)
        known = (version, made, model.truncate, asked)
        keys = self._keys.get(known)
        if keys is None:
            if len(self._keys) >= MOST_IDENTITIES:
                self._keys.clear()
            identity = vector_identity(
                version, model, prompt_of(model, parsed), truncation(model, parsed)
            )
            keys = self._keys[known] = Keys(identity)
        return keys


def vector_identity(
    version: ModelVersion, model: ServedModel, prompt: str, truncate: Truncation
) -> VectorIdentity:
    """What determines the vectors of a request's texts, beside these."""
    identity, template = model.identity, model.encoder.template
    return VectorIdentity(
        pool=model.names[0],
        revision=version.revision,
        precision=version.precision,
        tokenizer=identity.tokenizer,
        before=template.before,
        after=template.after,
        pooling=model.pooling,
        width=identity.width,
        max_tokens=identity.max_tokens,
        prompt=prompt,
        truncate=truncate,
    )
