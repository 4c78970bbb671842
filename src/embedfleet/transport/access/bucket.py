"""Token bucket: a rate limit per minute. Pure; `now` is in seconds of any monotonic clock.

The bucket holds the quota of one minute, all of which may be used at once, as with OpenAI's limits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_ROUNDING = 1e-6
"""Tolerance for floating-point rounding: after a computed wait the amount is there."""


@dataclass(slots=True)
class Bucket:
    """What is left of a quota; it fills steadily."""

    per_minute: int
    level: float
    at: float
    """When `level` was right, seconds."""

    @classmethod
    def full(cls, per_minute: int, now: float) -> Bucket:
        return cls(per_minute, float(per_minute), now)

    def take(self, amount: int, now: float) -> float:
        """Take an amount and return 0; or take nothing and return the seconds until it is there.

        Infinity where it never will be, because it is more than the quota of a minute.
        """
        level = self._fill(now)
        if amount <= level + _ROUNDING:
            self.level = max(0.0, level - amount)
            return 0.0
        if amount > self.per_minute:
            return math.inf
        return (amount - level) * 60 / self.per_minute

    def give(self, amount: int, now: float) -> None:
        """Give back what was taken."""
        self.level = min(self._fill(now) + amount, float(self.per_minute))

    def remaining(self, now: float) -> int:
        """What could be taken now."""
        return int(self._fill(now) + _ROUNDING)

    def full_in_s(self, now: float) -> float:
        """Seconds until it is full again, if nothing more is taken."""
        return (self.per_minute - self._fill(now)) * 60 / self.per_minute

    def resize(self, per_minute: int, now: float) -> None:
        """Another quota from now on; what is left stays, as far as it fits."""
        self.level = min(self._fill(now), float(per_minute))
        self.per_minute = per_minute

    def _fill(self, now: float) -> float:
        if now > self.at:
            filled = self.level + (now - self.at) * self.per_minute / 60
            self.level = min(float(self.per_minute), filled)
            self.at = now
        return self.level
