"""What a pool's traffic was at this time of the hour, the day and the week before.

A `Season` divides a period into buckets and keeps, for each, the highest level of the traffic in
the last few periods. What is expected is what most of these had: one night without its job, or one
crowd that came once, changes nothing. Whether an expectation is worth following is decided
elsewhere (`adapting.py`), by what it would have saved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median_low

from embedfleet.autoscaling.signals import Observation

KEPT = 3
"""Periods that are remembered: two of three must agree."""
REPEATED_S = 3600.0
"""A clock that goes back by no more repeats an hour, as at the end of daylight saving time, or was
corrected; one that goes back further was wrong before."""
AGREEING = 1.3
"""Rates differ by less than that between periods of the same rhythm."""


@dataclass(frozen=True, slots=True)
class Season:
    """A pool's traffic over the last periods of one length."""

    period_s: float
    bucket_s: float
    """Width of a bucket: an edge may come so much earlier or later and is still met."""
    cells: tuple[tuple[float, ...], ...]
    """For each bucket the highest rates of the last periods in tokens/s, the latest at the end."""
    bucket: int | None = None
    """Number of the bucket that is being filled, counted through all periods."""
    highest: float = 0.0
    """Highest rate in it so far."""

    @classmethod
    def empty(cls, period_s: float, bucket_s: float) -> Season:
        return cls(period_s, bucket_s, ((),) * round(period_s / bucket_s))

    def noted(self, at: float, rate: float) -> Season:
        """With the rate at a moment (seconds); an hour that is repeated is ignored."""
        bucket = math.floor(at / self.bucket_s)
        if self.bucket is None or bucket < self.bucket - REPEATED_S / self.bucket_s:
            return replace(self, bucket=bucket, highest=rate)
        if bucket <= self.bucket:
            return self if rate <= self.highest else replace(self, highest=rate)
        place = self.bucket % len(self.cells)
        cell = (*self.cells[place], self.highest)[-KEPT:]
        cells = (*self.cells[:place], cell, *self.cells[place + 1 :])
        return replace(self, cells=cells, bucket=bucket, highest=rate)

    def expected(self, at: float, ahead_s: float) -> float:
        """The highest rate in tokens/s that is usual between `at` and one bucket beyond `ahead_s`;
        0 where nothing is known."""
        first = math.floor(at / self.bucket_s)
        last = math.floor((at + ahead_s) / self.bucket_s) + 1
        many = min(last - first + 1, len(self.cells))
        cells = (self.cells[(first + step) % len(self.cells)] for step in range(many))
        return max((usual(cell) for cell in cells if cell), default=0.0)


def usual(rates: Sequence[float]) -> float:
    """What most of some periods had at one time: the highest of those that agree with their median,
    as the level differs from period to period and half of them would exceed the middle one."""
    middle = median_low(rates)
    return max(rate for rate in rates if rate <= AGREEING * middle)


Seasons = Mapping[str, Season]


def empty() -> Seasons:
    """The periods that people and their machines live by."""
    return {
        "hour": Season.empty(3600.0, 30.0),
        "day": Season.empty(86_400.0, 300.0),
        "week": Season.empty(604_800.0, 900.0),
    }


def moment(seen: Observation) -> float:
    """Seconds by the pool's own calendar, changes of the clock included; else since its start."""
    if seen.clock is None:
        return seen.now
    offset = seen.clock.utcoffset()
    return seen.clock.timestamp() + (0.0 if offset is None else offset.total_seconds())


def elapsed(seen: Observation) -> float:
    """Seconds of a clock that is never set."""
    return seen.now if seen.clock is None else seen.clock.timestamp()
