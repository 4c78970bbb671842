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
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from embedfleet.autoscaling import stabilization
from embedfleet.autoscaling.queueing import fewest_servers, share_beyond
from embedfleet.autoscaling.schedule import Bounds, Schedule, bounds
from embedfleet.autoscaling.signals import Observation, fault, start_up_s
from embedfleet.autoscaling.stabilization import StabilizationState
from embedfleet.autoscaling.stance import Stance, stance
from embedfleet.runtime.settings import AutoscalingSettings

FLEETING = {"trend", "backlog", "rhythm"}
"""Terms that speak of work that is done once: when they ask for less, less is enough soon. The
others speak of what traffic was, and may be again."""
BURST = 1.5
"""The fast rate is a burst beyond so many times the slow one."""
FULL = 0.9
"""Share of its ability that a replica can give without long waits, where texts are not known."""
PROMISED = 0.005
"""Share of the texts that may be answered later than the SLO."""
LEAST_FULL = 0.5
"""Replicas that are half idle are enough, however long texts are: more make no text shorter."""
STEEPEST = 1.5
"""Most that a broken p99 may multiply: latency explodes near saturation, and need does not."""


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
    """The highest fast rate so far in tokens/s, fading with time."""
    levels: tuple[tuple[float, float], ...] = ()
    """(When, slow rate) over the start-up time, oldest first."""
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
) -> tuple[Decision, PolicyState]:
    """Decide for one moment; by the stance that the settings have unless another one is chosen.

    `expected` is the rate in tokens/s that is usual by the time that a replica has started.
    """
    chosen = stance(settings) if chosen is None else chosen
    complaint = fault(seen, settings)
    if complaint is not None:
        return held(seen, complaint, memory, settings)
    memory = _noticed(seen, memory, settings, chosen)
    allowed = _allowed(seen, schedule, settings)
    terms = tuple(_terms(seen, memory, settings, allowed, chosen, expected))
    winner = max(terms, key=lambda term: term.replicas)
    late = memory.late_since is not None
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
    """What to remember of a decision that nobody followed: what was seen, not what was ordered."""
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
    ahead_s = start_up_s(seen, settings)
    levels = [each for each in memory.levels if seen.now - ahead_s <= each[0] < seen.now]
    late = seen.latency_p99_s > settings.slo_s
    busy = seen.utilisation > settings.utilisation_ceiling  # false for NaN
    return PolicyState(
        pace=memory.pace,
        peak=max(seen.arriving_fast, memory.peak * faded),
        levels=(*levels, (seen.now, seen.arriving_slow)),
        at=seen.now,
        late_since=(seen.now if memory.late_since is None else memory.late_since) if late else None,
        busy_since=(seen.now if memory.busy_since is None else memory.busy_since) if busy else None,
        quiet_until=memory.quiet_until,
    )


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
) -> Iterator[Term]:
    """Every reason to have replicas, the plainest first; of equals the first wins."""
    yield Term("minimum", settings.min_replicas, "never fewer")
    if allowed.floor:
        yield Term("schedule", allowed.floor, f"the schedule's floor is {allowed.floor}")
    yield from _traffic(seen, memory, settings, chosen)
    if expected:
        why = f"{expected:,.0f} tokens/s are usual at this time of the {chosen.season}"
        yield Term("rhythm", promised(expected, seen, settings), why)
    yield from _backlog(seen, settings)
    yield from _relative(seen, memory, settings)


def _traffic(
    seen: Observation, memory: PolicyState, settings: AutoscalingSettings, chosen: Stance
) -> Iterator[Term]:
    """What arrives now, what the trend brings until a replica has started, and reserves."""
    rate = max(seen.arriving_slow, seen.arriving_fast)
    why = f"{rate:,.0f} tokens/s arrive"
    if seen.arriving_fast > BURST * seen.arriving_slow:
        why += " in a burst"
    yield Term("traffic", promised(rate, seen, settings), why)
    began, before = memory.levels[0]
    trend = seen.arriving_slow + max(0.0, seen.arriving_slow - before)
    if trend > seen.arriving_slow:
        why = f"{before:,.0f} became {seen.arriving_slow:,.0f} tokens/s in {seen.now - began:.0f} s"
        yield Term("trend", promised(trend, seen, settings), why)
    reserve = seen.arriving_slow / (chosen.utilisation * seen.tokens_per_s)
    yield Term(
        "reserve",
        math.ceil(reserve),
        f"{seen.arriving_slow:,.0f} tokens/s at {chosen.utilisation:.0%} of ability",
    )
    peak = promised(memory.peak, seen, settings)
    yield Term("peak", peak, f"peaks up to {memory.peak:,.0f} tokens/s")


def promised(rate: float, seen: Observation, settings: AutoscalingSettings) -> int:
    """The fewest replicas that answer enough texts within the SLO, if `rate` tokens/s went on."""
    load, service_s = rate / seen.tokens_per_s, _service_s(seen)
    if not service_s:
        return math.ceil(load / FULL)
    most = math.ceil(load / LEAST_FULL)
    return fewest_servers(load, service_s, 1.0, settings.slo_s / 2.0, PROMISED, most)


def late_share(
    replicas: int, rate: float, seen: Observation, settings: AutoscalingSettings
) -> float:
    """Share of the texts that wait longer than the half of the SLO that their batches leave."""
    service_s = _service_s(seen)
    if not service_s:
        return 0.0
    load = rate / seen.tokens_per_s
    return share_beyond(replicas, load, service_s, 1.0, settings.slo_s / 2.0)


def _service_s(seen: Observation) -> float:
    """Mean seconds of work of a text; 0 where it is not known."""
    if not 0 < seen.texts_per_s < math.inf:
        return 0.0
    return seen.arriving_slow / seen.texts_per_s / seen.tokens_per_s


def _backlog(seen: Observation, settings: AutoscalingSettings) -> Iterator[Term]:
    """Replicas that keep up and clear what waits soon after they have started.

    Work at hand beyond what those ready do within the longest wait means lateness. A replica
    ordered now finds what is left then: what waits, and what arrives, less what is done meanwhile.
    """
    done_per_s = seen.ready * seen.tokens_per_s
    if seen.waiting_tokens <= settings.max_wait_s * max(done_per_s, seen.tokens_per_s):
        return
    rate = max(seen.arriving_fast, seen.arriving_slow)
    left = max(0.0, seen.waiting_tokens + (rate - done_per_s) * start_up_s(seen, settings))
    needed = (rate + left / settings.catch_up_s) / seen.tokens_per_s
    wait_s = seen.waiting_tokens / max(done_per_s, seen.tokens_per_s)
    yield Term(
        "backlog", math.ceil(needed), f"{seen.waiting_tokens:,.0f} tokens, {wait_s:.2g} s, wait"
    )


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
        why = f"{seen.utilisation:.0%} busy, for {seen.now - busy:.0f} s too much"
        yield Term("utilisation", _credited(seen, ratio), why)


def _credited(seen: Observation, ratio: float) -> int:
    return max(seen.planned, math.ceil(seen.ready * ratio))


def _reason(seen: Observation, winner: Term, step: stabilization.Step, ceiling: int) -> str:
    text = f"{seen.planned} -> {step.planned}: {winner.name} asks for {winner.replicas}"
    text += f" ({winner.why})"
    if winner.replicas > ceiling:
        text += f"; the ceiling is {ceiling}"
    return text if step.why is None else f"{text}; {step.why}"
