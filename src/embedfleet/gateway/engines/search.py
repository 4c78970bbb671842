"""Which text of a request is to blame when an engine refuses all of it.

Pure. Decides how long halving goes on. Refuses to send anything.
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
