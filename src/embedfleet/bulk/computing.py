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
from embedfleet.client.errors import AnswerError, RefusedError, UnavailableError
from embedfleet.client.wire import EmbedOptions
from embedfleet.runtime.background import all_ended

Get: TypeAlias = Callable[[Sequence[bytes]], Mapping[bytes, NDArray[Any]]]
"""Looks up vectors computed earlier, by the hashes of their texts."""

Put: TypeAlias = Callable[[Sequence[bytes], NDArray[Any]], None]
"""Stores vectors as they arrive, by the hashes of their texts."""


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


@dataclass(frozen=True, slots=True, eq=False)
class _Distinct:
    """The distinct texts of a fragment, by their hashes, and their vectors."""

    row_of: Mapping[bytes, int]
    vectors: NDArray[Any]
    """Row 0 stays zero, for places without a text."""
    faults: asyncio.Future[Mapping[int, Fault]]
    """By row; done when the vectors are there of those texts that no other fragment computes."""


def _nothing_known(_: Sequence[bytes]) -> Mapping[bytes, NDArray[Any]]:
    return {}


@dataclass(slots=True)
class Computing:
    """Computes texts of several fragments at once; equal texts are sent once."""

    client: Embeds
    options: EmbedOptions
    dtype: np.dtype[Any]
    columns: int
    """Numbers in a row."""
    get: Get = _nothing_known
    disk: Executor | None = None
    """The executor that looks up and stores; None is the event loop's default."""
    arrived: Callable[[int], None] = lambda _: None
    """Called with the number of texts answered."""
    _in_flight: dict[bytes, _Distinct] = field(default_factory=dict)

    async def compute(
        self,
        texts: Sequence[str | None],
        hashes: Sequence[bytes],
        faults: Mapping[int, Fault],
        put: Put | None = None,
    ) -> Computed:
        """Vectors of texts, whose hashes are given; a text that is None has a fault already.

        Raises RefusedError, UnavailableError, AnswerError of the client, and what `get` and `put`
        raise.
        """
        row_of: dict[bytes, int] = {NO_HASH: 0}
        rows = [row_of.setdefault(key, len(row_of)) for key in hashes]
        text_of = dict(zip(hashes, texts, strict=True))
        vectors = np.zeros((len(row_of), self.columns), self.dtype)
        own = _Distinct(row_of, vectors, asyncio.get_running_loop().create_future())
        mine: list[bytes] = []
        waited: dict[_Distinct, list[bytes]] = {}
        for key in list(row_of)[1:]:
            other = self._in_flight.get(key)
            (mine if other is None else waited.setdefault(other, [])).append(key)
        # Another fragment's vector is found here or in the look-up: nothing is awaited between
        # this and the look-up, nor between leaving the table and the storing of a whole fragment.
        self._in_flight |= dict.fromkeys(mine, own)
        try:
            computed, tokens = await self._settle(own, mine, text_of, put)
            failed = dict(own.faults.result())
            for other, keys in waited.items():
                failed_there = await asyncio.shield(other.faults)
                there, here = [other.row_of[key] for key in keys], [row_of[key] for key in keys]
                vectors[here] = other.vectors[there]
                failed |= {
                    row: failed_there[at]
                    for row, at in zip(here, there, strict=True)
                    if at in failed_there
                }
        finally:
            for key in mine:
                del self._in_flight[key]
            if not own.faults.done():  # other waiters fail with this run
                ended = UnavailableError("the run that was computing it has ended")
                own.faults.set_exception(ended)
                own.faults.exception()
        found = dict(faults)
        if failed:
            found |= {at: failed[row] for at, row in enumerate(rows) if row in failed}
        in_order = len(row_of) == 1 + len(rows)  # each text once, and none missing
        return Computed(vectors[1:] if in_order else vectors[rows], found, tokens, computed)

    async def _settle(
        self,
        own: _Distinct,
        keys: Sequence[bytes],
        text_of: Mapping[bytes, str | None],
        put: Put | None,
    ) -> tuple[int, int]:
        """Look up and compute what no other fragment computes; returns how many texts were computed
        and their tokens.
        """
        loop = asyncio.get_running_loop()
        known = await loop.run_in_executor(self.disk, self.get, keys)
        for key, vector in known.items():
            own.vectors[own.row_of[key]] = vector
        asked = [key for key in keys if key not in known]
        embedded = await self._ask(asked, [text_of[key] or "" for key in asked], put)
        rows = [own.row_of[key] for key in asked]
        if len(embedded.errors) < len(asked):
            own.vectors[rows] = self._checked(embedded.vectors)
        faults = {rows[at]: fault_of(error) for at, error in embedded.errors.items()}
        own.vectors[list(faults)] = 0
        own.faults.set_result(faults)
        return len(asked), embedded.tokens

    async def _ask(self, keys: Sequence[bytes], texts: Sequence[str], put: Put | None) -> Embedded:
        """Have the service compute texts, and store each vector as it arrives."""
        loop = asyncio.get_running_loop()
        writes: list[asyncio.Future[None]] = []

        def arrived(some: Sequence[int], rows: NDArray[Any]) -> None:
            if put is not None:
                for write in [each for each in writes if each.done()]:
                    write.result()  # nothing is computed that could not be kept
                    writes.remove(write)
                found = [keys[at] for at in some], self._checked(rows)
                writes.append(loop.run_in_executor(self.disk, put, *found))
            self.arrived(len(some))

        try:
            embedded = await self.client.embed_each(texts, self.options, arrived=arrived)
            for write in writes:
                await asyncio.shield(write)
            return embedded
        finally:
            await all_ended(writes)  # also on errors: vectors that arrived are kept

    def _checked(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Vectors in the type of the output. Raises AnswerError if they are of another length."""
        if vectors.shape[1] != self.columns:
            raise AnswerError(
                f"the service answered vectors of {vectors.shape[1]} numbers where it answered "
                f"{self.columns} before: it serves another model"
            )
        return vectors.astype(self.dtype, copy=False)


def fault_of(error: RefusedError) -> Fault:
    """The fault that records a refusal."""
    return Fault(error.code or f"status_{error.http_status}", str(error))
