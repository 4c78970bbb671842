"""Blocking embedding function for data frameworks that run their own loops.

Frameworks re-run a task whose worker died. With `kept`, results are stored in a folder, one file
per call, named by the hash of its texts and either complete or absent; a task with the same texts
reads it, in this run or a later one.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedfleet.bulk import dtypes
from embedfleet.bulk.computing import Computed, Computing
from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.fragments import NO_HASH, Fault, hashes_of, text_or_fault
from embedfleet.client import AsyncClient, EmbedOptions
from embedfleet.runtime.folders import store_at


@dataclass(frozen=True)
class Embedding:
    """The service and the parameters of requests; pickled and sent to the workers."""

    url: str
    dimensions: int
    """Of vectors: table schemas need it before the first vector is computed."""
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    input_type: str | None = None
    instruction: str | None = None
    truncate: bool = False
    dtype: str = "float32"
    """One of `dtypes.DTYPES`."""
    text: str = "text"
    """The column of texts."""
    vector: str = "embedding"
    """The column that vectors are added as."""
    error: str = "embedding_error"
    """The column that errors of rows without a vector are added as."""
    kept: str | None = None
    """Where results are stored: a folder that all workers reach, or an fsspec URL."""

    def __post_init__(self) -> None:
        if self.dtype not in dtypes.DTYPES:
            known = ", ".join(dtypes.DTYPES)
            raise BulkError(f"dtype is {self.dtype}; it must be one of {known}")

    @property
    def columns(self) -> int:
        """Numbers in a row."""
        return dtypes.columns(self.dtype, self.dimensions)

    def only_floats(self, framework: str) -> None:
        """Raise BulkError unless the output is float32, the only type the framework supports."""
        if self.dtype != "float32":
            raise BulkError(f"{framework} takes vectors of float32; dtype is {self.dtype}")


class Embedder:
    """Embeds texts within one worker."""

    def __init__(self, wanted: Embedding) -> None:
        self.wanted = wanted
        self._runner = asyncio.Runner()
        self._store = None if wanted.kept is None else store_at(wanted.kept, alone=False)
        self._client = AsyncClient(
            wanted.url,
            model=wanted.model,
            api_key=wanted.api_key,
            lane="bulk",
            retry_timeout_s=600.0,
        )

    def __call__(self, texts: Sequence[Any]) -> Computed:
        """Vectors of texts, and errors of those without one. Raises the client's errors."""
        read = [text_or_fault(text) for text in texts]
        plain = [text for text, _ in read]
        faults = {at: why for at, (_, why) in enumerate(read) if why is not None}
        hashes = hashes_of(plain)
        name = self._name(hashes)
        known = self._read(name)
        if known is not None:
            return Computed(known, faults, 0, 0)
        computed = self._runner.run(self._compute(plain, hashes, faults))
        if self._store is not None and computed.faults.keys() == faults.keys():
            held = io.BytesIO()
            np.save(held, computed.vectors, allow_pickle=False)
            self._store.write(name, [held.getvalue()])
        return computed

    def embed_text(self, text: list[str | None]) -> list[NDArray[Any] | None]:
        """Daft's interface: raises BulkError if a text is refused; a null stays null."""
        found = self(text)
        for at, why in found.faults.items():
            if text[at] is not None:
                raise BulkError(f"{why.code}: {why.message}")
        return [None if at in found.faults else row for at, row in enumerate(found.vectors)]

    def close(self) -> None:
        """Close connections."""
        self._runner.run(self._client.close())
        self._runner.close()

    async def _compute(
        self,
        texts: Sequence[str | None],
        hashes: Sequence[bytes],
        faults: Mapping[int, Fault],
    ) -> Computed:
        asked = self.wanted
        options = EmbedOptions(
            asked.dimensions,
            asked.input_type,
            asked.instruction,
            asked.truncate,
            dtypes.asked_of_service(asked.dtype),
        )
        computing = Computing(self._client, options, dtypes.DTYPES[asked.dtype], asked.columns)
        return await computing.compute(texts, hashes, faults)

    def _name(self, hashes: Sequence[bytes]) -> str:
        """The file name of a call's result: a hash of its parameters and texts."""
        asked = self.wanted
        options = (asked.model, asked.dimensions, asked.input_type, asked.instruction)
        told = msgspec.json.encode((*options, asked.truncate, asked.dtype))
        found = hashlib.blake2b(told, digest_size=20)
        for key in hashes:
            found.update(b"\0" if key == NO_HASH else key)
        return f"{found.hexdigest()}.npy"

    def _read(self, name: str) -> NDArray[Any] | None:
        if self._store is None:
            return None
        try:
            data = self._store.read(name)
        except FileNotFoundError:
            return None
        found: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
        return found
