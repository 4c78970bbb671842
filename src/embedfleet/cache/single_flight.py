"""Single-flight: equal texts requested at the same time are computed once.

A text in flight is found by its cache key, and any request may wait for it. It is computed for as
long as anybody waits: a client's deadline or disconnect ends only that client's wait. When it
fails, the first requester gets the error; for the others it is computed once more, because the
failure may be transient, and they share that result.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from embedfleet.cache.tiers import VectorCache
from embedfleet.scheduling.texts import Backend, Caller, Text, Waiting
from embedfleet.vocabulary import EmbedfleetError, Encoding, ReplicaError, Vector, VectorError

MOST_LEADS = 2
"""How often one text is begun for those who wait for it: one that every replica fails costs twice
its attempts, however many want it."""


class SharedText(Text):
    """A text that other requests may wait for, unless it is private; its vector is kept."""

    __slots__ = ("backend", "caller", "key", "leads", "shared", "stores", "truncated")

    backend: Backend
    caller: Caller
    """For all who wait for it: the latest deadline, and the more urgent lane."""
    shared: SingleFlight
    stores: bool

    def __init__(
        self, encoding: Encoding, waiting: Waiting, place: int, key: bytes, *, truncated: bool
    ) -> None:
        """It is nowhere yet: `SingleFlight.lead` has it computed."""
        super().__init__(encoding, waiting, place)
        self.key, self.truncated = key, truncated
        self.leads = 0
        """How often it was begun."""

    def begin(
        self, shared: SingleFlight, backend: Backend, caller: Caller, *, stores: bool
    ) -> None:
        """Note who has it computed; `stores` is whether its vector may be kept and shared."""
        self.shared, self.backend, self.caller, self.stores = shared, backend, caller, stores
        self.leads = 1

    def answer(self, vector: Vector, queue_s: float, compute_s: float, source: str) -> None:
        cache, tokens = self.shared.cache, len(self.encoding)
        if self.stores:
            entry = cache.keep(self.key, vector, tokens, truncated=self.truncated, source=source)
        else:
            entry = cache.hold(vector, tokens, truncated=self.truncated)
        self.shared.forget(self)
        cache.counts.shared += max(0, len(self.waiting) - 1)
        self._give(entry, queue_s, compute_s)

    def fail(self, error: EmbedfleetError) -> None:
        passing = isinstance(error, ReplicaError) and not isinstance(error, VectorError)
        if passing and self.leads < MOST_LEADS and len(self.waiting) > 1:
            self.leads += 1
            (leader, place), *self.waiting = self.waiting
            leader.fail(place, error)
            try:
                self.backend.submit([self], self.caller)
            except EmbedfleetError as refused:
                error = refused
            else:
                return
        self.shared.forget(self)
        super().fail(error)


class SingleFlight:
    """The texts being computed, by key."""

    def __init__(self, cache: VectorCache) -> None:
        self.cache = cache
        self._flying: dict[bytes, SharedText] = {}

    def __len__(self) -> int:
        return len(self._flying)

    def among(self, keys: AbstractSet[bytes]) -> AbstractSet[bytes]:
        """Those of the keys whose text is in flight."""
        return self._flying.keys() & keys

    def join(self, waiting: Waiting, place: int, key: bytes, caller: Caller) -> bool:
        """Wait for a text that is in flight; False where none is, or it is too late for the caller:
        an interactive one does not wait for what a replica has as bulk.
        """
        text = self._flying.get(key)
        if text is None or not text.backend.join(text, caller):
            return False
        text.caller = text.caller.joined_by(caller)
        text.waiting.append((waiting, place))
        waiting.texts.append(text)
        return True

    def lead(
        self,
        waiting: Waiting,
        texts: Sequence[SharedText],
        backend: Backend,
        caller: Caller,
        *,
        stores: bool,
    ) -> None:
        """Have texts computed; others may join them unless they must not be stored.

        Raises what the backend's `submit` does, and then nothing is computed.
        """
        for text in texts:
            text.begin(self, backend, caller, stores=stores)
        waiting.texts += texts
        backend.submit(texts, caller)
        if stores:
            for text in texts:
                self._flying.setdefault(text.key, text)
            self.cache.counts.in_flight = len(self._flying)

    def leave(self, waiting: Waiting) -> None:
        """The request stopped waiting; texts that no other request awaits are withdrawn."""
        unwanted: dict[Backend, list[Text]] = {}
        for text in waiting.leave():
            if isinstance(text, SharedText):
                self.forget(text)
                unwanted.setdefault(text.backend, []).append(text)
        for backend, texts in unwanted.items():
            backend.withdraw(texts)

    def forget(self, text: SharedText) -> None:
        """No further request can join it."""
        if self._flying.get(text.key) is text:
            del self._flying[text.key]
            self.cache.counts.in_flight = len(self._flying)
