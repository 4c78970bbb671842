"""The texts of one request coming back together.

Decides when a request is complete and that vector i lands in row i. Refuses to know how texts
travel.
"""

from __future__ import annotations

import asyncio

import numpy as np

from embedfleet.vocabulary import EmbedfleetError, Vector, Vectors


class Gathering:
    """Rows of one request, filled in any order; the first failed text fails the request."""

    def __init__(self, texts: int, width: int) -> None:
        self.vectors: Vectors = np.empty((texts, width), np.float32)
        self.finished: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        self._missing = texts

    def succeeded(self, index: int, vector: Vector) -> None:
        self.vectors[index] = vector
        self._missing -= 1
        if not self._missing and not self.finished.done():
            self.finished.set_result(self.vectors)

    def failed(self, _index: int, error: EmbedfleetError) -> None:
        if not self.finished.done():
            self.finished.set_exception(error)
