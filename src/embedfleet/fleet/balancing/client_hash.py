"""Consistent hash by client address, with bounded load."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from embedfleet.fleet.balancing.load import Candidate, Load

BOUND = 1.25
"""A replica is passed over when its work is more than this times the average of the pool.

(Mirrokni, Thorup, Zadimoghaddam, Consistent Hashing with Bounded Loads, 2017: a quarter above the
average costs few moves.)"""


@dataclass(frozen=True, slots=True)
class ClientHash:
    """The same client meets the same replica, unless that one has too much to do.

    Rendezvous hashing: every client has its own order of replicas, and one that comes or goes moves
    only the clients that had it first.
    """

    affine: ClassVar[bool] = True

    def pick(self, loads: Sequence[Load], text: Candidate) -> Load | None:
        if not loads:
            return None
        total = sum(load.outstanding_tokens for load in loads) + text.tokens
        most = BOUND * total / len(loads)
        fitting = [load for load in loads if load.fits(text.tokens, text.now)]
        within = [load for load in fitting if load.outstanding_tokens + text.tokens <= most]
        return min(
            within or fitting, key=lambda load: _score(text.client, load.replica), default=None
        )


@lru_cache(maxsize=1 << 16)  # a hash for each replica would cost a large pool more than the choice
def _score(client: str, replica: str) -> bytes:
    return hashlib.blake2b(f"{client}\0{replica}".encode(), digest_size=8).digest()
