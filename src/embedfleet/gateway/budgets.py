"""How many repeated tries the pool can afford.

Pure. Retries and hedges multiply load just when there is too much of it, so each kind may only be
a share of the texts that were answered well. Texts of a replica that died are outside any budget.
"""

from __future__ import annotations

RETRY_SHARE, HEDGE_SHARE = 0.10, 0.05
"""Tries that each answered text earns."""

RESERVE = 256.0
"""Texts that may be tried again after a quiet time: what a few failed calls hold, so that one bad
replica fails no request. More failures than that are a failure of the pool."""


class Budget:
    """A share of the answered texts, saved up to a reserve."""

    def __init__(self, share: float) -> None:
        """`share` is the number of tries that each answered text earns, for instance 0.1."""
        self._share = share
        self._saved = RESERVE

    @property
    def saved(self) -> float:
        return self._saved

    def earn(self, texts: int) -> None:
        """Texts were answered."""
        self._saved = min(RESERVE, self._saved + texts * self._share)

    def spend(self, texts: int) -> bool:
        """Pay for tries of so many texts; return whether there was enough for all."""
        if texts > self._saved:
            return False
        self._saved -= texts
        return True
