"""Finds the text for which an engine refuses a whole request, by bisection.

Pure: bounds the number of bisection steps; the caller sends the halves.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Search:
    """The search for the text that an engine refuses a whole request for."""

    halvings_left: int
    answered: int = 0

    @classmethod
    def among(cls, texts: int) -> Search:
        """Enough to find two bad texts, and few enough to leave an engine that refuses all."""
        return cls(2 * texts.bit_length() + 2)

    def may_halve(self) -> bool:
        self.halvings_left -= 1
        return self.halvings_left >= 0
