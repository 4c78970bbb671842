"""The texts of one request coming back together.

Decides when a request is complete and that vector i lands in row i. Refuses to know how texts
travel.
"""

from __future__ import annotations

import asyncio

import numpy as np

from embedfleet.cache.single_flight import Arrived
from embedfleet.endpoint import Computed
from embedfleet.vocabulary import EmbedfleetError, Vector, Vectors


class Gathering:
    """Rows of one request, filled in any order; the first failed text fails the request."""

    def __init__(self, texts: int, width: int, arrived: Arrived | None = None) -> None:
        """`arrived` is told of each vector, also of those that come when nobody waits any more."""
        self.finished: asyncio.Future[Computed] = asyncio.get_running_loop().create_future()
        self._vectors: Vectors | None = np.empty((texts, width), np.float32) if texts > 1 else None
        self._missing = texts
        self._arrived = arrived
        self._queue_s = self._compute_s = 0.0

    def succeeded(self, index: int, vector: Vector, queue_s: float, compute_s: float) -> None:
        if self._arrived is not None:
            self._arrived(index, vector, queue_s, compute_s)
        if self._vectors is None:  # the only one is the whole
            vectors = vector[np.newaxis]
        else:
            vectors = self._vectors
            vectors[index] = vector
        self._queue_s = max(self._queue_s, queue_s)
        self._compute_s = max(self._compute_s, compute_s)
        self._missing -= 1
        if not self._missing and not self.finished.done():
            self.finished.set_result(Computed(vectors, self._queue_s, self._compute_s))

    def failed(self, _index: int, error: EmbedfleetError) -> None:
        if not self.finished.done():
            self.finished.set_exception(error)
