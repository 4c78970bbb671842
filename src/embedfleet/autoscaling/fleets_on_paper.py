"""Fleets that exist on paper only, one for each way of scaling, all on the same traffic. Pure.

Each follows the policy's terms by its own `Stance`, as a fluid: what is not done waits. They are
computed side by side, a row of each array for a fleet, so that many cost little more than one. Two
things are simpler than in `policy.py`: a violated p99 and busy replicas order nothing (the backlog
does), and nothing is held for doubt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embedfleet.autoscaling import policy, queueing
from embedfleet.autoscaling.policy import Level
from embedfleet.autoscaling.signals import Observation, rates_now, start_up_s, texts_now
from embedfleet.autoscaling.stance import Stance
from embedfleet.runtime.settings import AutoscalingSettings

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PARTS = 8
"""Parts into which a sliding window is divided."""


@dataclass(frozen=True, slots=True, eq=False)
class Highest:
    """The highest values of some rows, each in a sliding window of its own, to an eighth of it."""

    values: Floats
    """Shape [rows, parts + 1]."""
    parts: Ints
    """Number of the part of time that each belongs to, likewise."""

    @classmethod
    def empty(cls, rows: int) -> Highest:
        shape = (rows, PARTS + 1)
        return cls(np.zeros(shape), np.full(shape, np.iinfo(np.int64).min // 2))

    def noted(self, now: float, values: Floats, window_s: Floats) -> Highest:
        part = np.floor(now / (window_s / PARTS)).astype(np.int64)
        rows, place = np.arange(len(part)), part % (PARTS + 1)
        same = self.parts[rows, place] == part
        kept, parts = self.values.copy(), self.parts.copy()
        kept[rows, place] = np.where(same, np.maximum(kept[rows, place], values), values)
        parts[rows, place] = part
        return Highest(kept, parts)

    def highest(self, now: float, window_s: Floats) -> Floats:
        part = np.floor(now / (window_s / PARTS)).astype(np.int64)
        recent = self.parts > (part - PARTS - 1)[:, None]
        return np.asarray(np.where(recent, self.values, 0.0).max(axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class Fleets:
    """All fleets on paper; every array has an entry for each."""

    stances: tuple[Stance, ...]
    ready: Floats
    backlog: Floats
    """Tokens that wait."""
    peak: Floats
    """The most that traffic took so far in tokens/s of ability, fading with time."""
    proven: Highest
    """What traffic needed, over each stance's quiet window."""
    wanted: Highest
    """What was wanted, over the window of backlogs."""
    replica_s: Floats
    """What each would have paid so far, older seconds counting less."""
    late: Floats
    """Texts it would have answered too late, likewise."""
    starting: tuple[tuple[float, Floats], ...] = ()
    """(When, how many of each) will be ready, soonest first."""
    decided_at: float = -math.inf

    @classmethod
    def begun(cls, stances: Sequence[Stance], ready: int) -> Fleets:
        """All with as many replicas as there are."""
        rows = len(stances)
        empty, nothing = Highest.empty(rows), np.zeros(rows)
        size = np.full(rows, float(ready))
        return cls(tuple(stances), size, nothing, nothing, empty, empty, nothing, nothing)

    def led(self, before: Fleets, leader: int, which: NDArray[np.bool_], fading: float) -> Fleets:
        """With some of them doing as the leader does since `before`, and paying what it paid."""

        def taken(values: Floats) -> Floats:
            return np.asarray(np.where(which, values[leader], values))

        def added(earlier: Floats, now: Floats) -> Floats:
            return np.asarray(earlier * fading + taken(now - earlier * fading))

        return replace(
            self,
            ready=taken(self.ready),
            backlog=taken(self.backlog),
            replica_s=added(before.replica_s, self.replica_s),
            late=added(before.late, self.late),
            starting=tuple((at, taken(count)) for at, count in self.starting),
        )

    @property
    def planned(self) -> Floats:
        return np.asarray(sum((count for _, count in self.starting), self.ready))


def served(
    fleets: Fleets, seen: Observation, elapsed_s: float, fading: float, slo_s: float
) -> Fleets:
    """After so many seconds of this traffic; what was summed up before counts `fading` as much."""
    late, left = queued(fleets.ready, fleets.backlog, seen, elapsed_s, slo_s)
    ready, starting = fleets.ready, fleets.starting
    while starting and starting[0][0] <= seen.now:
        ready, starting = ready + starting[0][1], starting[1:]
    return replace(
        fleets,
        ready=ready,
        starting=starting,
        backlog=left,
        replica_s=fleets.replica_s * fading + fleets.planned * elapsed_s,
        late=fleets.late * fading + late * (texts_now(seen) * elapsed_s),
    )


def queued(
    ready: Floats, backlog: Floats, seen: Observation, elapsed_s: float, slo_s: float
) -> tuple[Floats, Floats]:
    """The share of the texts that each of some fleets answers late, and the tokens that wait after
    so many seconds."""
    able = np.maximum(1.0, ready)[:, None] * seen.tokens_per_s
    rates = np.array(rates_now(seen))
    part_s = elapsed_s / len(rates)
    # Lindley's recursion, unrolled: what waits after each part of the window.
    grown = np.cumsum((rates - able) * part_s, axis=1)
    least = np.minimum.accumulate(np.minimum(grown, -backlog[:, None]), axis=1)
    after = grown - least
    before = np.concatenate([backlog[:, None], after[:, :-1]], axis=1)
    allowed = able * (slo_s / 2.0)
    highest, lowest = np.maximum(before, after), np.minimum(before, after)
    crossing = (highest - allowed) / np.maximum(1e-9, np.abs(after - before))
    late = np.where(lowest >= allowed, 1.0, np.minimum(1.0, crossing))
    waiting = _waiting(ready, seen.arriving_fast, seen, slo_s)
    late = np.where(highest <= allowed, waiting[:, None], late) @ rates / max(1e-9, rates.sum())
    return np.asarray(late), np.asarray(after[:, -1])


def _waiting(ready: Floats, rate: float, seen: Observation, slo_s: float) -> Floats:
    """The share of the texts that wait too long in a steady queue."""
    service_s = policy.service_s(seen)
    if not service_s or not rate:
        return np.zeros(len(ready))
    shares = queueing.shares_beyond(
        int(ready.max()), rate / seen.tokens_per_s, service_s, policy.variation(seen), slo_s / 2.0
    )
    return np.asarray(shares[ready.astype(np.int64)])


def decided(
    fleets: Fleets,
    seen: Observation,
    levels: Sequence[Level],
    expected: Floats,
    enough: Floats,
    floor: int,
    settings: AutoscalingSettings,
) -> Fleets:
    """After what each would order now. `expected` is the usual rate in tokens/s by the time that a
    replica has started, 0 for stances that foresee nothing; `enough` what would have kept the
    promise, 0 for those that do not ask; `floor` is what a schedule asks for.
    """
    now, ready, planned = seen.now, fleets.ready, fleets.planned
    delay_s = np.array([each.delay_s for each in fleets.stances])
    cleared_s = np.minimum(settings.backlog_cooldown_s, delay_s)
    peak, proven, wanted = _wanted(fleets, seen, levels, expected, enough, floor, settings)
    proven_before = fleets.proven.noted(now, proven, delay_s)
    wanted_before = fleets.wanted.noted(now, wanted, cleared_s)
    highest = np.maximum(proven_before.highest(now, delay_s), wanted_before.highest(now, cleared_s))
    waits = fleets.backlog > ready * seen.tokens_per_s * settings.max_wait_s / 2.0
    waits &= fleets.backlog > seen.tokens_per_s
    least_left = planned - np.maximum(1.0, np.floor(planned * settings.down_most))
    shrunk = np.maximum(np.maximum(highest, least_left), 1.0)
    goes = (highest < planned) & (planned == ready) & ~waits
    more = np.where(wanted > planned, wanted - planned, 0.0)
    starting = fleets.starting
    if more.any():
        starting = (*starting, (now + start_up_s(seen, settings), more))
    return replace(
        fleets,
        ready=np.where(goes, shrunk, ready),
        starting=starting,
        peak=peak,
        proven=proven_before,
        wanted=wanted_before,
        decided_at=now,
    )


def _wanted(
    fleets: Fleets,
    seen: Observation,
    levels: Sequence[Level],
    expected: Floats,
    enough: Floats,
    floor: int,
    settings: AutoscalingSettings,
) -> tuple[Floats, Floats, Floats]:
    """The peak that each remembers, what traffic needs by it, and what is wanted besides."""
    used = np.array([each.utilisation for each in fleets.stances])
    memory_s = np.array([each.memory_s for each in fleets.stances])
    elapsed_s = 0.0 if fleets.decided_at == -math.inf else max(0.0, seen.now - fleets.decided_at)
    slow = seen.arriving_slow
    fast = policy.burst(seen, settings)
    level = np.where(expected > 0.0, min(slow, fast), slow)
    needed = policy.needed(seen, settings)
    peak = np.maximum(needed, fleets.peak * np.exp(-elapsed_s / memory_s))
    least = max(settings.min_replicas, min(floor, settings.max_replicas))
    proven = np.maximum(policy.promised_each(np.maximum(level, fast), seen, settings), least)
    proven = np.maximum(proven, np.ceil(peak / seen.tokens_per_s - policy.ROUNDING))
    proven = np.maximum(proven, enough)
    proven = np.maximum(proven, np.ceil(level / (used * seen.tokens_per_s)))
    rising = max(policy.trend(levels, seen, settings), policy.surge(levels, seen, settings))
    # What was foreseen as high as it is says where it goes; else it goes on as it did.
    proves = np.array([each.promise_s > 0.0 for each in fleets.stances])
    rates = np.where(expected >= slow, expected, np.where(proves, 0.0, rising))
    wanted = np.maximum(proven, policy.promised_each(rates, seen, settings))
    wanted = np.maximum(wanted, _clearing(fleets, seen, settings))
    most = settings.max_replicas
    return peak, np.minimum(proven, most), np.minimum(wanted, most)


def _clearing(fleets: Fleets, seen: Observation, settings: AutoscalingSettings) -> Floats:
    """Replicas that keep up and clear what waits soon after they have started; 0 for no backlog."""
    done_per_s = fleets.ready * seen.tokens_per_s
    rate = max(seen.arriving_fast, seen.arriving_slow)
    left = fleets.backlog + (rate - done_per_s) * start_up_s(seen, settings)
    needed = np.ceil((rate + np.maximum(0.0, left) / settings.catch_up_s) / seen.tokens_per_s)
    waits = fleets.backlog > settings.max_wait_s * np.maximum(done_per_s, seen.tokens_per_s)
    return np.asarray(np.where(waits, needed, 0.0))
