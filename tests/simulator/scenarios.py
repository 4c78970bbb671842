"""Synthetic traffic shapes that every policy should survive.

Rates are in replicas' worth of work, texts arrive at random (Poisson) at that rate, lengths are
geometric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from embedfleet.simulator.profiles import Profile
from embedfleet.simulator.traffic import Trace

Shape = Callable[[float], float]
"""Seconds since the start to replicas' worth of work."""

SLICE_S = 1.0

TOKENS = 800
"""Mean tokens of a text."""


def step(at_s: float) -> float:
    """Twice to six times the smallest fleet, at once."""
    return 2.0 if at_s < 600 else 6.0


def ramp(at_s: float) -> float:
    """From one replica to eight within half an hour, and on."""
    return min(8.0, 1.0 + 7.0 * at_s / 1800.0)


def sawtooth(at_s: float) -> float:
    """Up for ten minutes and down at once, again and again."""
    return 2.0 + 4.0 * (at_s % 600.0) / 600.0


def flash(at_s: float) -> float:
    """Four times the traffic for a minute, every ten minutes."""
    return 8.0 if at_s % 600.0 > 540 else 2.0


def dropout(at_s: float) -> float:
    """Nothing for five minutes, as when a caller is down, and then what it has saved up."""
    if 900 <= at_s < 1200:
        return 0.0
    return 6.0 if 1200 <= at_s < 1500 else 3.0


def day(at_s: float) -> float:
    """A day in an hour: from two to six and back."""
    return 4.0 - 2.0 * math.cos(2.0 * math.pi * at_s / 3600.0)


SHAPES: Mapping[str, Shape] = {
    shape.__name__: shape for shape in (step, ramp, sawtooth, flash, dropout, day)
}


def draw(shape: Shape, seconds: float, seed: int) -> Trace:
    """Texts of 800 tokens on average, whose arrivals follow a shape."""
    rng = np.random.default_rng(seed)
    rate = Profile().tokens_per_s / TOKENS
    starts = np.arange(0.0, seconds, SLICE_S)
    counts = rng.poisson([shape(float(at)) * rate * SLICE_S for at in starts])
    arrival_s = np.sort(np.repeat(starts, counts) + rng.random(counts.sum()) * SLICE_S)
    return Trace(shape.__name__, arrival_s, rng.geometric(1.0 / TOKENS, len(arrival_s)))
