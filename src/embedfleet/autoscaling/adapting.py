"""Which way of scaling suits a pool's traffic, found by what every other way would have cost.

A `Stance` is how much reserve is kept, for how long, and which rhythm is provided for. Beside the
real fleet, each stance of a grid has a fleet of its own that exists on paper only
(`fleets_on_paper.py`): it follows the policy's terms on the same traffic, with the same start-up
time, and what it would have paid and answered too late is summed up, the last day counting most.
The stance with the best sum is the one that the real fleet follows. Where edges are quicker than a
start and come again, those that hold win; where a crowd comes seldom and leaves, those that let go.
Other autoscalers' rules are stances too: the highest of the last minutes at some utilisation.

Two sums are compared on a scale without units: log(cost) + `EAGERNESS` * log(share answered late)
+ `DEARNESS` * share answered late. A tenth more replicas is worth a fifth less lateness, and more
where much is late; lateness within the promise is worth nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from embedfleet.autoscaling import fleets_on_paper, policy, rhythm
from embedfleet.autoscaling.cycle import Cycle
from embedfleet.autoscaling.fixed_fleets import FixedFleets
from embedfleet.autoscaling.fleets_on_paper import Fleets
from embedfleet.autoscaling.policy import Decision, PolicyState
from embedfleet.autoscaling.rhythm import Season, Seasons
from embedfleet.autoscaling.schedule import Schedule, bounds
from embedfleet.autoscaling.signals import Observation, fault, start_up_s, texts_now
from embedfleet.autoscaling.stance import USUAL_DELAY_S, USUAL_UTILISATION, Stance, stance
from embedfleet.runtime.settings import AutoscalingSettings

UTILISATIONS = (0.6, 0.7, 0.8, 0.9, 0.95)
DELAYS_S = (30.0, 90.0, 300.0, 600.0, 1800.0, 3600.0)
PROMISE_S = 3600.0
PROMISING = (0.95, 60.0)
"""Utilisation and delay of the one that keeps what would have kept the promise in so many seconds:
beyond that it follows what arrives, and lets go of it soon."""
FORESEEING = ((0.7, 300.0), (0.95, 60.0), (0.95, 20.0))
"""Utilisations and delays of those that provide for what is usual, each for every season."""
CYCLE = "cycle"
"""The season whose period is found."""
EAGERNESS = 0.4
"""How much of a percent more cost one percent less lateness is worth: about what a reserve of 60 %
to 70 % trades one for the other at on days of ServeGen's traffic."""
DEARNESS = 3.0
"""How many percent more cost a percentage point of lateness is worth beside: where the promise is
far out of reach, a third of the texts late is not to be bought at half the price."""
HALF_LIFE_S = 43_200.0
"""Age at which an observation counts half: a crowd that comes once a day is not forgotten."""
PRIOR_S = 900.0
"""Traffic that the figures below are worth, until the pool's own outweighs them."""
USUAL_LATE = ((0.6, 0.0067), (0.95, 0.03))
"""Share answered late of days of ServeGen's traffic, by planned utilisation, where replicas are
kept for ten minutes and start in `USUAL_START_S`."""
USUAL_START_S = 120.0
LEAST_S = 1200.0
"""Seconds of traffic before another stance than the usual one is considered: two of its quiet
windows, so that those on paper that let go have done so and met what came then."""
BETTER = 0.05
"""By how much another stance must be better before the fleet follows it: about 5 % of its cost."""
TOLERATED = 0.005
"""Share answered late below which less is worth nothing: the promise."""
SMOOTHED_S = 300.0
"""Time in which an older measurement of how unevenly work arrives fades to 37 %."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sums:
    """What one stance would have come to so far, older seconds counting less."""

    stance: Stance
    replica_s: float
    late: float
    """Texts answered too late."""


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What all stances came to in some stretches of time; older seconds count less."""

    replica_s: Floats
    late: Floats
    """Entries for each stance, as `Fleets` has them."""
    tokens: float = 0.0
    texts: float = 0.0
    seconds: float = 0.0

    def more(self, now: Trial, fading: float) -> Trial:
        """With one more stretch."""
        return Trial(
            self.replica_s * fading + now.replica_s,
            self.late * fading + now.late,
            self.tokens * fading + now.tokens,
            self.texts * fading + now.texts,
            self.seconds * fading + now.seconds,
        )


@dataclass(frozen=True, slots=True)
class Experience:
    """What is remembered from one decision to the next. A new one is a restart, one that was
    `restored` (`learned.py`) a restart that knows what the process before it had learned."""

    memory: PolicyState = field(default_factory=PolicyState)
    """Of the real fleet."""
    stance: Stance | None = None
    """What the real fleet follows; None before the first decision."""
    fleets: Fleets | None = None
    """Those on paper; None before the first decision."""
    before: tuple[Sums, ...] = ()
    """What they came to before a restart, until the first decision."""
    fixed: FixedFleets | None = None
    """Those on paper that never change; None before the first decision."""
    seasons: Seasons = field(default_factory=rhythm.empty)
    """What is usual at which time."""
    cycle: Cycle = field(default_factory=Cycle)
    """The same, of a period that was found."""
    trial: Trial | None = field(default=None, compare=False)
    """What all stances came to while a period was found; those of `sums`, in their order."""
    found_at: float = math.inf
    """Since when one has been found, without a break; infinite while none is."""
    burstiness: float = math.nan
    """How unevenly work arrives, over some minutes."""
    tokens: float = 0.0
    """Tokens requested, older ones counting less."""
    texts: float = 0.0
    """Texts, likewise."""
    seconds: float = 0.0
    """Seconds that were seen, likewise."""
    at: float = -math.inf
    """When traffic was last seen."""

    @property
    def sums(self) -> tuple[Sums, ...]:
        """What every stance came to so far."""
        if self.fleets is None:
            return self.before
        told = zip(
            self.fleets.stances,
            self.fleets.replica_s.tolist(),
            self.fleets.late.tolist(),
            strict=True,
        )
        return tuple(Sums(*each) for each in told)


def decide(
    seen: Observation,
    experience: Experience,
    settings: AutoscalingSettings,
    schedule: Schedule = (),
) -> tuple[Decision, Experience]:
    """Decide for one moment by the stance that has served this traffic best so far."""
    if fault(seen, settings) is None:
        experience = learned(seen, experience, settings, schedule)
        seen = replace(seen, burstiness=experience.burstiness)
    chosen, expected, enough = experience.stance, 0.0, 0
    if chosen is not None and chosen.season:
        expected = _expected(experience, chosen.season, seen, settings)
    if chosen is not None and chosen.promise_s and experience.fixed is not None:
        enough = experience.fixed.fewest(seen.now, TOLERATED)
    decision, memory = policy.decide(
        seen, experience.memory, settings, schedule, chosen, expected, enough
    )
    return decision, replace(experience, memory=memory)


def learned(
    seen: Observation,
    experience: Experience,
    settings: AutoscalingSettings,
    schedule: Schedule = (),
) -> Experience:
    """Experience with one more moment of traffic in it."""
    if experience.at == -math.inf or experience.fleets is None:
        return _begun(seen, experience, settings)
    elapsed_s = min(max(0.0, seen.now - experience.at), settings.stale_s)
    if elapsed_s < settings.fast_window_s - settings.tick_s / 2.0:
        return experience
    noted = _noted(seen, experience, elapsed_s, settings)
    seen = replace(seen, burstiness=noted.burstiness)
    usual = _usual(noted, seen, settings)
    fixed = experience.fixed or FixedFleets.begun(_past_s(settings), settings.max_replicas)
    fixed = fixed.served(seen, elapsed_s, settings.slo_s)
    enough = fixed.fewest(seen.now, TOLERATED)
    noted = replace(noted, fixed=fixed)
    fleets = fleets_on_paper.decided(
        fleets_on_paper.served(
            experience.fleets, seen, elapsed_s, _fading(elapsed_s), settings.slo_s
        ),
        seen,
        policy.recent(experience.memory.levels, seen, settings),
        np.array([usual.get(each.season, 0.0) for each in experience.fleets.stances]),
        np.array([enough if each.promise_s else 0.0 for each in experience.fleets.stances]),
        _floor(seen, schedule, settings),
        settings,
    )
    foreseen = tuple(name for name, rate in usual.items() if rate)
    fading = _fading(elapsed_s)
    fleets = _led(noted, experience.fleets, fleets, foreseen, fading)
    trial, found_at = experience.trial, math.inf
    if CYCLE in foreseen:
        now = Trial(
            fleets.replica_s - experience.fleets.replica_s * fading,
            fleets.late - experience.fleets.late * fading,
            seen.arriving_fast * elapsed_s,
            texts_now(seen) * elapsed_s,
            elapsed_s,
        )
        trial = now if trial is None else trial.more(now, fading)
        found_at = min(experience.found_at, seen.now)
    noted = replace(noted, fleets=fleets, trial=trial, found_at=found_at)
    return replace(noted, stance=_best(noted, seen, foreseen))


def _past_s(settings: AutoscalingSettings) -> float:
    """How far back it is asked what would have kept the promise: within the bounds of delays."""
    return min(max(PROMISE_S, settings.down_cooldown_least_s), settings.down_cooldown_most_s)


def _fading(elapsed_s: float) -> float:
    """What is left of an older sum."""
    return float(0.5 ** (elapsed_s / HALF_LIFE_S))


def _noted(
    seen: Observation, experience: Experience, elapsed_s: float, settings: AutoscalingSettings
) -> Experience:
    """With this moment's traffic in what is known of it."""
    fading, at = _fading(elapsed_s), rhythm.moment(seen)
    # A mean over a window is that of its middle.
    middle = rhythm.elapsed(seen) - settings.fast_window_s / 2.0
    return replace(
        experience,
        seasons={k: each.noted(at, seen.arriving_slow) for k, each in experience.seasons.items()},
        cycle=experience.cycle.noted(middle, seen.arriving_fast),
        burstiness=_smoothed(experience.burstiness, seen, elapsed_s),
        tokens=experience.tokens * fading + seen.arriving_fast * elapsed_s,
        texts=experience.texts * fading + texts_now(seen) * elapsed_s,
        seconds=experience.seconds * fading + elapsed_s,
        at=seen.now,
    )


def _smoothed(before: float, seen: Observation, elapsed_s: float) -> float:
    """Burstiness over some minutes: that of one is a rough estimate."""
    measured = policy.variation(seen)
    if math.isnan(seen.burstiness):
        return before
    if math.isnan(before):
        return measured
    return before + (measured - before) * -math.expm1(-elapsed_s / SMOOTHED_S)


def _floor(seen: Observation, schedule: Schedule, settings: AutoscalingSettings) -> int:
    if seen.clock is None or not schedule:
        return 0
    return bounds(schedule, seen.clock, start_up_s(seen, settings) + settings.tick_s).floor


def _begun(seen: Observation, experience: Experience, settings: AutoscalingSettings) -> Experience:
    """The first moment since the start. Sums kept from before go on where the grid is the same:
    stances that were not tried on the same traffic can't be compared."""
    before = {each.stance: each for each in experience.sums}
    tried = grid(settings)
    size = min(max(settings.min_replicas, seen.planned), settings.max_replicas)
    fleets = Fleets.begun(tried, size)
    # The stance may come from a file, and need not be one of those that are tried.
    known = experience.stance if experience.stance in tried else stance(settings)
    begun = replace(experience, at=seen.now, fleets=fleets, before=(), stance=known)
    if before.keys() != set(tried):
        usual = replace(begun, stance=stance(settings), trial=None)
        return replace(usual, tokens=0.0, texts=0.0, seconds=0.0)
    fleets = replace(
        fleets,
        replica_s=np.array([before[each].replica_s for each in tried]),
        late=np.array([before[each].late for each in tried]),
    )
    trial = experience.trial
    if trial is not None:
        places = [list(before).index(each) for each in tried]
        trial = replace(trial, replica_s=trial.replica_s[places], late=trial.late[places])
    begun = replace(begun, fleets=fleets, trial=trial)
    foreseen = tuple(name for name, rate in _usual(begun, seen, settings).items() if rate)
    return replace(begun, stance=_best(begun, seen, foreseen))


@lru_cache(maxsize=16)
def grid(settings: AutoscalingSettings) -> tuple[Stance, ...]:
    """Every stance to try within what an operator has left open."""
    least, most = settings.down_cooldown_least_s, settings.down_cooldown_most_s
    delays = [min(max(each, least), most) for each in DELAYS_S]
    plain = [stance(settings, used, each) for used in UTILISATIONS for each in delays]
    if settings.down_cooldown_s is None:
        used, each = PROMISING
        soon = min(max(each, least), most)
        plain.append(stance(settings, used, soon, promise_s=_past_s(settings)))
    if not settings.learn_rhythm:
        return tuple(dict.fromkeys(plain))
    foreseeing = [
        stance(settings, used, min(max(each, least), most), season)
        for season in (*rhythm.empty(), CYCLE)
        for used, each in FORESEEING
    ]
    return tuple(dict.fromkeys([*plain, *foreseeing]))


def _usual(
    experience: Experience, seen: Observation, settings: AutoscalingSettings
) -> dict[str, float]:
    """What each season expects."""
    names = (*experience.seasons, CYCLE)
    return {name: _expected(experience, name, seen, settings) for name in names}


def _expected(
    experience: Experience, name: str, seen: Observation, settings: AutoscalingSettings
) -> float:
    """What is usual until a replica ordered at the next tick has started."""
    ahead_s = start_up_s(seen, settings) + settings.tick_s
    if name == CYCLE:
        return experience.cycle.expected(rhythm.elapsed(seen), ahead_s)
    season: Season = experience.seasons[name]
    return season.expected(rhythm.moment(seen), ahead_s)


def _led(
    experience: Experience, before: Fleets, fleets: Fleets, foreseen: Sequence[str], fading: float
) -> Fleets:
    """Stances of a season that tells nothing now do what the real fleet does then: they are neither
    blamed for what they could not know, nor praised for what they did not foresee.
    """
    blind = np.array([each.season != "" and each.season not in foreseen for each in fleets.stances])
    present = experience.stance
    if not blind.any() or present not in fleets.stances:
        return fleets
    leader = fleets.stances.index(present)
    return fleets if blind[leader] else fleets.led(before, leader, blind, fading)


def _best(experience: Experience, seen: Observation, foreseen: Sequence[str]) -> Stance | None:
    """The stance with the best sum; the present one unless another is clearly better.

    Those of a season that tells nothing now, not yet or because it broke, are not considered. Those
    of a period that was found are judged by the time in which one was, beside the best of the
    others: what was before says nothing of them. They are not followed before one has been found
    for a period without a break: letting go of a fleet for minutes costs more than it saves.
    """
    fleets, present = experience.fleets, experience.stance
    if fleets is None or experience.seconds < LEAST_S:
        return present
    whole = Trial(
        fleets.replica_s, fleets.late, experience.tokens, experience.texts, experience.seconds
    )
    stances = fleets.stances
    place = stances.index(present) if present in stances else None
    told = {"", *foreseen} - {CYCLE}
    others = np.array([each.season in told for each in stances])
    best = _lowest(scores(stances, whole, seen), others, place)
    trial, followed = experience.trial, present is not None and present.season == CYCLE
    if trial is None or CYCLE not in foreseen:
        return stances[best]
    if seen.now - experience.found_at < experience.cycle.period_s and not followed:
        return stances[best]
    scored = scores(stances, trial, seen)
    found = np.array([each.season == CYCLE for each in stances])
    quick = _lowest(scored, found, place)
    both = np.isin(np.arange(len(stances)), (best, quick))
    return stances[_lowest(scored, both, quick if followed else best)]


def _lowest(scored: Floats, able: NDArray[np.bool_], present: int | None) -> int:
    """Where the best of those that are able is; the present one unless it is clearly better."""
    best = int(np.where(able, scored, np.inf).argmin())
    if present is not None and able[present] and scored[best] > scored[present] - BETTER:
        return present
    return best


def scores(stances: Sequence[Stance], trial: Trial, seen: Observation) -> Floats:
    """How dear each stance is, on a scale of logarithms; lower is better."""
    used = np.array([each.utilisation for each in stances])
    delay_s = np.array([max(each.delay_s, each.promise_s) for each in stances])
    tokens, able = trial.tokens, seen.tokens_per_s
    rate = max(tokens / max(1.0, trial.seconds), 0.1 * able)
    # A period that was found stands for the edges that quick stances would be late for.
    foresees = np.array([each.season == CYCLE for each in stances])
    quick = np.where(foresees, 1.0, np.maximum(1.0, USUAL_DELAY_S / delay_s) ** 0.5)
    # What kept the promise before is as late as what has much reserve.
    reserved = np.array(
        [USUAL_UTILISATION if each.promise_s else each.utilisation for each in stances]
    )
    late = np.interp(reserved, *np.array(USUAL_LATE).T) * quick
    start_s = USUAL_START_S if math.isnan(seen.start_up_s) else seen.start_up_s
    late = np.minimum(1.0, late * start_s / USUAL_START_S)
    replica_s = trial.replica_s + PRIOR_S * rate / able / used
    # As many texts as that rate has.
    usual = PRIOR_S * rate * (trial.texts / tokens if tokens else 1.0)
    share = (trial.late + usual * late) / max(1e-9, trial.texts + usual)
    lateness = EAGERNESS * np.log(np.maximum(share, TOLERATED)) + DEARNESS * share
    return np.asarray(np.log(replica_s) + lateness)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one stance would have come to, for people."""

    utilisation: float
    delay_s: float
    promise_s: float
    """Seconds in which no fewer would have kept the promise than are kept; 0 for none."""
    season: str
    """What it foresees; of a cycle its period, once that was found."""
    replicas: float
    """Mean number of replicas."""
    late: float
    """Share of the texts answered late."""
    followed: bool


def outcomes(experience: Experience) -> tuple[Outcome, ...]:
    """What every stance would have come to so far, the cheapest first; none at the start."""
    if not experience.seconds:
        return ()
    period_s = experience.cycle.period_s
    names = {CYCLE: f"{period_s:,.0f} s" if period_s else CYCLE}
    found = [
        Outcome(
            each.stance.utilisation,
            each.stance.delay_s,
            each.stance.promise_s,
            names.get(each.stance.season, each.stance.season),
            each.replica_s / experience.seconds,
            each.late / experience.texts if experience.texts else 0.0,
            each.stance == experience.stance,
        )
        for each in experience.sums
    ]
    return tuple(sorted(found, key=lambda each: each.replicas))
