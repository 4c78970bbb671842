"""Detects engines that give one vector for different texts. Pure.

Such vectors are finite, of unit length and of the right width, so nothing else in an answer shows
that they are wrong: an engine whose batch repeats a row, or whose output buffer is never filled
again, and an HTTP connection on which an answer came twice, so that each request gets the answer to
the one before. Golden vectors would show it at the next check, a minute of traffic later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from embedfleet.fleet.balancing import Load
from embedfleet.scheduling.texts import Text
from embedfleet.vocabulary import SCORE_WIDTH, Encoding, ReplicaError, Vector, Vectors

NUMBERS = 4
"""Of a row that are compared first; rows that agree in these are compared whole."""

DIFFERENT = 1 / 32
"""Share of the distinct tokens of two texts that only one of them has, from which on their vectors
can't be equal. Long texts that differ in a word may have equal ones in bf16, and a token that is
repeated has the vector of one, where positions are relative."""

DOUBTS, DOUBT_S = 2, 60.0
"""A replica is doubted so often in so many seconds. A failed call has its golden vectors checked at
once; where it reproduces them the texts are odd, for instance token ids that no training has seen,
and clients that send such texts can't have replicas ejected, which takes three failures."""

PAUSE_S = 2.0
"""A replica that is doubted gets nothing for so long, in which its golden vectors are checked."""


class _Row(NamedTuple):
    """The last row of a frame."""

    head: bytes
    """Its first numbers."""
    encoding: Encoding
    vector: Vector
    """A view of its frame, which is of one batch."""


class RepeatedVectors:
    """What the replicas of one pool answered last."""

    def __init__(self) -> None:
        self._last: dict[str, _Row] = {}
        """What each replica answered last."""
        self._doubted: dict[str, list[float]] = {}
        """When each replica was doubted lately, monotonic seconds."""

    def refuse(
        self,
        load: Load,
        texts: Sequence[Text | None],
        vectors: Vectors,
        now: float,
        *,
        unproven: bool = False,
    ) -> None:
        """Raise a ReplicaError where two rows of a replica's frame, or one and the last of its
        frame before, are equal and their texts are different.

        `vectors` is [texts, width], float32; of texts that are None nothing is known any more.
        Texts that have failed are not looked at: whatever it is, they fail by it once. That, and
        how often a replica is doubted, has no bound while it is `unproven`: it fails its checks.
        """
        if not texts or vectors.shape[1] <= SCORE_WIDTH:  # scores of different pairs may be equal
            return
        before = self._last.get(load.replica)
        size = NUMBERS * vectors.itemsize
        heads = vectors[:, :NUMBERS].tobytes()
        if (latest := texts[-1]) is not None:
            self._last[load.replica] = _Row(heads[-size:], latest.encoding, vectors[-1])
        for row, other in _alike(heads, size, b"" if before is None else before.head):
            text = texts[row]
            if text is None or (text.attempts and not unproven):
                continue
            if other >= 0:
                encoding, vector = (texts[other] or text).encoding, vectors[other]
            elif before is not None:
                encoding, vector = before.encoding, before.vector
            repeated = np.array_equal(vectors[row], vector) and different(text.encoding, encoding)
            if repeated and (self._doubts(load.replica, now) or unproven):
                load.shut_until = now + PAUSE_S
                raise ReplicaError("it gives one vector for different texts")

    def keep(self, replicas: Collection[str]) -> None:
        """Forget all other replicas."""
        for replica in self._last.keys() - replicas:
            del self._last[replica]
            self._doubted.pop(replica, None)

    def _doubts(self, replica: str, now: float) -> bool:
        lately = [when for when in self._doubted.get(replica, ()) if now - when < DOUBT_S]
        self._doubted[replica] = [*lately, now][:DOUBTS]
        return len(lately) < DOUBTS


def _alike(heads: bytes, size: int, before: bytes) -> Iterator[tuple[int, int]]:
    """Rows that begin as an earlier one does, and which; -1 is the one before all."""
    seen = {before: -1}
    for row in range(len(heads) // size):
        head = heads[row * size : (row + 1) * size]
        other = seen.setdefault(head, row)
        if other != row:
            yield row, other


def different(one: Encoding, other: Encoding) -> bool:
    """Whether two texts can't have the same vector."""
    tokens, others = set(one.tolist()), set(other.tolist())
    return len(tokens ^ others) >= DIFFERENT * len(tokens | others) and tokens != others
