"""The autoscaling policy: how many replicas a pool should have, and why. Pure.

Takes an observation and the state of earlier decisions, and returns a decision and the new state.
Every reason to have replicas is a term; the largest wins, and stabilization.py limits how fast the
fleet moves towards it.

Arrival rate and backlog ask for an absolute number, so the same evidence asks for the same number
however often it is observed. A violated p99 and high utilisation only ask for "more than now": they
count replicas that are starting, and are ignored for a cool-down after they ordered some.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from embedfleet.autoscaling import stabilization
from embedfleet.autoscaling.queueing import LONGEST_S, SHORTEST_S, capacities
from embedfleet.autoscaling.schedule import Bounds, Schedule, bounds
from embedfleet.autoscaling.signals import Observation, fault, start_up_s
from embedfleet.autoscaling.stabilization import StabilizationState
from embedfleet.autoscaling.stance import Stance, stance
from embedfleet.runtime.settings import AutoscalingSettings

FLEETING = {"trend", "surge", "backlog", "rhythm"}
"""Terms that speak of work that is done once: when they ask for less, less is enough soon. The
others speak of what traffic was, and may be again."""
BURST = 1.5
"""The fast rate is a burst beyond so many times the slow one."""
CHANCE = 1.5
"""Standard deviations by which a rate must differ before that means something."""
FULL = 0.9
"""Share of its ability that a replica can give without long waits, where texts are not known."""
PROMISED = 0.005
"""Share of the texts that may be answered later than the SLO."""
LEAST_FULL = 0.5
"""Replicas that are half idle are enough, however long texts are: more make no text shorter."""
ROUNDING = 1e-6
"""Replicas that are no replica."""
BEYOND = 0.15
"""By how much replicas must be busier than their traffic takes before that is evidence of its own:
a fleet that is meant to be busy is no alarm, one whose ability was overrated is."""
STEEPEST = 1.5
"""Most that a broken p99 may multiply: latency explodes near saturation, and need does not."""


LEAST_VARIATION, MOST_VARIATION = 0.5, 30.0
"""Bounds of what a measured burstiness may stretch waits by."""

Level = tuple[float, float, float]
"""When, and the slow and the fast rate then in tokens/s."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Term:
    """One reason to have replicas."""

    name: str
    replicas: int
    why: str


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas there should be from now on."""

    planned: int
    """Replicas that get traffic or are starting to."""
    standby: int
    """Replicas kept loaded beside them, out of traffic."""
    wanted: int
    """What the winning term asked for, before bounds and stabilization."""
    terms: tuple[Term, ...]
    winner: str
    """Name of the term that decided, or of what held it back."""
    reason: str
    """One line for people."""
    held: bool = False
    """Whether the signals were not good enough to act on."""


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What a decision has to remember of earlier ones. A new one is a restart."""

    pace: StabilizationState = field(default_factory=StabilizationState)
    peak: float = 0.0
    """The most that traffic took so far (`needed`) in tokens/s of ability, fading with time."""
    levels: tuple[Level, ...] = ()
    """The rates over the start-up time, oldest first."""
    at: float | None = None
    """When it was last decided."""
    late_since: float | None = None
    """Since when the p99 has been above the SLO."""
    busy_since: float | None = None
    """Since when replicas have been busier than the ceiling."""
    quiet_until: float = -math.inf
    """Until when evidence that only says "more" has ordered enough."""


def decide(
    seen: Observation,
    memory: PolicyState,
    settings: AutoscalingSettings,
    schedule: Schedule = (),
    chosen: Stance | None = None,
    expected: float = 0.0,
    enough: int = 0,
) -> tuple[Decision, PolicyState]:
    """Decide for one moment; by the stance that the settings have unless another one is chosen.

    `expected` is the rate in tokens/s that is usual by the time that a replica has started, and
    `enough` are the replicas that would have kept the promise in the past that the stance asks for;
    0 for what is not known.
    """
    chosen = stance(settings) if chosen is None else chosen
    complaint = fault(seen, settings)
    if complaint is not None:
        return held(seen, complaint, memory, settings)
    if expected:
        seen = _without_the_past(seen)
    memory = _noticed(seen, memory, settings, chosen)
    allowed = _allowed(seen, schedule, settings)
    terms = tuple(_terms(seen, memory, settings, allowed, chosen, expected, enough))
    winner = max(terms, key=lambda term: term.replicas)
    late = seen.latency_p99_s > settings.slo_s
    ceiling = settings.max_replicas
    if allowed.ceiling is not None and not late:
        ceiling = max(settings.min_replicas, min(ceiling, allowed.ceiling))
    target = min(winner.replicas, ceiling)
    least = max(settings.min_replicas, min(allowed.floor, settings.max_replicas))
    proven = max(term.replicas for term in terms if term.name not in FLEETING)
    proven = max(least, min(proven, ceiling))
    step = stabilization.step(
        seen, max(target, least), proven, least, memory.pace, settings, chosen
    )
    decision = Decision(
        planned=step.planned,
        standby=_standby(seen, step, settings),
        wanted=winner.replicas,
        terms=terms,
        winner=winner.name if step.held_by is None else step.held_by,
        reason=_reason(seen, winner, step, ceiling),
    )
    quiet_until = memory.quiet_until
    if step.planned > seen.planned and winner.name in {"slo", "utilisation"}:
        quiet_until = seen.now + settings.up_cooldown_s
    return decision, replace(memory, pace=step.pace, quiet_until=quiet_until)


def held(
    seen: Observation, complaint: str, memory: PolicyState, settings: AutoscalingSettings
) -> tuple[Decision, PolicyState]:
    """Leave everything as it is, because what was seen must not be acted on."""
    planned = max(seen.planned, 0) if math.isfinite(seen.planned) else settings.min_replicas
    planned = max(settings.min_replicas, planned)
    forgetting = replace(memory, pace=stabilization.interrupted(memory.pace))
    reason = f"held: {complaint}"
    return Decision(planned, seen.standby, planned, (), "held", reason, held=True), forgetting


def unheeded(before: PolicyState, after: PolicyState) -> PolicyState:
    """The state after a decision that was not applied: what was seen, not what was ordered."""
    pace = replace(after.pace, grown=before.pace.grown, down_at=before.pace.down_at)
    return replace(after, pace=pace, quiet_until=before.quiet_until)


def _standby(seen: Observation, step: stabilization.Step, settings: AutoscalingSettings) -> int:
    """As many as are set, as far as bounds and memory allow."""
    room = max(0, settings.max_replicas - step.planned)
    if step.held_by == "memory":
        room = min(room, seen.standby)
    return min(settings.standby, room)


def _noticed(
    seen: Observation, memory: PolicyState, settings: AutoscalingSettings, chosen: Stance
) -> PolicyState:
    """Remember since when what is wrong has been wrong, and how traffic has been."""
    elapsed_s = 0.0 if memory.at is None else max(0.0, seen.now - memory.at)
    faded = math.exp(-elapsed_s / chosen.memory_s)
    # Texts that are late because work waits, or until a replica has started, are told elsewhere.
    late = seen.latency_p99_s > settings.slo_s and not (seen.starting or _waits(seen, settings))
    told = seen.arriving_slow / (max(1, seen.ready) * seen.tokens_per_s)
    busy = seen.utilisation > max(settings.utilisation_ceiling, told + BEYOND)  # false for NaN
    return PolicyState(
        pace=memory.pace,
        peak=max(needed(seen, settings), memory.peak * faded),
        levels=recent(memory.levels, seen, settings),
        at=seen.now,
        late_since=(seen.now if memory.late_since is None else memory.late_since) if late else None,
        busy_since=(seen.now if memory.busy_since is None else memory.busy_since) if busy else None,
        quiet_until=memory.quiet_until,
    )


def _without_the_past(seen: Observation) -> Observation:
    """Where it is known what comes, the slow window keeps no replicas for what is over."""
    slow = min(seen.arriving_slow, seen.arriving_fast)
    share = slow / seen.arriving_slow if seen.arriving_slow else 1.0
    return replace(seen, arriving_slow=slow, texts_per_s=seen.texts_per_s * share)


def recent(
    levels: Sequence[Level], seen: Observation, settings: AutoscalingSettings
) -> tuple[Level, ...]:
    """The rates over the start-up time, or the fast window where that is longer, up to now."""
    since = seen.now - max(start_up_s(seen, settings), settings.fast_window_s)
    kept = [each for each in levels if since <= each[0] < seen.now]
    return (*kept, (seen.now, seen.arriving_slow, seen.arriving_fast))


def trend(levels: Sequence[Level], seen: Observation, settings: AutoscalingSettings) -> float:
    """Where the slow rate will be after a start-up time, if it goes on rising as in the last."""
    chance = CHANCE * chances(seen, settings.slow_window_s)
    return seen.arriving_slow + max(0.0, seen.arriving_slow - levels[0][1] - chance)


def surge(levels: Sequence[Level], seen: Observation, settings: AutoscalingSettings) -> float:
    """The rate in a burst that still rises: a mean over a window is that of its middle. 0 for none.

    Half of what the fast rate rose by within its window is what it lags behind.
    """
    fast = seen.arriving_fast
    if fast <= BURST * seen.arriving_slow:
        return 0.0
    before = [each for each in levels if each[0] <= seen.now - settings.fast_window_s]
    since = (before or levels)[-1 if before else 0]
    return fast + max(0.0, fast - since[2]) / 2.0


def _allowed(seen: Observation, schedule: Schedule, settings: AutoscalingSettings) -> Bounds:
    if seen.clock is None or not schedule:
        return Bounds()
    return bounds(schedule, seen.clock, start_up_s(seen, settings) + settings.tick_s)


def _terms(
    seen: Observation,
    memory: PolicyState,
    settings: AutoscalingSettings,
    allowed: Bounds,
    chosen: Stance,
    expected: float,
    enough: int,
) -> Iterator[Term]:
    """Every reason to have replicas, the plainest first; of equals the first wins."""
    yield Term("minimum", settings.min_replicas, "never fewer")
    if allowed.floor:
        yield Term("schedule", allowed.floor, f"the schedule's floor is {allowed.floor}")
    yield from _traffic(seen, memory, settings, chosen)
    if enough:
        share, past_s = 1.0 - PROMISED, chosen.promise_s
        why = f"no fewer would have answered {share:.1%} in time in the last {past_s:,.0f} s"
        yield Term("promise", enough, why)
    # A number proven over hours of steep rises is enough for a rise that may not go on.
    if expected < seen.arriving_slow and not chosen.promise_s:
        yield from _rising(seen, memory, settings)
    if expected:
        why = f"{expected:,.0f} tokens/s are usual at this time of the {chosen.season}"
        yield Term("rhythm", promised(expected, seen, settings), why)
    yield from _backlog(seen, settings)
    yield from _relative(seen, memory, settings)


def _traffic(
    seen: Observation, memory: PolicyState, settings: AutoscalingSettings, chosen: Stance
) -> Iterator[Term]:
    """What arrives now, and reserves."""
    rate = max(seen.arriving_slow, burst(seen, settings))
    why = f"{rate:,.0f} tokens/s arrive"
    if seen.arriving_fast > BURST * seen.arriving_slow:
        why += " in a burst"
    yield Term("traffic", promised(rate, seen, settings), why)
    reserve = seen.arriving_slow / (chosen.utilisation * seen.tokens_per_s)
    yield Term(
        "reserve",
        math.ceil(reserve),
        f"{seen.arriving_slow:,.0f} tokens/s at {chosen.utilisation:.0%} of ability",
    )
    peak = math.ceil(memory.peak / seen.tokens_per_s - ROUNDING)
    yield Term("peak", peak, f"peaks took up to {memory.peak:,.0f} tokens/s")


def _rising(
    seen: Observation, memory: PolicyState, settings: AutoscalingSettings
) -> Iterator[Term]:
    """What traffic comes to if it goes on as it did, where that was not foreseen."""
    began, before, _ = memory.levels[0]
    coming = trend(memory.levels, seen, settings)
    if coming > seen.arriving_slow:
        why = f"{before:,.0f} became {seen.arriving_slow:,.0f} tokens/s in {seen.now - began:.0f} s"
        yield Term("trend", promised(coming, seen, settings), why)
    rising = surge(memory.levels, seen, settings)
    if rising > seen.arriving_fast:
        why = f"a burst that rises to {rising:,.0f} tokens/s"
        yield Term("surge", promised(rising, seen, settings), why)


def promised(rate: float, seen: Observation, settings: AutoscalingSettings) -> int:
    """The fewest replicas that answer enough texts within the SLO, if `rate` tokens/s went on."""
    return int(promised_each(np.array([rate]), seen, settings)[0])


def promised_each(rates: Floats, seen: Observation, settings: AutoscalingSettings) -> Floats:
    """The same for several rates, as whole numbers."""
    load = rates / seen.tokens_per_s
    busy = np.ceil(load / FULL)
    work_s = service_s(seen)
    if not work_s:
        return np.asarray(busy)
    # As many as the largest load may take, by powers of two, so that tables are few and small.
    most = 2 ** max(3, math.ceil(math.log2(max(1.0, float(load.max()) / LEAST_FULL))))
    most = min(most, settings.max_replicas)
    able = capacities(work_s, variation(seen), settings.slo_s / 2.0, PROMISED, most)
    fewest = np.searchsorted(able, load, side="left").astype(np.float64)
    beyond = np.maximum(busy, len(able))
    fewest = np.where(load > able[-1], beyond, fewest)
    return np.asarray(np.minimum(fewest, np.ceil(load / LEAST_FULL)))


def needed(seen: Observation, settings: AutoscalingSettings) -> float:
    """The ability in tokens/s that would have been enough for the fast window: for its rate, and
    for its worst seconds.

    Seconds are served in time by the largest of work / (seconds + longest wait) over all spans of
    them (the effective bandwidth of network calculus: Le Boudec and Thiran, 2001), less what chance
    makes of it (`burst`).
    """
    enough = promised(burst(seen, settings), seen, settings) * seen.tokens_per_s
    if len(seen.seconds) < 2:
        return enough
    done = np.concatenate([[0.0], np.cumsum(seen.seconds)])
    ends = np.arange(len(done))
    spans = np.maximum(1, ends - ends[:, None])
    work = done - done[:, None] - CHANCE * chances(seen, 1.0) * np.sqrt(spans)
    return max(enough, float((work / (spans + settings.slo_s / 2.0)).max()))


def burst(seen: Observation, settings: AutoscalingSettings) -> float:
    """The fast rate, less what chance makes of it: work that arrives unevenly has a rate that
    differs from window to window, for which `promised` provides already.
    """
    return max(0.0, seen.arriving_fast - CHANCE * chances(seen, settings.fast_window_s))


def chances(seen: Observation, window_s: float) -> float:
    """Standard deviation in tokens/s of the rate over a window; 0 where it is not known."""
    work_s = service_s(seen)
    if not work_s or math.isnan(seen.burstiness):
        return 0.0
    load = seen.arriving_slow / seen.tokens_per_s
    return math.sqrt(2.0 * variation(seen) * work_s * load / window_s) * seen.tokens_per_s


def variation(seen: Observation) -> float:
    """What waits are stretched by: the measured burstiness, else that of M/M/c."""
    if math.isnan(seen.burstiness):
        return 1.0
    return min(max(seen.burstiness, LEAST_VARIATION), MOST_VARIATION)


def service_s(seen: Observation) -> float:
    """Mean seconds of work of a text; 0 where it is not known."""
    if not 0 < seen.texts_per_s < math.inf:
        return 0.0
    work_s = seen.arriving_slow / seen.texts_per_s / seen.tokens_per_s
    return min(max(work_s, SHORTEST_S), LONGEST_S) if work_s else 0.0


def _backlog(seen: Observation, settings: AutoscalingSettings) -> Iterator[Term]:
    """Replicas that keep up and clear what waits soon after they have started.

    Work at hand beyond what those ready do within the longest wait means lateness. A replica
    ordered now finds what is left then: what waits, and what arrives, less what is done meanwhile.
    """
    if not _waits(seen, settings):
        return
    done_per_s = seen.ready * seen.tokens_per_s
    rate = max(seen.arriving_fast, seen.arriving_slow)
    left = max(0.0, seen.waiting_tokens + (rate - done_per_s) * start_up_s(seen, settings))
    needed = (rate + left / settings.catch_up_s) / seen.tokens_per_s
    wait_s = seen.waiting_tokens / max(done_per_s, seen.tokens_per_s)
    yield Term(
        "backlog", math.ceil(needed), f"{seen.waiting_tokens:,.0f} tokens, {wait_s:.2g} s, wait"
    )


def _waits(seen: Observation, settings: AutoscalingSettings) -> bool:
    """Whether more is at hand than those ready do within the longest wait."""
    return seen.waiting_tokens > settings.max_wait_s * max(1, seen.ready) * seen.tokens_per_s


def _relative(
    seen: Observation, memory: PolicyState, settings: AutoscalingSettings
) -> Iterator[Term]:
    """Evidence that only says "more than the ready ones"; what is starting is credited."""
    if seen.now < memory.quiet_until or not seen.ready:
        return
    late, busy = memory.late_since, memory.busy_since
    if late is not None and seen.now - late >= settings.slo_broken_s:
        ratio = min(seen.latency_p99_s / settings.slo_s, STEEPEST)
        why = f"p99 is {seen.latency_p99_s:.3g} s, for {seen.now - late:.0f} s above the SLO"
        yield Term("slo", _credited(seen, ratio), why)
    if busy is not None and seen.now - busy >= settings.utilisation_broken_s:
        ratio = seen.utilisation / settings.utilisation_ceiling
        why = (
            f"utilisation is {seen.utilisation:.0%}, for {seen.now - busy:.0f} s above its ceiling"
        )
        yield Term("utilisation", _credited(seen, ratio), why)


def _credited(seen: Observation, ratio: float) -> int:
    return max(seen.planned, math.ceil(seen.ready * ratio))


def _reason(seen: Observation, winner: Term, step: stabilization.Step, ceiling: int) -> str:
    text = f"{seen.planned} -> {step.planned}: {winner.name} asks for {winner.replicas}"
    text += f" ({winner.why})"
    if winner.replicas > ceiling:
        text += f"; the ceiling is {ceiling}"
    return text if step.why is None else f"{text}; {step.why}"
