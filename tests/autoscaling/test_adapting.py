"""The stance that a pool's own traffic teaches: how much reserve, and for how long."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.autoscaling import Arrivals, Experience, Observation, decide
from embedfleet.autoscaling.adapting import grid, learned, outcomes
from embedfleet.autoscaling.learned import kept, restored
from embedfleet.runtime.settings import AutoscalingSettings

SETTINGS = AutoscalingSettings(min_replicas=2, max_replicas=32)
V = 10_000.0


def after(
    hours: float,
    load: Callable[[float], float],
    settings: AutoscalingSettings = SETTINGS,
    start_s: float = 120.0,
    texts_per_s: float | None = None,
) -> Experience:
    """What is known after so many hours of this traffic, in replicas' worth of work. The
    texts are as many as it takes, or `texts_per_s` of them whatever their length.
    """
    experience = Experience()
    for step in range(round(hours * 240)):
        now = step * 15.0
        rate = V * load(now)
        saw = Observation(
            now=now,
            ready=14,
            arriving_fast=rate,
            arriving_slow=rate,
            waiting_tokens=0.0,
            tokens_per_s=V,
            start_up_s=start_s,
            texts_per_s=rate / 500.0 if texts_per_s is None else texts_per_s,
            texts_fast=math.nan if texts_per_s is None else texts_per_s,
        )
        experience = learned(saw, experience, settings)
    return experience


def edges(now: float) -> float:
    """Up for four minutes, once in each twelve at no time that can be foretold."""
    place = int(now // 720)
    begins = 720 * place + random.Random(place).uniform(0.0, 480.0)
    return 11.0 if begins <= now < begins + 240 else 4.0


def kept_s(experience: Experience) -> float:
    """For how long the fleet keeps what was needed."""
    assert experience.stance is not None
    return max(experience.stance.delay_s, experience.stance.promise_s)


def test_the_first_quarter_of_an_hour_goes_by_the_usual_stance() -> None:
    """Nothing is known yet: 60 %, ten minutes, peaks too."""
    stance = after(0.2, lambda _: 4.0).stance
    assert stance is not None
    assert (stance.utilisation, stance.delay_s, stance.memory_s) == (0.6, 600.0, 600.0)


def test_troughs_that_are_shorter_than_a_start_is_dear_are_held() -> None:
    """Replicas that went would be missed each time."""
    assert kept_s(after(4.0, edges)) >= 600.0


def test_an_undeclared_period_is_found_and_provided_for() -> None:
    """Up and down every twelve minutes: what comes is known, so nothing is kept for it."""
    found = after(4.0, lambda now: 11.0 if now % 1440 < 720 else 2.0)
    assert found.cycle.period_s == pytest.approx(1440.0, abs=8.0)
    assert found.stance is not None
    assert (found.stance.season, found.stance.delay_s <= 60.0) == ("cycle", True)


def test_a_period_that_breaks_is_left_at_once() -> None:
    """From then on by a stance that keeps what traffic without a rhythm needs."""

    def load(now: float) -> float:
        return 11.0 if now > 4 * 3600 or now % 1440 < 720 else 2.0

    broken = after(4.5, load)
    assert broken.cycle.period == 0.0
    assert broken.stance is not None
    assert not broken.stance.season


def test_a_season_that_tells_nothing_yet_comes_to_what_the_fleet_came_to() -> None:
    """Its stances can neither be blamed nor praised for hours in which nobody could follow them."""
    early = after(0.3, edges)
    assert early.stance is not None
    came_to = {each.stance: (each.replica_s, each.late) for each in early.sums}
    blind = [each for each in came_to if each.season in {"day", "week", "cycle"}]
    assert blind
    assert all(came_to[each] == pytest.approx(came_to[early.stance]) for each in blind)


def test_a_period_that_comes_and_goes_is_never_trusted_for_its_promise_alone() -> None:
    """Edges that jitter by a fifth of their period are found now and then, and met seldom: what
    the rhythm's stances were late with counts, however often it is found anew.
    """
    chance = random.Random(3)
    begins = [900.0 * place + chance.uniform(-180.0, 180.0) for place in range(60)]

    def load(now: float) -> float:
        return 11.0 if any(begin <= now < begin + 300.0 for begin in begins) else 3.0

    found = after(6.0, load)
    assert found.stance is not None
    assert not found.stance.season


def test_a_crowd_that_comes_seldom_is_not_paid_for_long() -> None:
    """Five minutes in three hours: no delay brings the replicas back in time."""
    crowd = after(6.0, lambda now: 20.0 if 7200 <= now % 10_800 < 7500 else 2.0)
    assert kept_s(crowd) <= 200.0


def test_a_few_long_texts_do_not_keep_a_fleet_for_the_many_short_ones() -> None:
    """A minute of texts twenty times as long, now and then: many tokens, few of the texts."""
    chance = random.Random(1)
    longs = [chance.uniform(0.0, 14_400.0) for _ in range(8)]

    def load(now: float) -> float:
        return 14.0 if any(begin <= now < begin + 60.0 for begin in longs) else 0.7

    experience = after(4.0, load, start_s=30.0, texts_per_s=100.0)
    assert kept_s(experience) <= 300.0


def test_steady_traffic_needs_little_reserve() -> None:
    """Nothing ever came too late, so the cheapest stance is right."""
    stance = after(5.0, lambda _: 6.0).stance
    assert stance is not None
    assert stance.utilisation > 0.6


def test_what_an_operator_sets_is_left_alone() -> None:
    """Reserve and delay as they are set, whatever traffic says."""
    fixed = replace(SETTINGS, target_utilisation=0.5, down_cooldown_s=900.0, peak_memory_s=60.0)
    assert {(each.utilisation, each.delay_s, each.memory_s) for each in grid(fixed)} == {
        (0.5, 900.0, 60.0)
    }
    assert len(grid(replace(fixed, learn_rhythm=False))) == 1
    assert {each.utilisation for each in grid(replace(SETTINGS, target_utilisation=0.7))} == {0.7}


def test_delays_stay_within_their_bounds() -> None:
    """Both bounds are tried themselves."""
    bounded = replace(SETTINGS, down_cooldown_least_s=300.0, down_cooldown_most_s=900.0)
    assert {each.delay_s for each in grid(bounded)} == {300.0, 600.0, 900.0}
    assert {each.promise_s for each in grid(bounded)} == {0.0, 900.0}


def test_edges_that_nobody_foretells_are_met_by_what_would_have_kept_the_promise() -> None:
    """What the hour before took, without a reserve: 11 replicas' worth, and nobody is late."""
    learnt = after(4.0, edges)
    assert learnt.stance is not None
    assert learnt.stance.promise_s == 3600.0
    assert learnt.fixed is not None
    assert 11 <= learnt.fixed.fewest(4 * 3600.0, 0.005) <= 13


@pytest.mark.parametrize("gap_s", [3600.0, 1e6])
def test_time_in_which_nothing_was_seen_teaches_little(gap_s: float) -> None:
    """A host that slept has not seen an hour of the last rate."""
    before = after(0.5, lambda _: 4.0)
    saw = Observation(
        before.at + gap_s, 4, arriving_fast=V, arriving_slow=V, waiting_tokens=0.0, tokens_per_s=V
    )
    assert learned(saw, before, SETTINGS).seconds <= before.seconds + SETTINGS.stale_s


def test_doubtful_signals_teach_nothing() -> None:
    """The number is held, and experience stays what it was."""
    before = after(0.5, lambda _: 4.0)
    blind = Observation(before.at + 10.0, 4, arriving_fast=math.nan)
    decision, found = decide(blind, before, SETTINGS)
    assert decision.held
    assert (found.sums, found.stance) == (before.sums, before.stance)


def test_an_edge_that_comes_every_hour_is_provided_for_before_it_comes() -> None:
    """Once that has been seen to pay: eight minutes of thirteen replicas' worth, at ten past."""
    known = after(5.9, lambda now: 13.0 if 600 <= now % 3600 < 1080 else 3.0, start_s=60.0)
    assert known.stance is not None
    assert known.stance.season in {"hour", "cycle"}
    early = Observation(
        6 * 3600 + 560.0,
        5,
        arriving_fast=3 * V,
        arriving_slow=3 * V,
        waiting_tokens=0.0,
        tokens_per_s=V,
        start_up_s=60.0,
        texts_per_s=60.0,
    )
    decision, _ = decide(early, known, SETTINGS)
    assert (decision.winner, decision.planned >= 13) == ("rhythm", True)


def test_traffic_without_a_rhythm_is_not_said_to_have_one() -> None:
    """Crowds at odd times: what the hour before had says nothing."""
    starts = [1000.0, 5300.0, 7900.0, 12_500.0, 15_100.0, 19_800.0]
    crowds = after(6.0, lambda now: 10.0 if any(0 <= now - at < 400 for at in starts) else 3.0)
    assert crowds.stance is not None
    assert not crowds.stance.season


@settings(max_examples=5, deadline=None)
@given(
    texts_per_s=st.integers(5, 200),
    tokens=st.integers(20, 400),
    factor=st.floats(4.0, 40.0),
)
def test_texts_that_become_longer_are_seen_within_two_ticks(
    texts_per_s: int, tokens: int, factor: float
) -> None:
    """The same requests a second: what is counted is their work. One look into the change asks for
    more replicas, the next for all that it takes."""
    arrivals = Arrivals(keep_s=60.0)
    most = replace(SETTINGS, max_replicas=4096)
    experience, wanted = Experience(), []
    for second in range(1, 131):
        length = tokens * factor if second > 120 else tokens
        arrivals.add(texts_per_s * length, second - 0.5, texts_per_s)
        if second % 5:
            continue
        saw = Observation(
            float(second),
            ready=4,
            arriving_fast=arrivals.tokens_per_s(10.0, second),
            arriving_slow=arrivals.tokens_per_s(60.0, second),
            waiting_tokens=0.0,
            tokens_per_s=1000.0,
            start_up_s=60.0,
            texts_per_s=arrivals.texts_per_s(60.0, second),
        )
        decision, experience = decide(saw, experience, most)
        wanted.append(decision.wanted)
    needed = texts_per_s * tokens * factor / 1000.0
    assert wanted[-2] >= min(needed, wanted[-3])
    assert wanted[-1] >= needed


ODD = st.sampled_from([math.nan, math.inf, -1.0, 0.0, 5e-324, 1e14, 1e300])
"""Figures that are none, or hardly."""
LOADS = st.floats(0.0, 40.0).map(lambda load: load * V)
USUAL = st.builds(
    Observation,
    now=st.just(10.0),
    ready=st.integers(0, 40),
    starting=st.integers(0, 5),
    arriving_fast=LOADS,
    arriving_slow=LOADS,
    waiting_tokens=LOADS,
    tokens_per_s=st.just(V),
    start_up_s=st.floats(0.0, 600.0),
    texts_per_s=st.floats(0.0, 100.0),
    seconds=st.lists(LOADS, max_size=10).map(tuple),
)
"""`now` is how much later each is than the one before."""
MOMENTS = st.one_of(
    USUAL,
    st.builds(replace, USUAL, now=st.sampled_from([0.0, 400.0, 1e5, -1e3])),
    *(
        st.builds(replace, USUAL, **{name: ODD})
        for name in (
            *("arriving_fast", "arriving_slow", "waiting_tokens", "tokens_per_s", "start_up_s"),
            *("latency_p99_s", "utilisation", "texts_per_s", "texts_fast", "burstiness"),
        )
    ),
    *(st.builds(replace, USUAL, **{name: st.tuples(ODD)}) for name in ("seconds", "memory_used")),
)


@settings(max_examples=40)
@given(st.lists(MOMENTS, min_size=1, max_size=25), st.sampled_from([1, 2, 8]))
def test_whatever_is_seen_bounds_hold_and_what_is_learned_can_be_kept(
    looks: list[Observation], most: int
) -> None:
    """The same is decided each time, with signals missing and absurd, time that jumps and a target
    that does something else."""
    within = replace(SETTINGS, min_replicas=1, max_replicas=most)
    experience, now = Experience(), 0.0
    for each in looks:
        now += each.now
        saw = replace(each, now=now)
        decision, after_it = decide(saw, experience, within)
        assert decision == decide(saw, experience, within)[0]
        assert 1 <= decision.planned <= max(most, saw.planned)
        experience = after_it
        assert all(math.isfinite(each.late) for each in outcomes(experience))
    again = restored(kept(experience))
    assert [each.stance for each in again.sums] == [each.stance for each in experience.sums]
