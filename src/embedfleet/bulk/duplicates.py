"""Finds duplicate texts of an input in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedfleet.bulk.fragments import HASH_BYTES

ROWS_AT_ONCE = 1 << 21
"""Hashes sorted at once, 8 bytes each."""

ROWS_READ = 1 << 17
"""Hashes that are read at once, 16 bytes each."""


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Hashes that occur more than once, by their first 8 bytes. A collision of those costs a vector
    that is kept for longer, and nothing else.
    """

    heads: NDArray[np.uint64]
    """Sorted."""
    distinct: int
    """Number of distinct texts."""

    def among(self, hashes: Sequence[bytes]) -> list[bool]:
        """Of each of these, whether it is one of them."""
        if not len(self.heads):
            return [False] * len(hashes)
        heads = np.frombuffer(b"".join(hashes), np.uint64)[:: HASH_BYTES // 8]
        places = np.minimum(np.searchsorted(self.heads, heads), len(self.heads) - 1)
        found: list[bool] = (self.heads[places] == heads).tolist()
        return found


def duplicates_in(path: Path) -> Duplicates:
    """The duplicates in a file of hashes, which is read once per two million of them."""
    count = path.stat().st_size // HASH_BYTES
    if not count:
        return Duplicates(np.empty(0, np.uint64), 0)
    rounds = -(-count // ROWS_AT_ONCE)
    found, distinct = [], 0
    for number in range(rounds):
        parts = [some[some % np.uint64(rounds) == number] for some in _heads(path)]
        some = np.concatenate(parts)
        some.sort()
        again = some[1:][some[1:] == some[:-1]]
        repeated = np.unique(again)
        found.append(repeated)
        distinct += len(some) - len(again)
    whole = np.concatenate(found)
    whole.sort()
    return Duplicates(whole, distinct)


def _heads(path: Path) -> Iterator[NDArray[np.uint64]]:
    """The first 8 bytes of the hashes, in pieces. Read, not mapped: pages of a mapped file count
    as memory of the process.
    """
    with path.open("rb") as file:
        while data := file.read(ROWS_READ * HASH_BYTES):
            yield np.frombuffer(data, np.uint64)[:: HASH_BYTES // 8]
