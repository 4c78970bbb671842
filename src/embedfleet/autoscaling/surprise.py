"""How much more arrives than was expected, learned from the traffic itself.

Pure. A replica ordered now serves only after its start-up time. Until then, what is ready must
carry whatever comes. So each moment's expectation is compared with the highest rate that followed
within that time, and the share of moments in which so much was needed is remembered: flat traffic earns a
small margin, bursty traffic a large one, and slow starts a larger one than quick ones. Refuses to
know replicas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import accumulate

STEPS_OF_TWO = 8
"""Buckets per doubling of the ratio: margins are known to within 9 %."""
BUCKETS = 5 * STEPS_OF_TWO
"""Up to 32 times the expectation; burstier traffic is treated as if that were all."""
HALF_LIFE_S = 6 * 3600.0
"""Habits of a day are forgotten within days. Long, because what matters is rare."""
PRIOR_S = 900.0
"""The prior weighs as much as so many seconds of traffic."""
PRIOR_RATIO = 1.25
"""Before anything was seen: the margin that a target of 80 % utilisation leaves."""
SPAN = 64
"""Most moments that are compared at once; more are thinned out."""


def bucket_of(ratio: float) -> int:
    """The bucket of a ratio; everything up to 1 is in the first."""
    if ratio <= 1.0:
        return 0
    return min(BUCKETS - 1, math.ceil(STEPS_OF_TWO * math.log2(ratio)))


def ratio_of(bucket: int) -> float:
    """The largest ratio of a bucket."""
    return float(2.0 ** (bucket / STEPS_OF_TWO))


@dataclass(frozen=True, slots=True)
class Moment:
    """What was expected then, and the highest rate that followed so far."""

    at: float
    expected: float
    highest: float


def _prior() -> tuple[float, ...]:
    return tuple(PRIOR_S * (bucket == bucket_of(PRIOR_RATIO)) for bucket in range(BUCKETS))


@dataclass(frozen=True, slots=True)
class Surprise:
    """Seconds for which each ratio of highest to expected rate was seen, old ones forgotten."""

    seconds: tuple[float, ...] = _prior()
    open: tuple[Moment, ...] = ()
    """Moments whose start-up time has not passed yet, oldest first."""
    at: float | None = None

    def margin(self, share: float) -> float:
        """The ratio that was enough in this share of the time."""
        wanted = share * sum(self.seconds)
        for bucket, seconds in enumerate(accumulate(self.seconds)):
            if seconds >= wanted:
                return ratio_of(bucket)
        return ratio_of(BUCKETS - 1)

    def learn(self, now: float, expected: float, rate: float, ahead_s: float) -> Surprise:
        """Take in the rate of this moment and what is expected of the next `ahead_s` seconds."""
        if self.at is not None and now <= self.at:
            return self
        raised = [
            each if each.highest >= rate else Moment(each.at, each.expected, rate)
            for each in self.open
        ]
        closed = [each for each in raised if each.at <= now - ahead_s]
        still = raised[len(closed) :]
        if not still or now - still[-1].at >= ahead_s / SPAN:
            still.append(Moment(now, expected, 0.0))
        counted = replace(self, open=tuple(still), at=now)
        if not closed or self.at is None:
            return counted
        return replace(counted, seconds=tuple(_counted(self.seconds, closed, now - self.at)))


def _counted(before: tuple[float, ...], closed: list[Moment], elapsed_s: float) -> list[float]:
    kept = 0.5 ** (elapsed_s / HALF_LIFE_S)
    seconds = [kept * each for each in before]
    for each in closed:
        # Without expectation there is nothing to compare with: waking up is no habit.
        if each.expected > 0:
            seconds[bucket_of(each.highest / each.expected)] += elapsed_s / len(closed)
    return seconds
