"""Exponential backoff: the n-th pause in a row doubles, up to a ceiling. Pure."""

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
