"""How many replicas there should be, and why."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.autoscaling import Decision, Observation, PolicyState, parse
from embedfleet.autoscaling.policy import decide, needed
from embedfleet.runtime.settings import AutoscalingSettings

SETTINGS = AutoscalingSettings(min_replicas=2, max_replicas=32)
V = 10_000.0
"""What a replica can do in these tests, tokens per second."""


def seen(now: float = 0.0, ready: int = 4, rate: float = 2 * V, **others: Any) -> Observation:
    """A healthy pool with this traffic."""
    known: dict[str, Any] = {
        "arriving_fast": rate,
        "arriving_slow": rate,
        "waiting_tokens": 0.0,
        "tokens_per_s": V,
        "start_up_s": 60.0,
        "utilisation": 0.5,
    }
    return Observation(now=now, ready=ready, **(known | others))


def decisions(
    observations: list[Observation], settings: AutoscalingSettings = SETTINGS
) -> list[Decision]:
    """What is decided for one moment after the other."""
    memory, made = PolicyState(), []
    for each in observations:
        decision, memory = decide(each, memory, settings)
        made.append(decision)
    return made


def decided(observation: Observation, settings: AutoscalingSettings = SETTINGS) -> Decision:
    """What a restarted autoscaler decides."""
    return decisions([observation], settings)[0]


class TestGrowth:
    def test_traffic_is_carried_with_the_reserve_that_is_set(self) -> None:
        """6 replicas' worth of tokens at 60 % of ability are 10 replicas."""
        decision = decided(seen(rate=6 * V))
        assert (decision.winner, decision.wanted) == ("reserve", 10)

    def test_the_reason_names_the_winner_and_the_step(self) -> None:
        """One line that an operator can act on."""
        reason = decided(seen(rate=6 * V)).reason
        assert reason == ("4 -> 10: reserve asks for 10 (60,000 tokens/s at 60% of ability)")

    def test_every_reason_to_have_replicas_is_reported(self) -> None:
        """Also those that lost."""
        names = [term.name for term in decided(seen()).terms]
        assert names == ["minimum", "traffic", "reserve", "peak"]

    def test_a_burst_counts_before_the_slow_rate_shows_it(self) -> None:
        """Ten seconds of 9 replicas' worth ask for 10 at 90 %."""
        decision = decided(seen(rate=V, arriving_fast=9 * V))
        assert (decision.winner, decision.wanted) == ("traffic", 10)
        assert "in a burst" in decision.reason

    def test_rising_traffic_is_met_where_it_will_be_once_a_replica_has_started(self) -> None:
        """From 4 to 12 replicas' worth within the start-up time: 20 come next."""
        rising = [
            seen(0.0, ready=30, rate=4 * V),
            seen(60.0, ready=30, rate=12 * V),
        ]
        terms = {term.name: term.replicas for term in decisions(rising)[-1].terms}
        assert terms["trend"] == math.ceil(20 / 0.9)

    def test_a_burst_that_still_rises_is_met_where_it_is_by_now(self) -> None:
        """A mean over ten seconds is half of a step five seconds ago: three quarters and more."""
        made = decisions([seen(0.0, rate=V), seen(5.0, rate=2 * V, arriving_fast=10 * V)])
        terms = {term.name: term.replicas for term in made[-1].terms}
        assert terms["surge"] == math.ceil((10 + 4.5) / 0.9)

    def test_work_that_comes_in_bursts_takes_more_replicas(self) -> None:
        """The same rate in texts of the same length."""
        told: dict[str, Any] = {"rate": 8 * V, "texts_per_s": 400.0}
        even, bursts = (decided(seen(**told, burstiness=each)) for each in (1.0, 8.0))
        asked = [
            {term.name: term.replicas for term in each.terms}["traffic"] for each in (even, bursts)
        ]
        assert asked == [9, 11]

    def test_a_burst_of_seconds_takes_what_would_have_served_it_in_time(self) -> None:
        """Three seconds of 12 replicas' worth within 3.25 s are 11.1 of them, whatever the mean."""
        seconds = (V,) * 7 + (12 * V,) * 3
        decision = decided(seen(rate=V, arriving_fast=4.3 * V, seconds=seconds))
        assert (decision.winner, decision.wanted) == ("peak", 12)

    @given(st.lists(st.floats(0.01, 20.0), min_size=2, max_size=10))
    def test_what_seconds_took_serves_them_in_time_and_little_less_does_not(
        self, loads: list[float]
    ) -> None:
        """Beside a queue that is served first come, first served, second by second."""
        told = seen(rate=0.0, arriving_fast=0.0, seconds=tuple(V * each for each in loads))
        enough = needed(told, SETTINGS)

        def longest_wait_s(able: float) -> float:
            left = longest = 0.0
            for each in loads:
                left = max(0.0, left + V * each - able)
                longest = max(longest, left / able)
            return longest

        assert longest_wait_s(enough) <= SETTINGS.slo_s / 2.0 + 1e-9
        assert longest_wait_s(enough * 0.99) > SETTINGS.slo_s / 2.0

    def test_what_waits_is_cleared_soon_after_the_replicas_have_started(self) -> None:
        """2 replicas fall behind by 1 replica's work a second for 60 s, and have 30 s of it
        waiting: 90 s of work in 30 s take 3 replicas beside the 3 for the traffic."""
        decision = decided(seen(ready=2, rate=3 * V, waiting_tokens=30 * V))
        assert {term.name: term.replicas for term in decision.terms}["backlog"] == 6

    def test_work_that_waits_less_than_is_allowed_orders_nothing(self) -> None:
        """4 replicas do 0.2 s of waiting work at once."""
        names = [term.name for term in decided(seen(waiting_tokens=0.2 * 4 * V)).terms]
        assert "backlog" not in names

    def test_a_fleet_grows_in_bounded_steps(self) -> None:
        """Four replicas in a minute where growth is limited to the fleet's own size."""
        settings = replace(SETTINGS, up_most=1.0)
        made = decisions([seen(0.0, rate=18 * V), seen(5.0, starting=4, rate=18 * V)], settings)
        assert [each.planned for each in made] == [8, 8]
        assert made[-1].winner == "pace"


class TestTheSameEvidence:
    """A broken p99 and busy replicas only say "more than now"."""

    def late(self, now: float, **others: Any) -> Observation:
        return seen(now, latency_p99_s=2.0, **others)

    def test_a_broken_p99_counts_after_a_while_and_in_proportion(self) -> None:
        """Half as many again at most, however late texts are."""
        made = decisions([self.late(0.0), self.late(25.0), self.late(30.0)])
        assert [each.planned for each in made] == [4, 4, 6]
        assert made[-1].winner == "slo"

    def test_it_does_not_order_twice_within_the_cooldown(self) -> None:
        """Also not when what it ordered has become ready."""
        times = [0.0, 30.0, 60.0, 120.0, 200.0, 215.0]
        ready = [4, 4, 4, 6, 6, 6]
        starting = [0, 0, 2, 0, 0, 0]
        made = decisions(
            [
                self.late(at, ready=here, starting=coming)
                for at, here, coming in zip(times, ready, starting, strict=True)
            ]
        )
        assert [each.planned for each in made] == [4, 6, 6, 6, 6, 9]

    def test_what_is_starting_is_credited(self) -> None:
        """Four ready and four on their way are more than six."""
        made = decisions([self.late(0.0, starting=4), self.late(30.0, starting=4)])
        assert made[-1].planned == 8

    def test_busy_replicas_are_a_backstop_after_five_minutes(self) -> None:
        """As in the article: more than 80 % for 5 minutes."""
        busy = [seen(float(at), utilisation=0.95) for at in (0, 150, 299, 300)]
        made = decisions(busy)
        assert [each.planned for each in made] == [4, 4, 4, 5]
        assert made[-1].winner == "utilisation"

    def test_replicas_that_are_as_busy_as_their_traffic_takes_are_no_evidence(self) -> None:
        """A fleet that is meant to be used at 90 % orders nothing because it is."""
        made = decisions([seen(float(at), rate=3.6 * V, utilisation=0.95) for at in (0, 150, 300)])
        assert "utilisation" not in {term.name for term in made[-1].terms}

    def test_a_moment_of_idleness_starts_the_five_minutes_over(self) -> None:
        """One sample below the ceiling is enough."""
        load = [(0, 0.95), (200, 0.5), (205, 0.95), (300, 0.95)]
        made = decisions([seen(float(at), utilisation=used) for at, used in load])
        assert made[-1].planned == 4


class TestBounds:
    def test_there_are_never_fewer_than_the_minimum(self) -> None:
        """Even without any traffic."""
        assert decided(seen(ready=1, rate=0.0)).planned == 2

    def test_there_are_never_more_than_the_maximum(self) -> None:
        """And the reason says that it is the ceiling."""
        decision = decided(seen(ready=30, rate=100 * V))
        assert decision.planned == 32
        assert decision.reason.endswith("; the ceiling is 32")

    def test_a_full_host_gets_no_further_replica(self) -> None:
        """Another one there would end those that run."""
        decision = decided(seen(rate=6 * V, memory_used=(0.95,)))
        assert (decision.planned, decision.winner) == (4, "memory")
        assert decided(seen(rate=6 * V, memory_used=(0.95, 0.4))).planned == 10

    def test_standby_replicas_leave_room_for_those_that_serve(self) -> None:
        """What exists stays within the maximum."""
        settings = replace(SETTINGS, standby=3)
        assert decided(seen(rate=6 * V), settings).standby == 3
        assert decided(seen(ready=31, rate=6 * V), settings).standby == 1


class TestDoubtfulSignals:
    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            ({"arriving_slow": math.nan}, "arriving_slow is missing"),
            ({"waiting_tokens": -1.0}, "waiting_tokens is -1"),
            ({"arriving_fast": math.inf}, "arriving_fast is missing"),
            ({"arriving_fast": 1e300}, "arriving_fast is 1e+300"),
            ({"tokens_per_s": 0.0}, "tokens_per_s is 0"),
            ({"age_s": 31.0}, "signals are 31 s old"),
            ({"age_s": math.nan}, "signals are nan s old"),
            ({"start_up_s": -5.0}, "start_up_s is -5"),
        ],
    )
    def test_unusable_signals_hold_the_number_of_replicas(
        self, change: dict[str, float], complaint: str
    ) -> None:
        """Nothing is known, so nothing is changed."""
        decision = decided(seen(ready=7, **change))
        assert (decision.planned, decision.held) == (7, True)
        assert decision.reason == f"held: {complaint}"

    def test_a_missing_backstop_holds_nothing_up(self) -> None:
        """GPU utilisation is often missing, and rarely needed."""
        assert decided(seen(rate=6 * V, utilisation=math.nan)).planned == 10

    def test_an_unknown_start_up_time_is_the_one_that_is_set(self) -> None:
        """Until the first start was measured."""
        assert not decided(seen(start_up_s=math.nan)).held


class TestSchedules:
    def test_a_ceiling_gives_way_while_the_slo_is_broken(self) -> None:
        """Saving money at night must not break the promise."""
        from datetime import UTC, datetime  # noqa: PLC0415

        night = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
        schedule = parse(["sat,sun 00:00-06:00 UTC max=3"])
        calm = seen(ready=3, rate=6 * V, clock=night)
        assert decide(calm, PolicyState(), SETTINGS, schedule)[0].planned == 3
        broken = replace(calm, latency_p99_s=0.9)
        assert decide(broken, PolicyState(), SETTINGS, schedule)[0].planned == 10

    def test_a_floor_is_met_before_its_window_starts(self) -> None:
        """By the time that a replica takes to start."""
        from datetime import UTC, datetime  # noqa: PLC0415

        schedule = parse(["mon 08:00-10:00 UTC min=9"])
        early = seen(clock=datetime(2026, 11, 23, 7, 59, tzinfo=UTC))
        earlier = seen(clock=datetime(2026, 11, 23, 7, 50, tzinfo=UTC))
        assert decide(early, PolicyState(), SETTINGS, schedule)[0].planned == 9
        assert decide(earlier, PolicyState(), SETTINGS, schedule)[0].planned == 4


SIGNALS = st.builds(
    Observation,
    now=st.floats(0, 1e6),
    ready=st.integers(0, 100),
    starting=st.integers(0, 100),
    standby=st.integers(0, 10),
    arriving_fast=st.floats(0, 1e9),
    arriving_slow=st.floats(0, 1e9),
    waiting_tokens=st.floats(0, 1e12),
    tokens_per_s=st.floats(1e-3, 1e9),
    start_up_s=st.floats(0, 1e4) | st.just(math.nan),
    latency_p99_s=st.floats(0, 1e4),
    utilisation=st.floats(0, 1) | st.just(math.nan),
)
ANYTHING = st.builds(
    Observation,
    now=st.floats(),
    ready=st.integers(-5, 100),
    starting=st.integers(-5, 100),
    arriving_fast=st.floats(),
    arriving_slow=st.floats(),
    waiting_tokens=st.floats(),
    tokens_per_s=st.floats(),
    start_up_s=st.floats(),
    latency_p99_s=st.floats(),
    utilisation=st.floats(),
    age_s=st.floats(),
)


@given(st.lists(ANYTHING, max_size=5))
def test_no_signal_however_absurd_stops_the_loop(observations: list[Observation]) -> None:
    """A decision comes out, and it is never below the minimum."""
    assert all(each.planned >= 2 for each in decisions(observations))


@given(SIGNALS)
def test_growth_ends_at_the_maximum_and_nothing_goes_below_the_minimum(saw: Observation) -> None:
    """Whatever is seen."""
    planned = decided(saw).planned
    assert planned >= SETTINGS.min_replicas
    assert planned <= max(SETTINGS.max_replicas, saw.planned)


@given(SIGNALS)
def test_a_restarted_autoscaler_takes_nothing_away(saw: Observation) -> None:
    """It does not know yet what was needed a minute ago."""
    assert decided(saw).planned >= saw.planned


@given(SIGNALS, st.integers(-20, 20))
def test_twice_the_traffic_on_twice_as_fast_replicas_changes_nothing(
    saw: Observation, power: int
) -> None:
    """Only the ratio of work to ability counts; powers of two, so that no rounding differs."""
    factor = 2.0**power
    scaled = replace(
        saw,
        arriving_fast=saw.arriving_fast * factor,
        arriving_slow=saw.arriving_slow * factor,
        waiting_tokens=saw.waiting_tokens * factor,
        tokens_per_s=saw.tokens_per_s * factor,
    )
    assert decided(scaled).wanted == decided(saw).wanted or decided(scaled).held


@given(SIGNALS, st.integers(0, 10**6))
def test_nothing_depends_on_what_time_it_is(saw: Observation, shift: int) -> None:
    """Only differences of times count."""
    assert decided(replace(saw, now=saw.now + shift)).planned == decided(saw).planned


@given(SIGNALS, st.floats(1.0, 100.0))
def test_more_traffic_never_wants_fewer_replicas(saw: Observation, factor: float) -> None:
    """Monotonic in what arrives."""
    more = replace(
        saw, arriving_fast=saw.arriving_fast * factor, arriving_slow=saw.arriving_slow * factor
    )
    assert decided(more).wanted >= decided(saw).wanted
