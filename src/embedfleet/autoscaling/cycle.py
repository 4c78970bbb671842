"""A rhythm of undeclared period, found by autocorrelation of a pool's own history. Pure.

The rate is kept in buckets of 15 s for the last twelve hours. Once a minute its autocorrelation,
computed by fast Fourier transform (Wiener and Khinchin), shows at which lag traffic resembles
itself; multiples of that lag make the period finer than a bucket. What is expected is what was
there one, two and three periods ago, most of them agreeing. Whether the rhythm holds, the last
period alone decides: one that breaks is dropped within a part of a period.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from embedfleet.autoscaling.rhythm import AGREEING, usual

Floats = NDArray[np.float64]

BUCKET_S = 15.0
KEPT = 2880
"""Buckets of twelve hours: periods of two minutes to six hours are seen twice."""
LEAST = 8
"""Buckets of the shortest period: edges that come sooner than that are no edges, but noise, and
so are the multiples of their period."""
FIND_S = 60.0
"""Seconds between two searches."""
ALIKE = 0.5
"""Least autocorrelation at the period."""
UNLIKE = 0.4
"""By how much it must have been lower at a shorter lag: slow traffic resembles itself at all."""
NEARLY = 0.9
"""The period is the first lag with so much of the best autocorrelation: others are multiples."""
LEVEL = 0.1
"""Least standard deviation, in means: a rhythm within that is not worth following."""
HELD = 0.5
"""Most that the last period may differ from the one before, over how much it varies in itself."""
PERIODS = 3
"""Periods that are asked for what is usual."""


def _nothing() -> Floats:
    return np.zeros(0)


@dataclass(frozen=True, slots=True)
class Cycle:
    """A pool's lately seen traffic, and the period found in it."""

    rates: Floats = field(default_factory=_nothing, compare=False)
    """Mean rate of each bucket in tokens/s, the latest at the end; never written to."""
    bucket: int | None = None
    """Number of the bucket that is being filled."""
    total: float = 0.0
    count: int = 0
    """Sum and number of the rates in it."""
    period: float = 0.0
    """In buckets; 0 where none was found or the rhythm broke."""
    due: float = -math.inf
    """When it is looked for again."""

    @classmethod
    def of(cls, rates: Sequence[float], until: int) -> Cycle:
        """One that goes on after the rates of some buckets, up to that with the number `until`."""
        if not rates:
            return cls()
        known = np.array(rates, np.float64)
        return cls(known, until, rates[-1], 1, _period(known))

    @property
    def period_s(self) -> float:
        return self.period * BUCKET_S

    def noted(self, at: float, rate: float) -> Cycle:
        """With the rate in tokens/s around the moment `at` (seconds).

        A gap is filled with the last rate; after half the memory, or where time runs backwards by
        more than a bucket, everything begins anew.
        """
        bucket = math.floor(at / BUCKET_S)
        if self.bucket is None or not -1 <= bucket - self.bucket <= KEPT / 2:
            return Cycle(bucket=bucket, total=rate, count=1)
        if bucket <= self.bucket:
            return replace(self, total=self.total + rate, count=self.count + 1)
        mean = self.total / self.count
        rates = np.concatenate([self.rates, np.full(bucket - self.bucket, mean)])[-KEPT:]
        noted = replace(self, rates=rates, bucket=bucket, total=rate, count=1)
        if at < self.due:
            return noted
        return replace(noted, period=_period(rates), due=at + FIND_S)

    def expected(self, at: float, ahead_s: float) -> float:
        """The highest rate in tokens/s that is usual between `at` and one bucket beyond `ahead_s`;
        0 where no rhythm is known."""
        if not self.period or self.bucket is None:
            return 0.0
        first = math.floor(at / BUCKET_S)
        last = math.floor((at + ahead_s) / BUCKET_S) + 1
        begin = self.bucket - len(self.rates)
        highest = []
        for times in range(1, PERIODS + 1):
            back = times * self.period
            low = max(0, math.floor(first - back) - begin)
            high = math.ceil(last - back) - begin + 1
            if high <= 0 or math.floor(first - back) < begin:
                break
            part = self.rates[low:high]
            if len(part):
                highest.append(float(part.max()))
        if not highest:
            return 0.0
        latest, *earlier = highest
        if len(earlier) == PERIODS - 1 and latest > earlier[0] > earlier[1]:
            return max(usual(highest), min(2.0 * latest - earlier[0], AGREEING * latest))
        return usual(highest)


def _period(rates: Floats) -> float:
    """The period that was found, if it holds."""
    period = found(rates)
    return period if holds(rates, period) else 0.0


def found(rates: Floats) -> float:
    """The period of some rates, in buckets and fractions of them; 0 for none."""
    count = len(rates)
    most = count // 2
    if most < LEAST + 2:
        return 0.0
    varying = rates - rates.mean()
    if varying.std() < LEVEL * max(1e-9, rates.mean()):
        return 0.0
    size = 1 << (2 * count - 1).bit_length()
    power = np.abs(np.fft.rfft(varying, size)) ** 2
    raw = np.fft.irfft(power, size)[: most + 1]
    alike = raw / raw[0] * count / (count - np.arange(most + 1))
    lowest = np.minimum.accumulate(alike)
    lags = np.arange(1, most)
    here = alike[1:-1]
    fits = (here >= alike[:-2]) & (here > alike[2:])
    fits &= (here >= ALIKE) & (here - lowest[1:-1] >= UNLIKE)
    if not fits.any():
        return 0.0
    lag = int(lags[fits & (here >= NEARLY * here[fits].max())][0])
    return _finer(alike, lag) if lag >= LEAST else 0.0


def _finer(alike: Floats, lag: int) -> float:
    """The period from the last of its multiples at which traffic still resembles itself."""
    period, times = float(lag), 1
    while True:
        times += 1
        middle = round(times * period)
        reach = max(1, lag // 4)
        if middle + reach >= len(alike):
            return period
        around = alike[middle - reach : middle + reach + 1]
        if around.max() < ALIKE:
            return period
        period = (middle - reach + int(around.argmax())) / times


def holds(rates: Floats, period: float) -> bool:
    """Whether the last period was like the one before."""
    back = round(period)
    if not back or len(rates) < 2 * back:
        return False
    last, before = rates[-back:], rates[-2 * back : -back]
    varies = float(np.abs(rates[-2 * back :] - rates[-2 * back :].mean()).mean())
    return float(np.abs(last - before).mean()) <= HELD * varies
