"""How far the fleet moves: up at once, down slowly, and only when it is safe."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.autoscaling import Decision, Observation, PolicyState
from embedfleet.autoscaling.policy import FLEETING, decide
from embedfleet.autoscaling.stance import Stance, stance
from embedfleet.runtime.settings import AutoscalingSettings

SETTINGS = AutoscalingSettings(min_replicas=2, max_replicas=32)
V = 10_000.0


class Watching:
    """A pool that does as it is told at once, looked at every ten seconds."""

    def __init__(self, ready: int, settings: AutoscalingSettings = SETTINGS) -> None:
        self.now, self.ready, self.settings = 0.0, ready, settings
        self.memory = PolicyState()
        self.chosen: Stance | None = None

    def watch(self, seconds: float, rate: float, **others: float) -> Decision:
        """The last decision after so many seconds of this traffic."""
        end = self.now + seconds
        while self.now < end:
            self.now += 10.0
            saw = Observation(
                now=self.now,
                ready=self.ready,
                arriving_fast=rate,
                arriving_slow=rate,
                waiting_tokens=others.get("waiting_tokens", 0.0),
                tokens_per_s=V,
                start_up_s=60.0,
                latency_p99_s=others.get("latency_p99_s", 0.1),
                starting=int(others.get("starting", 0)),
                age_s=others.get("age_s", 0.0),
            )
            decision, self.memory = decide(saw, self.memory, self.settings, (), self.chosen)
            self.ready = decision.planned - saw.starting
        return decision


def test_nothing_goes_before_a_quiet_window_has_passed() -> None:
    """Ten minutes, the article's cool-down."""
    pool = Watching(12)
    assert pool.watch(600, V).winner == "restart"
    assert pool.ready == 12
    pool.watch(20, V)
    assert pool.ready < 12


def test_replicas_that_a_quiet_window_did_not_need_go_at_once() -> None:
    """As Kubernetes does it."""
    pool = Watching(12)
    pool.watch(610, V)
    assert pool.ready == 2


def test_replicas_go_in_small_steps_where_that_is_set() -> None:
    """A quarter of them a minute at most."""
    pool = Watching(12, replace(SETTINGS, down_most=0.25))
    pool.watch(610, V)
    sizes = []
    for _ in range(5):
        sizes.append(pool.ready)
        pool.watch(60, V)
    assert sizes == [9, 7, 6, 5, 4]


def test_traffic_within_the_quiet_window_keeps_its_replicas() -> None:
    """What was needed nine minutes ago may be needed again: 12 carry it at 90 %."""
    pool = Watching(20, replace(SETTINGS, peak_memory_s=1.0))
    pool.watch(120, 10.5 * V)
    pool.watch(590, V)
    assert pool.ready >= 12
    pool.watch(180, V)
    assert pool.ready < 12


def test_a_peak_is_remembered_beyond_the_quiet_window_where_that_is_set() -> None:
    """For an hour: 50 minutes later 43 % of the 12 replicas that it took, not 2."""
    pool = Watching(12, replace(SETTINGS, peak_memory_s=3600.0))
    pool.watch(120, 10 * V)
    pool.watch(3600, V)
    assert pool.ready == 6


def test_nothing_goes_while_a_replica_is_starting() -> None:
    """What it was ordered for is not known to be over."""
    pool = Watching(12)
    pool.watch(600, V)
    decision = pool.watch(180, V, starting=1)
    assert (decision.planned, decision.winner) == (13, "quiet")


def test_a_replica_that_never_becomes_ready_keeps_the_others_for_three_start_ups_only() -> None:
    """A minute each; a pod without a place may wait for ever."""
    pool = Watching(12)
    pool.watch(600, V)
    pool.watch(180, V, starting=1)
    assert pool.ready == 12
    pool.watch(20, V, starting=1)
    assert pool.ready < 12


def test_those_that_never_become_ready_carry_nothing() -> None:
    """Nine that are planned could carry 54,000 tokens/s at 60 %; the eight that serve could not."""
    pool = Watching(8)
    decision = pool.watch(1200, 5.4 * V, starting=2)
    assert (decision.planned, decision.winner) == (10, "safety")


def test_nothing_goes_while_work_waits() -> None:
    """The rest would have to do it."""
    pool = Watching(12, replace(SETTINGS, max_wait_s=0.4, slo_s=1.0))
    decision = pool.watch(1200, V, waiting_tokens=4.7 * V)
    assert (pool.ready, decision.winner) == (12, "safety")


def test_nothing_goes_while_the_slo_is_broken() -> None:
    """Whatever the rates say."""
    pool = Watching(12)
    pool.watch(20, V)
    assert pool.watch(900, V, latency_p99_s=0.7).planned >= 12


def test_the_rest_must_be_able_to_carry_the_load() -> None:
    """At the utilisation that is planned for, by the higher of both rates."""
    pool = Watching(10)
    pool.watch(1200, 5.4 * V)
    assert pool.ready == 9


def test_replicas_beyond_the_maximum_go_however_much_there_is_to_do() -> None:
    """An operator who lowers the bound, or a target that has more, is not overruled by load; the
    quiet window is kept, as the autoscaler has just started."""
    pool = Watching(40)
    assert pool.watch(600, 39 * V).winner == "restart"
    pool.watch(20, 39 * V)
    assert pool.ready == SETTINGS.max_replicas


def test_signals_that_were_missing_start_the_quiet_window_over() -> None:
    """What was needed meanwhile is unknown."""
    pool = Watching(12)
    pool.watch(500, V)
    assert pool.watch(60, V, age_s=99.0).held
    assert pool.watch(590, V).winner == "restart"
    pool.watch(30, V)
    assert pool.ready < 12


@given(st.lists(st.tuples(st.floats(10, 600), st.floats(0, 30)), min_size=1, max_size=12))
def test_steps_down_are_small_and_a_minute_apart(traffic: list[tuple[float, float]]) -> None:
    """Where that is set, whatever the traffic does."""
    small = replace(SETTINGS, down_most=0.25)
    pool = Watching(20, small)
    went: list[float] = []
    for seconds, replicas in traffic:
        for _ in range(int(seconds // 10)):
            before = pool.ready
            pool.watch(10, replicas * V)
            if pool.ready < before:
                assert before - pool.ready <= max(1, before * small.down_most)
                assert not went or pool.now - went[-1] >= small.down_interval_s
                assert pool.now >= 600
                went.append(pool.now)


@pytest.mark.parametrize(
    ("keeping_s", "promise_s", "after_s"),
    [(30.0, 3600.0, 600.0), (30.0, 120.0, 120.0), (1800.0, 0.0, 1800.0)],
)
def test_a_restart_looks_on_until_the_promise_of_what_it_saw_says_something(
    keeping_s: float, promise_s: float, after_s: float
) -> None:
    """Ten minutes where an hour is asked for, however soon the stance lets go; else one quiet
    window."""
    pool = Watching(12)
    pool.chosen = stance(SETTINGS, 0.95, keeping_s, promise_s=promise_s)
    assert pool.watch(after_s, V).winner == "restart"
    assert pool.ready == 12
    pool.watch(20, V)
    assert pool.ready < 12


@given(
    st.lists(st.tuples(st.floats(10, 400), st.floats(0, 30)), min_size=1, max_size=12),
    st.sampled_from([30.0, 90.0, 600.0]),
)
def test_no_replica_goes_that_was_needed_within_the_quiet_window(
    traffic: list[tuple[float, float]], keeping_s: float
) -> None:
    """By traffic that jumps as it likes, and a target that does as it is told."""
    pool = Watching(4)
    pool.chosen = stance(SETTINGS, 0.6, keeping_s)
    needed: list[tuple[float, int]] = []
    for seconds, load in traffic:
        for _ in range(round(seconds / 10.0)):
            before = pool.ready
            decision = pool.watch(10, load * V)
            lasting = [each.replicas for each in decision.terms if each.name not in FLEETING]
            needed.append((pool.now, min(max(lasting), SETTINGS.max_replicas)))
            if pool.ready < before:
                lately = [many for at, many in needed if at > pool.now - keeping_s]
                assert pool.ready >= max(lately)
