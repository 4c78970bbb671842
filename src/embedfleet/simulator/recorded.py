"""Traffic and replicas as a recording of observations has them, for "what if".

A recording (`autoscaling/recording.py`) has rates, not texts: the arrivals of each interval between
two observations come at random (Poisson) at the rate of each of its seconds, or where these were
not kept at the fast rate that was seen at its end, with the mean length of the fast window. The
lengths of single texts are not in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embedfleet.autoscaling.recording import Recording, RecordingError
from embedfleet.autoscaling.signals import MOST
from embedfleet.simulator.flow import BIN_S, Flow
from embedfleet.simulator.profiles import Profile

LENGTHS = np.array([2.0**power for power in range(17)])
"""Texts have these lengths, mixed so that the mean is right."""
USUAL_TOKENS = 256.0
"""Mean length until the first one is known."""
MOST_GAP_S = 300.0
"""Longer gaps say nothing of what arrived in them."""
MOST_TEXTS_PER_S = 1e9
"""More are no traffic of any pool, and too many to count."""
WITHIN_S = 0.25
"""Batches of an ability take this long at most (`signals.ability`)."""


@dataclass(frozen=True, slots=True)
class _Interval:
    seconds: float
    tokens_per_s: tuple[float, ...]
    """Rates of equal parts of it."""
    tokens: float
    """Mean length of a text."""


def flow(recording: Recording, seed: int, copies: int = 1) -> Flow:
    """What arrived, each text `copies` times. RecordingError for too long a gap in it."""
    intervals = list(_intervals(recording, copies))
    rng = np.random.default_rng(seed)
    places = sorted({_place(each) + more for each in intervals for more in (0, 1)})
    # Interval by interval: rates of days are larger than what arrived in them.
    counts = np.concatenate(
        [rng.poisson(_rates(each)[:, places]).astype(np.int32) for each in intervals]
    )
    lengths = LENGTHS[places]
    return Flow(counts, lengths, np.asarray(counts @ lengths, np.float64))


def profile(recording: Recording, speed: float = 1.0) -> Profile:
    """A replica as it was measured: what it can do (the median) and how long it starts."""
    able = [each.seen.tokens_per_s for each in recording.lines]
    able = [each for each in able if 0 < each < MOST]  # false for NaN
    starts_s = [each.seen.start_up_s for each in recording.lines]
    starts_s = [each for each in starts_s if 0 <= each < MOST]
    found = Profile()
    if able:
        # An ability counts what every batch takes, and a profile tells it beside.
        share = 1.0 - found.per_batch_s / WITHIN_S
        found = replace(found, tokens_per_s=float(np.median(able)) / share)
    if starts_s:
        found = replace(found, start_s=starts_s[-1])
    return faster(found, speed)


def faster(profile: Profile, speed: float) -> Profile:
    """The same replica on a device that computes so many times as fast."""
    return replace(
        profile,
        per_batch_s=profile.per_batch_s / speed,
        tokens_per_s=profile.tokens_per_s * speed,
        per_squared_token_s=profile.per_squared_token_s / speed,
    )


def _intervals(recording: Recording, copies: int) -> Iterator[_Interval]:
    rate, tokens = 0.0, USUAL_TOKENS
    for after in recording.lines[1:]:
        seen, seconds = after.seen, after.after_s
        if seconds > MOST_GAP_S:
            raise RecordingError(
                f"{recording.path}, line {after.number}: nothing was recorded for {seconds:,g} s "
                f"before it, and {MOST_GAP_S:.0f} s are the most; use line 1 with the lines "
                "before, or with those from here"
            )
        known = 0 <= seen.arriving_fast < MOST  # false for NaN; else as it was
        if known:
            rate = seen.arriving_fast
        if known and 0 < seen.texts_fast < MOST:
            tokens = min(max(seen.arriving_fast / seen.texts_fast, 1.0), float(LENGTHS[-1]))
        elif seen.texts_per_s > 0 and 0 <= seen.arriving_slow < MOST:
            tokens = min(max(seen.arriving_slow / seen.texts_per_s, 1.0), float(LENGTHS[-1]))
        rates: tuple[float, ...] = (rate,)
        many = round(seconds)
        if known and 0 < many <= len(seen.seconds) and all(0 <= r < MOST for r in seen.seconds):
            rates = seen.seconds[-many:]
        rates = tuple(each * copies for each in rates)
        if max(rates) / tokens > MOST_TEXTS_PER_S:
            raise RecordingError(
                f"{recording.path}, line {after.number}: {max(rates):,g} tokens/s in texts of "
                f"{tokens:,g} tokens are more than {MOST_TEXTS_PER_S:,g} texts/s, the most that "
                "can be simulated"
            )
        yield _Interval(seconds, rates, tokens)


def _place(interval: _Interval) -> int:
    """Of the longest length that its texts exceed."""
    return min(int(math.log2(interval.tokens)), len(LENGTHS) - 2)


def _rates(interval: _Interval) -> NDArray[np.float64]:
    """Texts by bin and length."""
    place = _place(interval)
    share = (interval.tokens - LENGTHS[place]) / (LENGTHS[place + 1] - LENGTHS[place])
    bins = max(1, round(interval.seconds / BIN_S))
    parts = np.arange(bins) * len(interval.tokens_per_s) // bins
    texts = np.array(interval.tokens_per_s)[parts] / interval.tokens * BIN_S
    rates = np.zeros((bins, len(LENGTHS)))
    rates[:, place], rates[:, place + 1] = texts * (1.0 - share), texts * share
    return rates
