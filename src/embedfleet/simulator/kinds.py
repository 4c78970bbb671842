"""Seeded traffic of the kinds on which autoscalers differ: rhythms, edges, silence, long texts.

Each kind is a family: a seed draws its levels, times, lengths and noise, so that a policy can be
tuned on some members (`TUNING`) and judged on others that it has not met (`HELD_OUT`). What is
drawn depends on the kind and the seed alone.

Load is in replicas' worth of work of the default profile, second by second; texts arrive at random
(Poisson) at that rate, which itself varies from second to second (gamma) and from minute to minute
(a lognormal autoregression), as the rate of many clients does. Lengths have four values with a mean
of some hundred tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedfleet.simulator.flow import BIN_S, Flow
from embedfleet.simulator.profiles import Profile
from embedfleet.vocabulary import SettingError

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, Floats], "Load"]
"""Chance and the seconds of the trace to its load."""

HOUR_S, DAY_S = 3600.0, 86_400.0
TUNING = range(5)
"""Seeds to look at while a policy is made."""
HELD_OUT = range(15, 19)
"""Seeds for the final figure, never looked at while a policy is made."""
SPREAD = np.array([0.25, 0.6, 1.1, 2.05])
"""Lengths over their mean, each as frequent as the others."""
LONGER = 20
"""How many times as long texts are after a shift."""
SCALE_DOWN_DELAY_S = 600.0
"""The usual one: `autoscaling.down_cooldown_s`, and that of other autoscalers."""


@dataclass(frozen=True, slots=True)
class Load:
    """What arrives, second by second."""

    replicas: Floats
    """Replicas' worth of work; of texts before they grew longer, where they do."""
    long: NDArray[np.bool_] | None = None
    """Where texts are `LONGER` times as long."""
    tokens: tuple[float, float] = (150.0, 600.0)
    """Least and most mean length of texts that a seed may draw."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A family of traffic."""

    name: str
    seconds: float
    rhythm: bool
    """Whether the past predicts the future."""
    draw: Draw
    most_replicas: int = 32
    """Bound of a fleet for it."""


def _day(rng: np.random.Generator, at: Floats) -> Load:
    """Low by night and high by day, a second peak in the evening, days of unequal level."""
    mean, depth = rng.uniform(4.0, 9.0), rng.uniform(0.4, 0.8)
    phase, second = rng.uniform(0.0, 1.0), rng.uniform(0.0, 0.3)
    turn = 2.0 * math.pi * (at / DAY_S - phase)
    shape = 1.0 + depth * np.cos(turn) + second * np.cos(2.0 * turn + rng.uniform(0.0, 6.28))
    levels = rng.lognormal(0.0, 0.05, math.ceil(at[-1] / DAY_S) + 1)
    return Load(mean * np.maximum(0.1, shape) * levels[(at // DAY_S).astype(int)])


def _nightly(rng: np.random.Generator, at: Floats) -> Load:
    """A mild rhythm of the day, and a job that comes every night at its hour and works for long."""
    mean, depth = rng.uniform(2.0, 5.0), rng.uniform(0.1, 0.4)
    replicas = mean * (1.0 - depth * np.cos(2.0 * math.pi * at / DAY_S))
    hour_s = rng.uniform(1.0, 5.0) * HOUR_S
    lasts_s, more = rng.uniform(900.0, 3600.0), rng.uniform(6.0, 14.0)
    late_s = rng.uniform(0.0, 60.0)
    for day in range(math.ceil(at[-1] / DAY_S)):
        begins = day * DAY_S + hour_s + rng.uniform(0.0, late_s)
        replicas += more * _within(at, begins, begins + lasts_s * rng.uniform(0.9, 1.1))
    return Load(replicas)


def _flash(rng: np.random.Generator, at: Floats) -> Load:
    """Ten times the traffic within 30 s, for some minutes, a few times in half a day."""
    base = rng.uniform(1.2, 2.4)
    replicas: Floats = np.full(len(at), base)
    begins = rng.uniform(0.5, 2.5) * HOUR_S
    while begins < at[-1]:
        lasts_s = rng.uniform(120.0, 420.0)
        rise = np.clip((at - begins) / 30.0, 0.0, 1.0)
        fall = np.clip((begins + 30.0 + lasts_s - at) / 60.0, 0.0, 1.0)
        replicas += 9.0 * base * np.minimum(rise, fall)
        begins += rng.uniform(2.0, 5.0) * HOUR_S
    return Load(replicas)


def _square(rng: np.random.Generator, at: Floats, high_s: float, low_s: float) -> Load:
    low = rng.uniform(1.0, 4.0)
    high = low * rng.uniform(1.8, 4.5)
    place = (at + rng.uniform(0.0, high_s + low_s)) % (high_s + low_s)
    return Load(np.where(place < high_s, high, low).astype(np.float64))


def _square_delay(rng: np.random.Generator, at: Floats) -> Load:
    """Troughs a little longer than the usual scale-down delay: replicas go just before the edge."""
    low_s = SCALE_DOWN_DELAY_S * rng.uniform(1.03, 1.35)
    return _square(rng, at, low_s * rng.uniform(0.6, 1.2), low_s)


def _square_600(rng: np.random.Generator, at: Floats) -> Load:
    """Up and down within ten minutes."""
    return _square(rng, at, 300.0, 300.0)


def _square_other(rng: np.random.Generator, at: Floats) -> Load:
    """Any period from a minute to two hours."""
    period_s = math.exp(rng.uniform(math.log(60.0), math.log(7200.0)))
    high_s = period_s * rng.uniform(0.2, 0.8)
    return _square(rng, at, high_s, period_s - high_s)


def _silence(rng: np.random.Generator, at: Floats) -> Load:
    """Nothing for an hour, then as before."""
    begins = rng.uniform(1.0, 4.0) * HOUR_S
    level = rng.uniform(4.0, 10.0)
    return Load(np.where(_within(at, begins, begins + HOUR_S), 0.0, level).astype(np.float64))


def _ramp(rng: np.random.Generator, at: Floats) -> Load:
    """Six hours up, and half an hour there."""
    low, high = rng.uniform(1.0, 3.0), rng.uniform(12.0, 20.0)
    return Load(low + (high - low) * np.clip(at / (6 * HOUR_S), 0.0, 1.0))


def _step(rng: np.random.Generator, at: Floats) -> Load:
    """From some replicas to 200 at once, to stay."""
    low, high = rng.uniform(2.0, 20.0), rng.uniform(170.0, 190.0)
    later = at >= rng.uniform(0.5, 1.5) * HOUR_S
    return Load(np.where(later, high, low).astype(np.float64))


def _lengths(rng: np.random.Generator, at: Floats) -> Load:
    """As many texts a second as before, but 20 times as long; some seeds go back, and come again.

    Even the longest can be computed within half a second by a replica of the default profile.
    """
    begins = rng.uniform(0.5, 2.0) * HOUR_S
    ends = begins + rng.uniform(0.5, 3.0) * HOUR_S
    long = _within(at, begins, ends)
    if rng.random() < 0.5:
        again = ends + rng.uniform(0.1, 0.5) * HOUR_S
        long |= _within(at, again, again + HOUR_S)
    return Load(np.full(len(at), rng.uniform(0.3, 0.9)), long, (30.0, 80.0))


def _broken(rng: np.random.Generator, at: Floats) -> Load:
    """A rhythm of days with a nightly job, which is broken on the third day.

    By seed, what breaks is the hour (the rhythm is shifted), the level (halved or doubled), or the
    job (it does not come).
    """
    kept, job = _day(rng, at).replicas / 2.0, rng.uniform(5.0, 9.0)
    begins, lasts_s = rng.uniform(1.0, 12.0) * HOUR_S, rng.uniform(1200.0, 3600.0)
    broken_at = 2 * DAY_S + rng.uniform(0.0, 0.5) * HOUR_S
    broken = at >= broken_at
    how = rng.integers(4)
    comes = _within(at % DAY_S, begins, begins + lasts_s)
    if how == 0:
        shift = int(rng.uniform(2.0, 10.0) * HOUR_S)
        moved, shifted = np.roll(kept, shift), np.roll(comes, shift)
        return Load(np.where(broken, moved, kept) + job * np.where(broken, shifted, comes))
    if how == 1:
        return Load((kept + job * comes) * np.where(broken, 0.5, 1.0))
    if how == 2:
        return Load((kept + job * comes) * np.where(broken, 1.8, 1.0))
    return Load(kept + job * (comes & ~broken))


def _superposed(rng: np.random.Generator, at: Floats) -> Load:
    """Two square waves of unrelated periods on a base."""
    mean = rng.uniform(3.0, 6.0)
    replicas: Floats = np.full(len(at), 0.4 * mean)
    for shortest_s, longest_s in ((180.0, 900.0), (1200.0, 4000.0)):
        period_s, share = rng.uniform(shortest_s, longest_s), rng.uniform(0.3, 0.7)
        place = (at + rng.uniform(0.0, period_s)) % period_s
        replicas += mean * rng.uniform(0.5, 1.2) * (place < share * period_s)
    return Load(replicas)


def _sawtooth(rng: np.random.Generator, at: Floats) -> Load:
    """Up for ten minutes to an hour and a half, and down at once."""
    period_s, low = rng.uniform(600.0, 5400.0), rng.uniform(0.5, 2.0)
    place = (at + rng.uniform(0.0, period_s)) % period_s / period_s
    return Load(low + rng.uniform(6.0, 12.0) * place)


def _jittered(rng: np.random.Generator, at: Floats) -> Load:
    """A job that comes every ten to forty minutes, 15 % of that too early or too late."""
    low, period_s = rng.uniform(1.0, 3.0), rng.uniform(600.0, 2400.0)
    high, lasts_s = low * rng.uniform(2.0, 4.0), period_s * rng.uniform(0.2, 0.5)
    replicas: Floats = np.full(len(at), low)
    for due in np.arange(rng.uniform(0.0, 600.0), at[-1], period_s):
        begins = due + period_s * rng.uniform(-0.15, 0.15)
        replicas[_within(at, begins, begins + lasts_s)] = high
    return Load(replicas)


def _drift(rng: np.random.Generator, at: Floats) -> Load:
    """A square wave whose height grows for hours, and then shrinks again."""
    period_s, share = rng.uniform(900.0, 3600.0), rng.uniform(0.3, 0.6)
    heights = [1.0, rng.uniform(6.0, 10.0), rng.uniform(0.0, 2.0)]
    height = np.interp(at, [0.0, at[-1] / 2.0, at[-1]], heights)
    place = (at + rng.uniform(0.0, period_s)) % period_s
    return Load(rng.uniform(1.0, 3.0) + height * (place < share * period_s))


def _long_bursts(rng: np.random.Generator, at: Floats) -> Load:
    """Texts are `LONGER` times as long for a minute or two, at odd times, in a calm fleet."""
    long, begins = np.zeros(len(at), np.bool_), rng.uniform(300.0, 1200.0)
    while begins < at[-1]:
        lasts_s = rng.uniform(20.0, 120.0)
        long |= _within(at, begins, begins + lasts_s)
        begins += lasts_s + 60.0 + rng.exponential(1500.0)
    return Load(np.full(len(at), rng.uniform(0.2, 0.7)), long, (30.0, 80.0))


def _bursts(rng: np.random.Generator, at: Floats) -> Load:
    """Bursts of some seconds that come every half a minute to five minutes; on half of the seeds
    by the clock, on the others by chance."""
    low, height = rng.uniform(1.0, 4.0), rng.uniform(3.0, 10.0)
    period_s, lasts_s = rng.uniform(30.0, 300.0), rng.uniform(3.0, 15.0)
    jitter = rng.choice([0.0, 1.0])
    replicas: Floats = np.full(len(at), low)
    begins = rng.uniform(0.0, period_s)
    while begins < at[-1]:
        replicas[_within(at, begins, begins + lasts_s)] += height
        begins += lasts_s + (period_s - lasts_s) * (1.0 + jitter * rng.uniform(-0.8, 0.8))
    return Load(replicas)


def _on_off(rng: np.random.Generator, at: Floats) -> Load:
    """Work or none, for exponential times."""
    on_s, off_s, level = rng.uniform(60, 900), rng.uniform(60, 1800), rng.uniform(3.0, 10.0)
    replicas, begins = np.zeros(len(at)), 0.0
    while begins < at[-1]:
        begins += rng.exponential(off_s)
        ends = begins + rng.exponential(on_s)
        replicas[_within(at, begins, ends)] = level
        begins = ends
    return Load(replicas)


def _decay(rng: np.random.Generator, at: Floats) -> Load:
    """Crowds that come at once and leave exponentially, within five to twenty-five minutes."""
    replicas: Floats = np.full(len(at), rng.uniform(0.5, 1.5))
    begins = rng.uniform(600.0, 3000.0)
    while begins < at[-1]:
        gone = np.exp(-np.maximum(0.0, at - begins) / rng.uniform(300.0, 1500.0))
        replicas += np.where(at >= begins, rng.uniform(6.0, 12.0) * gone, 0.0)
        begins += rng.uniform(1.0, 2.5) * HOUR_S
    return Load(replicas)


def _stairs(rng: np.random.Generator, at: Floats) -> Load:
    """A step every half hour to hour and a half, up twice as often as down."""
    lasts_s = rng.uniform(0.5, 1.5) * HOUR_S
    steps = rng.choice([-1.0, 1.0, 1.0], 40) * rng.uniform(0.5, 3.0, 40)
    levels = np.clip(2.0 + np.cumsum(steps), 0.5, 24.0)
    return Load(levels[(at // lasts_s).astype(int)])


def _within(at: Floats, begins: float, ends: float) -> NDArray[np.bool_]:
    return np.asarray((at >= begins) & (at < ends))


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("day", 3 * DAY_S, rhythm=True, draw=_day),
        Kind("nightly", 3 * DAY_S, rhythm=True, draw=_nightly),
        Kind("flash", 12 * HOUR_S, rhythm=False, draw=_flash),
        Kind("square-delay", 6 * HOUR_S, rhythm=True, draw=_square_delay),
        Kind("square-600", 6 * HOUR_S, rhythm=True, draw=_square_600),
        Kind("square-other", 8 * HOUR_S, rhythm=True, draw=_square_other),
        Kind("silence", 6 * HOUR_S, rhythm=False, draw=_silence),
        Kind("ramp", 6.5 * HOUR_S, rhythm=False, draw=_ramp),
        Kind("step", 3 * HOUR_S, rhythm=False, draw=_step, most_replicas=256),
        Kind("lengths", 6 * HOUR_S, rhythm=False, draw=_lengths),
        Kind("broken", 3 * DAY_S, rhythm=False, draw=_broken),
        Kind("superposed", 6 * HOUR_S, rhythm=True, draw=_superposed),
        Kind("sawtooth", 6 * HOUR_S, rhythm=True, draw=_sawtooth),
        Kind("jittered", 6 * HOUR_S, rhythm=False, draw=_jittered),
        Kind("drift", 8 * HOUR_S, rhythm=True, draw=_drift),
        Kind("long-bursts", 6 * HOUR_S, rhythm=False, draw=_long_bursts),
        Kind("bursts", 6 * HOUR_S, rhythm=False, draw=_bursts),
        Kind("on-off", 6 * HOUR_S, rhythm=False, draw=_on_off),
        Kind("decay", 6 * HOUR_S, rhythm=False, draw=_decay),
        Kind("stairs", 8 * HOUR_S, rhythm=False, draw=_stairs),
    )
}


def load(kind: str, seed: int) -> Load:
    """The load of one member of a kind, without noise. SettingError for a kind that is unknown."""
    return _drawn(_known(kind), seed)[0]


def draw(kind: str, seed: int) -> Flow:
    """One member of a kind. SettingError for a kind that is unknown."""
    known = _known(kind)
    drawn, rng = _drawn(known, seed)
    tokens = rng.uniform(*drawn.tokens)
    texts_per_s = np.maximum(0.0, drawn.replicas) * Profile().tokens_per_s / tokens
    texts_per_s = texts_per_s * _noise(rng, len(texts_per_s))
    bins = round(1.0 / BIN_S)
    rates = np.repeat(texts_per_s * (BIN_S / len(SPREAD)), bins)
    # Texts have whole numbers of tokens.
    lengths = np.maximum(1.0, np.round(SPREAD * tokens))
    counts = rng.poisson(rates[:, None], (len(rates), len(lengths))).astype(np.int32)
    if drawn.long is not None:
        long = np.repeat(drawn.long, bins)[:, None]
        counts = np.concatenate([counts * ~long, counts * long], axis=1)
        lengths = np.concatenate([lengths, lengths * LONGER])
    return Flow(counts, lengths, np.asarray(counts @ lengths, np.float64))


def _known(kind: str) -> Kind:
    if kind not in KINDS:
        raise SettingError(f'traffic "{kind}" is unknown; known are {", ".join(KINDS)}')
    return KINDS[kind]


def _drawn(kind: Kind, seed: int) -> tuple[Load, np.random.Generator]:
    # The name is part of the seed, so that equal seeds of two kinds have nothing in common.
    rng = np.random.default_rng((seed, *kind.name.encode()))
    return kind.draw(rng, np.arange(0.0, kind.seconds)), rng


def _noise(rng: np.random.Generator, seconds: int) -> Floats:
    """What the rate is multiplied by, second by second, with a mean of one."""
    quick, slow = rng.uniform(0.05, 0.2), rng.uniform(0.02, 0.08)
    kept = math.exp(-1.0 / 3.0)  # by minutes, over about three of them
    minutes = math.ceil(seconds / 60) + 1
    pushed = rng.normal(0.0, slow * math.sqrt(1.0 - kept**2), minutes)
    level = np.empty(minutes)
    level[0] = rng.normal(0.0, slow)
    for minute in range(1, minutes):
        level[minute] = kept * level[minute - 1] + pushed[minute]
    at = np.arange(seconds) / 60.0
    drift = np.exp(np.interp(at, np.arange(minutes), level) - slow**2 / 2.0)
    return np.asarray(drift * rng.gamma(quick**-2.0, quick**2.0, seconds))
