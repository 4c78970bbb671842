"""Finds duplicate texts of an input in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedfleet.bulk.fragments import HASH_BYTES

ROWS_AT_ONCE = 1 << 21
"""Hashes that are sorted at once, 8 bytes each."""


@dataclass(frozen=True, slots=True)
class Repeats:
    """Hashes that come more than once, told by their first 8 bytes: that two texts share those
    costs a vector that is kept for longer, and nothing else.
    """

    heads: NDArray[np.uint64]
    """In order."""
    distinct: int
    """Texts, each counted once."""

    def __contains__(self, key: bytes) -> bool:
        head = np.frombuffer(key[:8], np.uint64)[0]
        at = int(np.searchsorted(self.heads, head))
        return at < len(self.heads) and bool(self.heads[at] == head)


def repeats_in(path: Path) -> Repeats:
    """Of a file of hashes. It is read once for every two million of them."""
    count = path.stat().st_size // HASH_BYTES
    if not count:
        return Repeats(np.empty(0, np.uint64), 0)
    rounds = -(-count // ROWS_AT_ONCE)
    heads = np.memmap(path, np.uint64, "r").reshape(count, HASH_BYTES // 8)[:, 0]
    found, distinct = [], 0
    for number in range(rounds):
        parts = []
        for start in range(0, count, ROWS_AT_ONCE):
            some = np.asarray(heads[start : start + ROWS_AT_ONCE])
            parts.append(some[some % np.uint64(rounds) == number])
        some = np.concatenate(parts)
        some.sort()
        again = some[1:][some[1:] == some[:-1]]
        repeated = np.unique(again)
        found.append(repeated)
        distinct += len(some) - len(again)
    whole = np.concatenate(found)
    whole.sort()
    return Repeats(whole, distinct)
