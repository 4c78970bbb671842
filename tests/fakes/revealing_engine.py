"""An engine whose vector reveals its text: any mix-up of texts is visible in the answer."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from embedfleet.engines.protocol import Computation, EngineInfo
from embedfleet.vocabulary import Encoding, EngineLostError, Precision, Vector, Vectors

WIDTH = 32
POISON = 13
"""A token id that makes the whole batch fail."""
UNLUCKY = 17
"""A token id that makes its own text's vector NaN."""


def vector_of(ids: Sequence[int] | Encoding) -> Vector:
    """The one right vector of a text: random numbers seeded with its ids, of unit length."""
    raw = np.asarray(ids, "<i4").tobytes()
    seed = int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")
    values = np.random.default_rng(seed).standard_normal(WIDTH)
    unit: Vector = (values / np.linalg.norm(values)).astype(np.float32)
    return unit


class RevealingEngine:
    """Implements the engine protocol; computes on one thread at a time, and can be held up."""

    def __init__(self, *, batch_tokens: int = 64, **overlap: Any) -> None:
        """`overlap` are fields of EngineInfo that allow more than one computation at once."""
        self.info = EngineInfo(
            width=WIDTH,
            max_tokens=512,
            vocabulary=1000,
            precision=Precision.F32,
            device="fake",
            batch_tokens=batch_tokens,
            **overlap,
        )
        self.batches: list[list[list[int]]] = []
        self.go_on = threading.Event()
        """While it is not set, computations wait."""
        self.hold_from_tokens = 0
        """Those of fewer tokens do not."""
        self.lost = False
        """Whether its device is gone."""
        self.started = 0
        """Computations that began."""
        self.go_on.set()
        self._computing = threading.Semaphore(self.info.in_flight + self.info.long_beside)

    def prepare(self, batch: Sequence[Encoding]) -> Computation:
        texts = [ids.tolist() for ids in batch]

        def compute() -> Vectors:
            assert self._computing.acquire(blocking=False), "more at once than it says"
            try:
                self.started += 1
                if sum(map(len, texts)) >= self.hold_from_tokens:
                    assert self.go_on.wait(60)
                self.batches.append(texts)
                if self.lost:
                    raise EngineLostError("the device is gone")
                if any(POISON in ids for ids in texts):
                    raise RuntimeError("poisoned")
                vectors = np.stack([vector_of(ids) for ids in texts])
                vectors[[UNLUCKY in ids for ids in texts]] = np.nan
                return vectors
            finally:
                self._computing.release()

        return Computation(compute)

    def close(self) -> None:
        self.go_on.set()
