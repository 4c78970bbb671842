"""Which way of scaling suits a pool's traffic, found by what every other way would have cost.

A `Stance` is how much reserve is kept and for how long. Beside the real fleet, each stance of a
small grid has a fleet of its own that exists on paper only (a `Shadow`): the policy itself decides
on it, from the same traffic, with the same start-up time, and what it would have paid and answered
too late is summed up, the last day counting most. The stance with the best sum is the one that the
real fleet follows. Where edges are quicker than a start and come again, those that hold win; where
a crowd comes seldom and leaves, those that let go.

Two sums are compared on a scale without units: log(cost) + `EAGERNESS` * log(share answered late).
A tenth more replicas is worth a fifth less lateness; lateness within the promise is worth nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache

from embedfleet.autoscaling import policy, rhythm
from embedfleet.autoscaling.policy import Decision, PolicyState
from embedfleet.autoscaling.rhythm import Season, Seasons
from embedfleet.autoscaling.schedule import Schedule
from embedfleet.autoscaling.signals import Observation, fault, start_up_s
from embedfleet.autoscaling.stance import Stance, stance
from embedfleet.runtime.settings import AutoscalingSettings

UTILISATIONS = (0.6, 0.7, 0.95)
DELAYS_S = (60.0, 200.0, 600.0, 1800.0)
FORESEEING = ((0.7, 200.0), (0.95, 60.0))
"""Utilisations and delays of those that provide for what is usual, each for every season."""
EAGERNESS = 0.4
"""How much of a percent more cost one percent less lateness is worth: about what a reserve of 60 %
to 70 % trades one for the other at on days of ServeGen's traffic."""
HALF_LIFE_S = 43_200.0
"""Age at which an observation counts half: a crowd that comes once a day is not forgotten."""
PRIOR_S = 7200.0
"""Traffic that the figures below are worth, until the pool's own outweighs them."""
USUAL_LATE = {0.6: 0.0067, 0.7: 0.0085, 0.95: 0.03}
"""Share answered late of days of ServeGen's traffic, by planned utilisation."""
LEAST_S = 3600.0
"""Seconds of traffic before another stance than the usual one is considered."""
BETTER = 0.08
"""By how much another stance must be better before the fleet follows it: about 8 % of its cost."""
TOLERATED = 0.003
"""Share answered late below which less is worth nothing: the promise, less what paper hides."""
STEP_S = 30.0
"""Most seconds between two decisions on paper."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """A fleet on paper that follows one stance."""

    stance: Stance
    memory: PolicyState
    ready: int
    starting: tuple[tuple[float, int], ...] = ()
    """(When, how many) will be ready, soonest first."""
    backlog: float = 0.0
    """Tokens that wait."""
    replica_s: float = 0.0
    """What it would have paid so far, older seconds counting less."""
    late: float = 0.0
    """Tokens it would have answered too late, likewise."""

    @property
    def planned(self) -> int:
        return self.ready + sum(count for _, count in self.starting)


@dataclass(frozen=True, slots=True)
class Experience:
    """What is remembered from one decision to the next. A new one is a restart, one that was
    `restored` (`learned.py`) a restart that knows what the process before it had learned."""

    memory: PolicyState = field(default_factory=PolicyState)
    """Of the real fleet."""
    stance: Stance | None = None
    """What the real fleet follows; None before the first decision."""
    shadows: tuple[Shadow, ...] = ()
    seasons: Seasons = field(default_factory=rhythm.empty)
    """What is usual at which time."""
    tokens: float = 0.0
    """Tokens that were asked for, older ones counting less."""
    seconds: float = 0.0
    """Seconds that were seen, likewise."""
    at: float = -math.inf
    """When traffic was last seen."""
    due: float = -math.inf
    """When shadows decide again."""


def decide(
    seen: Observation,
    experience: Experience,
    settings: AutoscalingSettings,
    schedule: Schedule = (),
) -> tuple[Decision, Experience]:
    """Decide for one moment by the stance that has served this traffic best so far."""
    if fault(seen, settings) is None:
        experience = learned(seen, experience, settings, schedule)
    chosen, expected = experience.stance, 0.0
    if chosen is not None and chosen.season:
        expected = _expected(experience.seasons[chosen.season], seen, settings)
    decision, memory = policy.decide(seen, experience.memory, settings, schedule, chosen, expected)
    return decision, replace(experience, memory=memory)


def learned(
    seen: Observation,
    experience: Experience,
    settings: AutoscalingSettings,
    schedule: Schedule = (),
) -> Experience:
    """Experience with one more moment of traffic in it."""
    if experience.at == -math.inf:
        return _begun(seen, experience, settings)
    elapsed_s = min(max(0.0, seen.now - experience.at), settings.stale_s)
    if elapsed_s < settings.fast_window_s - settings.tick_s / 2.0:
        return experience
    fading = 0.5 ** (elapsed_s / HALF_LIFE_S)
    shadows = tuple(_served(each, seen, elapsed_s, fading, settings) for each in experience.shadows)
    due = experience.due
    at = rhythm.moment(seen)
    noted = {name: each.noted(at, seen.arriving_slow) for name, each in experience.seasons.items()}
    if seen.now >= due:
        usual = {name: _expected(each, seen, settings) for name, each in noted.items()} | {"": 0.0}
        shadows = tuple(
            _decided(each, seen, settings, schedule, usual[each.stance.season]) for each in shadows
        )
        pace_s = min(STEP_S, start_up_s(seen, settings) / 2.0)
        due = seen.now + max(pace_s, settings.tick_s) - settings.tick_s / 2.0
    experience = replace(
        experience,
        shadows=shadows,
        seasons=noted,
        tokens=experience.tokens * fading + seen.arriving_fast * elapsed_s,
        seconds=experience.seconds * fading + elapsed_s,
        at=seen.now,
        due=due,
    )
    return replace(experience, stance=_best(experience, seen.tokens_per_s))


def _begun(seen: Observation, experience: Experience, settings: AutoscalingSettings) -> Experience:
    """The first moment since the start. Sums kept from before go on where the grid is the same:
    stances that were not tried on the same traffic can't be compared."""
    before = {each.stance: each for each in experience.shadows}
    tried = grid(settings)
    ready = max(settings.min_replicas, seen.planned)
    begun = replace(experience, at=seen.now, due=seen.now)
    if before.keys() == set(tried):
        best = _best(experience, seen.tokens_per_s) or stance(settings)
        shadows = tuple(replace(before[each], ready=ready) for each in tried)
        return replace(begun, shadows=shadows, stance=best)
    shadows = tuple(Shadow(each, PolicyState(), ready) for each in tried)
    return replace(begun, shadows=shadows, stance=stance(settings), tokens=0.0, seconds=0.0)


@lru_cache(maxsize=16)
def grid(settings: AutoscalingSettings) -> tuple[Stance, ...]:
    """Every stance to try within what an operator has left open."""
    least, most = settings.down_cooldown_least_s, settings.down_cooldown_most_s
    delays = [min(max(each, least), most) for each in DELAYS_S]
    plain = [stance(settings, used, each) for used in UTILISATIONS for each in delays]
    if not settings.learn_rhythm:
        return tuple(dict.fromkeys(plain))
    foreseeing = [
        stance(settings, used, min(max(each, least), most), season)
        for season in rhythm.empty()
        for used, each in FORESEEING
    ]
    return tuple(dict.fromkeys([*plain, *foreseeing]))


def _expected(season: Season, seen: Observation, settings: AutoscalingSettings) -> float:
    """What is usual until a replica ordered at the next tick has started."""
    ahead_s = start_up_s(seen, settings) + settings.tick_s
    return season.expected(rhythm.moment(seen), ahead_s)


def _served(
    shadow: Shadow,
    seen: Observation,
    elapsed_s: float,
    fading: float,
    settings: AutoscalingSettings,
) -> Shadow:
    """After so many seconds of this traffic, as a fluid: what is not done waits."""
    ready, starting = shadow.ready, shadow.starting
    while starting and starting[0][0] <= seen.now:
        ready, starting = ready + starting[0][1], starting[1:]
    able = max(1, shadow.ready) * seen.tokens_per_s
    rate, before = seen.arriving_fast, shadow.backlog
    after = max(0.0, before + (rate - able) * elapsed_s)
    allowed = able * settings.slo_s / 2.0
    if max(before, after) <= allowed:
        late = policy.late_share(shadow.ready, rate, seen, settings)
    elif min(before, after) >= allowed:
        late = 1.0
    else:
        late = (max(before, after) - allowed) / abs(after - before)
    paid = shadow.replica_s * fading + shadow.planned * elapsed_s
    missed = shadow.late * fading + late * rate * elapsed_s
    return Shadow(shadow.stance, shadow.memory, ready, starting, after, paid, missed)


def _decided(
    shadow: Shadow,
    seen: Observation,
    settings: AutoscalingSettings,
    schedule: Schedule,
    expected: float,
) -> Shadow:
    """After what the policy would order for it now."""
    able = max(1, shadow.ready) * seen.tokens_per_s
    wait_s = shadow.backlog / able
    saw = Observation(
        now=seen.now,
        ready=shadow.ready,
        starting=shadow.planned - shadow.ready,
        arriving_fast=seen.arriving_fast,
        arriving_slow=seen.arriving_slow,
        waiting_tokens=shadow.backlog,
        tokens_per_s=seen.tokens_per_s,
        start_up_s=seen.start_up_s,
        latency_p99_s=wait_s + min(wait_s, settings.slo_s / 2.0),
        utilisation=min(1.0, seen.arriving_fast / able),
        texts_per_s=seen.texts_per_s,
        clock=seen.clock,
    )
    decision, memory = policy.decide(
        saw, shadow.memory, settings, schedule, shadow.stance, expected
    )
    more = decision.planned - shadow.planned
    if more > 0:
        at = seen.now + start_up_s(seen, settings)
        return replace(shadow, memory=memory, starting=(*shadow.starting, (at, more)))
    ready, starting = shadow.ready, list(shadow.starting)
    while more < 0 and starting:
        at, count = starting.pop()
        if count > -more:
            starting.append((at, count + more))
        more = min(0, more + count)
    return replace(shadow, memory=memory, ready=ready + more, starting=tuple(starting))


def _best(experience: Experience, tokens_per_s: float) -> Stance | None:
    """The stance with the best sum; the present one unless another is clearly better."""
    scored = {each.stance: score(each, experience, tokens_per_s) for each in experience.shadows}
    best = min(scored, key=lambda each: scored[each])
    present = experience.stance
    if experience.seconds < LEAST_S:
        return present
    if present in scored and scored[best] > scored[present] - BETTER:
        return present
    return best


def score(shadow: Shadow, experience: Experience, tokens_per_s: float) -> float:
    """How dear a stance is, on a scale of logarithms; lower is better."""
    used, delay_s = shadow.stance.utilisation, shadow.stance.delay_s
    rate = max(experience.tokens / max(1.0, experience.seconds), 0.1 * tokens_per_s)
    usual = min(USUAL_LATE, key=lambda each: abs(each - used))
    late = USUAL_LATE[usual] * max(1.0, 600.0 / delay_s) ** 0.5
    replica_s = shadow.replica_s + PRIOR_S * rate / tokens_per_s / used
    share = (shadow.late + PRIOR_S * rate * late) / (experience.tokens + PRIOR_S * rate)
    return math.log(replica_s) + EAGERNESS * math.log(max(share, TOLERATED))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one stance would have come to, for people."""

    utilisation: float
    delay_s: float
    season: str
    replicas: float
    """Mean number of replicas."""
    late: float
    """Share of the tokens answered late."""
    followed: bool


def outcomes(experience: Experience) -> tuple[Outcome, ...]:
    """What every stance would have come to so far, the cheapest first; none at the start."""
    if not experience.seconds:
        return ()
    found = [
        Outcome(
            each.stance.utilisation,
            each.stance.delay_s,
            each.stance.season,
            each.replica_s / experience.seconds,
            each.late / experience.tokens if experience.tokens else 0.0,
            each.stance == experience.stance,
        )
        for each in experience.shadows
    ]
    return tuple(sorted(found, key=lambda each: each.replicas))
