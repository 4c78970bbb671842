"""Observations of a pool: their definition, validation, and the sum over several gateways. Pure.

An observation is rejected when a needed signal is missing, stale or absurd. The signals are
measured with `sliding_windows.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from embedfleet.runtime.settings import AutoscalingSettings
from embedfleet.work import CostModel

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Observation:
    """A pool at one moment. NaN stands for what could not be measured."""

    now: float
    """Monotonic seconds."""
    ready: int
    """Replicas that get traffic."""
    starting: int = 0
    """Replicas ordered that do not get traffic yet."""
    standby: int = 0
    """Replicas kept loaded, out of traffic."""
    arriving_fast: float = math.nan
    """Tokens per second requested over the fast window, refused ones included."""
    arriving_slow: float = math.nan
    """The same over the slow window."""
    waiting_tokens: float = math.nan
    """Tokens in the queue or with a replica, and not finished."""
    tokens_per_s: float = math.nan
    """What one replica can do, from the shared cost model (see `ability`)."""
    start_up_s: float = math.nan
    """Seconds from ordering a replica to its first traffic: a high quantile of the last ones."""
    latency_p99_s: float = 0.0
    """Of what finished lately; 0 where nothing did."""
    wait_p95_s: float = 0.0
    """Of what left the queue lately; 0 where nothing did."""
    utilisation: float = math.nan
    """Mean share of the time that ready replicas computed since the last observation."""
    texts_per_s: float = 0.0
    """Texts requested over the slow window."""
    texts_fast: float = math.nan
    """The same over the fast window."""
    waiting_texts: int = 0
    """Texts in the queue or with a replica, and not finished."""
    queued_texts: int = 0
    """Those of them that are not being computed."""
    burstiness: float = math.nan
    """How unevenly work arrives from second to second (`Arrivals.burstiness`): 1 for texts of
    exponential lengths that arrive at random, more for bursts, less for texts of equal length."""
    seconds: tuple[float, ...] = ()
    """Tokens that were asked for in each second of the fast window, the latest at the end; empty
    where they were not told apart."""
    memory_used: tuple[float, ...] = ()
    """Share of memory in use on each host that could take another replica; empty if unknown."""
    age_s: float = 0.0
    """Seconds since the oldest of these figures was measured."""
    clock: datetime | None = None
    """Time of day, with its zone, for schedules; None where none is needed."""

    @property
    def planned(self) -> int:
        """Replicas there are or will be, once those on the way have started."""
        return self.ready + self.starting


MOST = 1e15
"""Larger figures are no measurements of any machine."""
LONGEST_START_S = 86_400.0
"""Longer starts are none, as `autoscaling.start_up_s` has it."""


def fault(seen: Observation, settings: AutoscalingSettings) -> str | None:
    """Say why an observation must not be acted on, or None."""
    if not 0 <= seen.age_s <= settings.stale_s:
        return f"signals are {seen.age_s:g} s old"
    for name, value in _needed(seen):
        if not math.isfinite(value):
            return f"{name} is missing"
        if not 0 <= value < MOST:
            return f"{name} is {value:g}"
    if seen.tokens_per_s * MOST < 1.0:
        return f"tokens_per_s is {seen.tokens_per_s:g}"
    if seen.start_up_s > LONGEST_START_S:
        return f"start_up_s is {seen.start_up_s:g}"
    return None


def _needed(seen: Observation) -> Iterator[tuple[str, float]]:
    yield "now", abs(seen.now)
    yield "ready", seen.ready
    yield "starting", seen.starting
    yield "standby", seen.standby
    yield "arriving_fast", seen.arriving_fast
    yield "arriving_slow", seen.arriving_slow
    yield "waiting_tokens", seen.waiting_tokens
    yield "tokens_per_s", seen.tokens_per_s
    yield "latency_p99_s", seen.latency_p99_s
    yield from (("a second of arrivals", each) for each in seen.seconds)
    yield from (("a host's memory", each) for each in seen.memory_used)
    # These may be missing: there is another figure for each, or less is known.
    for name in ("utilisation", "start_up_s", "texts_per_s", "texts_fast", "burstiness"):
        value = getattr(seen, name)
        if not math.isnan(value):
            yield name, value


def start_up_s(seen: Observation, settings: AutoscalingSettings) -> float:
    """How long a replica ordered now takes: as measured, else as set."""
    return settings.start_up_s if math.isnan(seen.start_up_s) else seen.start_up_s


def texts_now(seen: Observation) -> float:
    """Texts per second over the fast window; where they were not counted, by the mean length over
    the slow one, and where that is not known either, a text for each token.
    """
    if math.isfinite(seen.texts_fast):
        return seen.texts_fast
    if seen.texts_per_s > 0.0 and seen.arriving_slow:  # false for NaN
        return seen.arriving_fast * min(1.0, seen.texts_per_s / seen.arriving_slow)
    return seen.arriving_fast


def rates_now(seen: Observation) -> tuple[float, ...]:
    """The fast rate in tokens/s, told apart into equal parts of its window: by seconds where they
    were told, else the whole.
    """
    told = math.fsum(seen.seconds)
    if told < 1.0:  # no token
        return (seen.arriving_fast,)
    scale = seen.arriving_fast * len(seen.seconds) / told
    return tuple(each * scale for each in seen.seconds)


def ability(model: CostModel, tokens_of_a_text: float, batch_tokens: int, within_s: float) -> float:
    """Tokens per second of a replica that fills its batches, none of them longer than `within_s`.

    Larger batches share the fixed cost of a pass among more texts, until one alone would break the
    promise; a single text runs however long it takes.
    """
    length = max(1, round(tokens_of_a_text))
    each = model.seconds([length]) - model.per_batch_s
    if each <= 0.0:
        each = model.per_batch_s or 1e-9
    fitting = min(batch_tokens / length, (within_s - model.per_batch_s) / each)
    texts = max(1, math.floor(fitting))
    return length * texts / (model.per_batch_s + each * texts)


def total(seen: Sequence[Observation]) -> Observation:
    """One observation of a pool from those of all gateways in front of it; at least one.

    Traffic and work add up. Of what each sees of the same replicas the worst counts; a gateway that
    has no figure for a replica's ability, because it started just now, leaves it to the others.
    """
    first, *others = seen
    if not others:
        return first
    return replace(
        first,
        ready=max(each.ready for each in seen),
        arriving_fast=sum(each.arriving_fast for each in seen),
        arriving_slow=sum(each.arriving_slow for each in seen),
        waiting_tokens=sum(each.waiting_tokens for each in seen),
        texts_per_s=sum(each.texts_per_s for each in seen),
        texts_fast=sum(each.texts_fast for each in seen),
        waiting_texts=sum(each.waiting_texts for each in seen),
        queued_texts=sum(each.queued_texts for each in seen),
        seconds=tuple(_summed([each.seconds for each in seen])),
        burstiness=_known(max, (each.burstiness for each in seen)),
        tokens_per_s=_known(min, (each.tokens_per_s for each in seen)),
        start_up_s=_known(max, (each.start_up_s for each in seen)),
        utilisation=_known(max, (each.utilisation for each in seen)),
        latency_p99_s=max(each.latency_p99_s for each in seen),
        wait_p95_s=max(each.wait_p95_s for each in seen),
        memory_used=max((each.memory_used for each in seen), key=len),
        age_s=max(each.age_s for each in seen),
    )


def _summed(rows: Sequence[tuple[float, ...]]) -> list[float]:
    """Sums of what belongs to the same second, counted from the latest."""
    turned = zip_longest(*map(reversed, rows), fillvalue=0.0)
    return [math.fsum(each) for each in turned][::-1]


def _known(choose: Callable[[list[float]], float], values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return choose(known) if known else math.nan
