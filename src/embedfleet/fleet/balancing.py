"""Which replica gets texts next.

Pure: decides over loads only. Refuses to know requests, texts and why a replica is usable.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Load:
    """What a usable replica has to do."""

    replica: str
    window_tokens: int
    """Tokens it may have outstanding, as it granted last."""
    batch_tokens: int
    """Tokens of a batch that fills its engine."""
    outstanding_tokens: int = 0
    """Tokens handed to it and not answered yet."""
    last_resort: bool = False
    """Only used when no other replica is usable."""

    @property
    def room_tokens(self) -> int:
        return self.window_tokens - self.outstanding_tokens

    def fits(self, tokens: int) -> bool:
        """Whether a text may be handed over now.

        A text longer than the room still goes once at most half of the window is outstanding: its
        turn is next then, and waiting for an empty replica would let the engine run dry.
        """
        return tokens <= self.room_tokens or 2 * self.outstanding_tokens <= self.window_tokens


def least_outstanding(loads: Iterable[Load], tokens: int) -> Load | None:
    """The load with the fewest outstanding tokens among those where a text of `tokens` fits."""
    usable = list(loads)
    first = [load for load in usable if not load.last_resort]
    fitting = [load for load in first or usable if load.fits(tokens)]
    return min(fitting, key=lambda load: load.outstanding_tokens, default=None)
