"""Computes one fragment: a vector or an error for each text, and no text computed twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedfleet.bulk.fragments import NO_HASH, Fault
from embedfleet.client.calling import Arrived, Embedded, Progress
from embedfleet.client.errors import RefusedError, UnavailableError
from embedfleet.client.wire import EmbedOptions

Result: TypeAlias = "asyncio.Future[NDArray[Any] | Fault]"


class Embeds(Protocol):
    """The part of AsyncClient that is used here."""

    async def embed_each(
        self,
        texts: Sequence[str],
        options: EmbedOptions | None = None,
        *,
        progress: Callable[[Progress], None] | None = None,
        arrived: Arrived | None = None,
    ) -> Embedded: ...


class VectorStore(Protocol):
    """Vectors computed earlier, by the hashes of their texts."""

    def get(self, hashes: Sequence[bytes]) -> Mapping[bytes, NDArray[Any]]: ...

    def put(self, hashes: Sequence[bytes], vectors: NDArray[Any]) -> None: ...


class NoStore:
    """Stores nothing."""

    def get(self, hashes: Sequence[bytes]) -> Mapping[bytes, NDArray[Any]]:  # noqa: ARG002
        return {}

    def put(self, hashes: Sequence[bytes], vectors: NDArray[Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Computed:
    """The results of some texts."""

    vectors: NDArray[Any]
    """Shape [texts, numbers in a row]; zeros where there is an error."""
    faults: Mapping[int, Fault]
    """By the place of the text."""
    tokens: int
    """Of the texts that were computed now."""
    computed: int
    """Texts that were sent to the service."""


@dataclass(slots=True)
class Computing:
    """Computes texts of several fragments at once; equal texts are sent once."""

    client: Embeds
    options: EmbedOptions
    dtype: np.dtype[Any]
    columns: int
    """Numbers in a row."""
    store: VectorStore = field(default_factory=NoStore)
    disk: Executor | None = None
    """The executor that calls `store`; None is the event loop's default."""
    arrived: Callable[[int], None] = lambda _: None
    """Called with the number of texts answered."""
    _in_flight: dict[bytes, Result] = field(default_factory=dict)

    async def compute(
        self,
        texts: Sequence[str | None],
        hashes: Sequence[bytes],
        faults: Mapping[int, Fault],
    ) -> Computed:
        """Vectors of texts, whose hashes are given; a text that is None has a fault already.

        Raises RefusedError, UnavailableError, AnswerError of the client, and what `store` raises.
        """
        places: dict[bytes, list[int]] = {}
        for at, key in enumerate(hashes):
            if key != NO_HASH:
                places.setdefault(key, []).append(at)
        vectors = np.zeros((len(texts), self.columns), self.dtype)
        found = dict(faults)
        loop = asyncio.get_running_loop()
        known = await loop.run_in_executor(self.disk, self.store.get, list(places))
        for key, row in known.items():
            vectors[places[key]] = row
        waited = {key: self._in_flight.get(key) for key in places if key not in known}
        mine = {key: texts[places[key][0]] or "" for key, other in waited.items() if other is None}
        own = {key: loop.create_future() for key in mine}
        self._in_flight |= own
        tokens = await self._ask(mine, own)
        for key, other in waited.items():
            result = await asyncio.shield(own[key] if other is None else other)
            if isinstance(result, Fault):
                found.update(dict.fromkeys(places[key], result))
            else:
                vectors[places[key]] = result
        return Computed(vectors, found, tokens, len(mine))

    async def _ask(self, texts: Mapping[bytes, str], futures: Mapping[bytes, Result]) -> int:
        """Compute texts and settle their futures; returns their tokens."""
        keys, loop = list(texts), asyncio.get_running_loop()
        writes: list[asyncio.Future[None]] = []

        def arrived(some: Sequence[int], rows: NDArray[Any]) -> None:
            found = [keys[at] for at in some]
            write = loop.run_in_executor(self.disk, self.store.put, found, rows.astype(self.dtype))
            writes.append(write)
            self.arrived(len(some))

        try:
            embedded = await self.client.embed_each(
                list(texts.values()), self.options, arrived=arrived
            )
            for write in writes:
                await asyncio.shield(write)
            rows = embedded.vectors.astype(self.dtype, copy=False)
            for at, key in enumerate(keys):
                error = embedded.errors.get(at)
                futures[key].set_result(rows[at] if error is None else fault_of(error))
        finally:
            for key, future in futures.items():
                del self._in_flight[key]
                if not future.done():  # other waiters fail with this run
                    future.set_exception(
                        UnavailableError("the run that was computing it has ended")
                    )
                    future.exception()
            if writes:  # also on errors: vectors that arrived are kept
                await asyncio.wait(writes)
        return embedded.tokens


def fault_of(error: RefusedError) -> Fault:
    """The fault that records a refusal."""
    return Fault(error.code or f"status_{error.http_status}", str(error))
