"""Pauses that grow: how long to leave alone what failed again and again.

Pure. Decides how long the n-th pause in a row is. Refuses to know what failed, and to wait.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds of each pause in a row: doubling, up to a ceiling."""

    first_s: float
    most_s: float

    def after(self, times: int) -> float:
        """Seconds of the n-th pause in a row, n from 1."""
        return min(self.most_s, self.first_s * 2.0 ** min(times - 1, 30))
