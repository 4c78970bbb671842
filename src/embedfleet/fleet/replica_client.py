"""The replica client protocol: what a gateway asks of whatever runs at a replica's address.

Implemented for embedfleet's own replicas (`upstream.py`) and for third-party engines
(`third_party/client.py`).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from embedfleet.transport import frames
from embedfleet.transport.description import ReplicaDescription
from embedfleet.vocabulary import Encoding, ReplicaError, Vectors


class ReplicaClient(Protocol):
    """How a gateway talks to replicas."""

    async def describe(self, url: str) -> ReplicaDescription:
        """What runs there. UnfitReplicaError when it can't serve, ReplicaError when it says
        nothing sensible or nothing at all.
        """
        ...

    async def fetch_files(self, url: str, directory: Path) -> None:
        """Bring the small files of its model. ReplicaError where it gives none away."""
        ...

    async def work(
        self, url: str, key: str, texts: Sequence[frames.CallText], take: frames.Take
    ) -> None:
        """Have texts computed; `take` gets frames as they are done, rows of unit length.

        What `take` raises ends the call and comes out; so does cancelling. Raises DrainingError
        when it takes nothing new, ReplicaError when it fails.
        """
        ...

    async def cancel(self, url: str, key: str, ids: Sequence[int]) -> None:
        """Nobody waits for these texts of a call any more. Where an engine can't forget them,
        nothing happens.
        """
        ...

    def forget(self, url: str) -> None:
        """The replica at this address is gone."""
        ...


async def embed(
    client: ReplicaClient,
    url: str,
    encodings: Sequence[Encoding],
    width: int,
    *,
    bulk: bool = True,
) -> Vectors:
    """Vectors for encodings outside any request, in order: how a replica is verified.

    `bulk` is whether texts of callers go before them. Raises ReplicaError when one is missing.
    """
    texts = [
        frames.CallText(number, frames.encoding_bytes(encoding), bulk=bulk, deadline_ms=0)
        for number, encoding in enumerate(encodings)
    ]
    vectors = np.full((len(texts), width), np.nan, np.float32)

    def take(frame: frames.Frame) -> None:
        for failure in frame.failures:
            raise ReplicaError(f"no vector for a golden text: {failure.message}")
        vectors[frame.ids] = frame.matrix(width)

    await client.work(url, secrets.token_hex(8), texts, take)
    return vectors
