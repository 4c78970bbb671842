"""Stabilisation: limits how fast the number of replicas follows the wanted one. Pure.

Up: at once, in bounded steps. Down: after a quiet window, in small steps, only if the remaining
replicas can carry the load, and never while the autoscaler has just started or replicas are
starting in time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from embedfleet.autoscaling.signals import Observation, start_up_s
from embedfleet.autoscaling.stance import USUAL_DELAY_S, Stance
from embedfleet.runtime.settings import AutoscalingSettings

ALWAYS_UP = 4
"""Replicas that may be added in an interval however small the fleet is (as in Kubernetes' HPA)."""
LATE = 3.0
"""After so many usual start-ups without a new order, who still starts is not waited for: three of
four start within one, and one that never does must not keep the others for ever."""


Wants = tuple[tuple[float, int], ...]
"""When, and how many."""


@dataclass(frozen=True, slots=True)
class StabilizationState:
    """What stabilization remembers."""

    started: float | None = None
    """When the autoscaler, or its sight, came back."""
    proven: Wants = ()
    """What traffic needed in the quiet window, the larger ones first. One that came before a larger
    one says nothing any more, and is dropped."""
    wanted: Wants = ()
    """What was wanted in the shorter window of backlogs, likewise."""
    grown: Wants = ()
    """Growth within the last interval: (when, by how many)."""
    down_at: float = -math.inf
    """When the fleet last shrank."""
    starting_since: float | None = None
    """Since when replicas have been starting without any more having been ordered."""


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now."""

    planned: int
    pace: StabilizationState
    held_by: str | None = None
    why: str | None = None


def interrupted(pace: StabilizationState) -> StabilizationState:
    """Remember that nothing was seen for a while: what was wanted then is unknown.

    The quiet window starts over when sight returns.
    """
    return replace(pace, started=None)


def step(
    seen: Observation,
    wanted: int,
    proven: int,
    least: int,
    pace: StabilizationState,
    settings: AutoscalingSettings,
    chosen: Stance,
) -> Step:
    """Move towards `wanted`, which is within all bounds.

    `proven` is the part of it that is no work done once, and `least` is never waited for.
    """
    pace = _remembering(seen, wanted, proven, pace, settings, chosen)
    if wanted > seen.planned:
        return _up(seen, wanted, least, pace, settings)
    if wanted < seen.planned:
        return _down(seen, pace, settings, chosen)
    return Step(seen.planned, pace)


def _remembering(
    seen: Observation,
    wanted: int,
    proven: int,
    pace: StabilizationState,
    settings: AutoscalingSettings,
    chosen: Stance,
) -> StabilizationState:
    now, since = seen.now, pace.starting_since
    return StabilizationState(
        started=now if pace.started is None else pace.started,
        proven=_highest(pace.proven, proven, now, chosen.delay_s),
        wanted=_highest(pace.wanted, wanted, now, min(settings.backlog_cooldown_s, chosen.delay_s)),
        grown=tuple(each for each in pace.grown if each[0] > now - settings.up_interval_s),
        down_at=pace.down_at,
        starting_since=(now if since is None else since) if seen.starting else None,
    )


def _highest(before: Wants, count: int, now: float, window_s: float) -> Wants:
    return (
        *(each for each in before if each[0] > now - window_s and each[1] > count),
        (now, count),
    )


def _up(
    seen: Observation,
    wanted: int,
    least: int,
    pace: StabilizationState,
    settings: AutoscalingSettings,
) -> Step:
    if seen.memory_used and min(seen.memory_used) >= settings.memory_ceiling:
        used = min(seen.memory_used)
        planned = max(seen.planned, settings.min_replicas)
        return Step(planned, pace, "memory", f"no host has room: {used:.0%} of memory is used")
    lately = sum(count for _, count in pace.grown)
    before = max(0, seen.planned - lately)
    most = before + max(ALWAYS_UP, math.floor(before * settings.up_most))
    planned = max(min(wanted, most), min(wanted, least))
    if planned <= seen.planned:
        return Step(seen.planned, pace, "pace", f"{lately} were added lately")
    grown = (*pace.grown, (seen.now, planned - seen.planned))
    why = None if planned == wanted else f"at most {planned} for now"
    return Step(planned, replace(pace, grown=grown, starting_since=seen.now), None, why)


def _down(
    seen: Observation, pace: StabilizationState, settings: AutoscalingSettings, chosen: Stance
) -> Step:
    """One small step, if nothing speaks against it; what does is told."""

    def stay(by: str, why: str) -> Step:
        return Step(seen.planned, pace, by, why)

    quiet_s = chosen.delay_s
    started = seen.now if pace.started is None else pace.started
    # What would have kept the promise is not known of what was not seen.
    if seen.now - started < (min(chosen.promise_s, USUAL_DELAY_S) or quiet_s):
        return stay("restart", f"observing for only {seen.now - started:.0f} s")
    if _in_time(seen, pace, settings):
        return stay("quiet", f"{seen.starting} are still starting")
    if settings.down_most < 1.0 and seen.now - pace.down_at < settings.down_interval_s:
        return stay("pace", f"it shrank {seen.now - pace.down_at:.0f} s ago")
    highest = max(count for _, count in (*pace.proven, *pace.wanted))
    if highest >= seen.planned:
        return stay("quiet", f"{highest} were wanted within {quiet_s:.0f} s")
    most = max(1, math.floor(seen.planned * settings.down_most))
    planned = max(highest, seen.planned - most)
    refusal = _overloads(seen, min(planned, seen.ready), settings, chosen)
    if refusal is not None and seen.planned <= settings.max_replicas:
        return stay("safety", refusal)
    return Step(planned, replace(pace, down_at=seen.now))


def _in_time(seen: Observation, pace: StabilizationState, settings: AutoscalingSettings) -> bool:
    """Whether replicas are starting of which it is too early to say that they never will."""
    since = seen.now if pace.starting_since is None else pace.starting_since
    return seen.starting > 0 and seen.now - since < LATE * start_up_s(seen, settings)


def _overloads(
    seen: Observation, planned: int, settings: AutoscalingSettings, chosen: Stance
) -> str | None:
    """Say why the rest could not carry what there is, or None."""
    able = planned * seen.tokens_per_s
    rate = max(seen.arriving_fast, seen.arriving_slow)
    if rate > able * chosen.utilisation:
        return f"{planned} could not carry {rate:,.0f} tokens/s"
    if seen.waiting_tokens > able * settings.max_wait_s / 2 + seen.tokens_per_s:
        return f"{seen.waiting_tokens:,.0f} tokens wait"
    if seen.latency_p99_s > settings.slo_s:
        return "the SLO is broken"
    return None
