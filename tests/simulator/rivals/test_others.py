"""The other rivals against values computed from their sources."""

from __future__ import annotations

import math
from typing import Any

import pytest

from embedfleet.autoscaling import Observation
from embedfleet.simulator.rivals import RIVALS, aibrix, article, kpa, llm_d, ray_serve, skyserve


def seen(now: float, ready: int = 4, **others: Any) -> Observation:
    known: dict[str, Any] = {
        "arriving_fast": 0.0,
        "arriving_slow": 0.0,
        "waiting_tokens": 0.0,
        "tokens_per_s": 1000.0,
        "utilisation": 0.5,
    }
    return Observation(now=now, ready=ready, **(known | others))


class TestArticle:
    def test_five_busy_minutes_bring_one_replica_and_three_more_the_next(self) -> None:
        """+1 per 180 s, however busy."""
        policy, planned = article.Article(), 4
        sizes = {}
        for now in range(0, 700, 15):
            planned = policy.order(seen(float(now), planned, utilisation=0.99)).planned
            sizes[now] = planned
        assert [sizes[at] for at in (285, 300, 465, 480, 660)] == [4, 5, 5, 6, 7]

    def test_a_long_wait_or_a_late_p99_needs_no_five_minutes(self) -> None:
        """200 ms and 500 ms."""
        assert article.Article().order(seen(0.0, wait_p95_s=0.21)).planned == 5
        assert article.Article().order(seen(0.0, latency_p99_s=0.51)).planned == 5
        only = article.Article(utilisation_only=True)
        assert only.order(seen(0.0, utilisation=0.7, latency_p99_s=9.0)).planned == 4

    def test_one_replica_goes_in_ten_minutes_and_two_stay(self) -> None:
        """Never under two."""
        policy, planned = article.Article(), 4
        sizes = []
        for now in range(0, 3000, 15):
            planned = policy.order(seen(float(now), planned, utilisation=0.1)).planned
            sizes.append(planned)
        assert sizes.count(3) == 40
        assert sizes[-1] == 2


class TestKnative:
    def test_the_stable_average_sets_the_number(self) -> None:
        """70 of 10 each are 7."""
        assert kpa.Panic().wanted(70.0, 70.0, 10.0, ready=5, now=0.0) == 7

    def test_a_fleet_halves_at_most(self) -> None:
        """Max scale-down rate 2."""
        assert kpa.Panic().wanted(1.0, 1.0, 10.0, ready=9, now=0.0) == 4

    def test_twice_what_is_ready_is_panic_and_panic_never_goes_down(self) -> None:
        """Until a stable window has passed without."""
        panic = kpa.Panic()
        assert panic.wanted(20.0, 100.0, 10.0, ready=5, now=0.0) == 10
        assert panic.wanted(20.0, 30.0, 10.0, ready=5, now=30.0) == 10
        assert panic.wanted(20.0, 30.0, 10.0, ready=5, now=60.0) == 10
        assert panic.wanted(20.0, 30.0, 10.0, ready=5, now=61.0) == 2

    def test_panic_keeps_what_is_ordered_while_little_of_it_is_ready(self) -> None:
        """knative/serving#3153: 1,000 wanted, 40 ready."""
        panic = kpa.Panic()
        assert panic.wanted(1000.0, 10_000.0, 10.0, ready=40, now=0.0) == 1000
        assert panic.wanted(1000.0, 700.0, 10.0, ready=40, now=2.0) == 1000

    def test_a_delay_takes_the_highest_of_its_window(self) -> None:
        """600 s here."""
        panic = kpa.Panic(delay_s=600.0)
        assert panic.wanted(70.0, 70.0, 10.0, ready=7, now=0.0) == 7
        assert panic.wanted(40.0, 40.0, 10.0, ready=7, now=599.0) == 7
        assert panic.wanted(40.0, 40.0, 10.0, ready=7, now=600.0) == 4


@pytest.mark.parametrize(
    ("replicas", "ongoing", "target", "up", "down", "wanted"),
    [
        (2, 20, 2, 1.0, 1.0, 10),
        (4, 5, 2, 1.0, 1.0, 3),
        (4, 7, 2, 1.0, 0.5, 4),
        (10, 2, 2, 1.0, 0.1, 10 - 1),
        (2, 100, 2, 2.0, 1.0, 98),
        (0, 3, 2, 1.0, 1.0, 1),
    ],
)
def test_ray_serve_follows_ongoing_requests(
    replicas: int, ongoing: float, target: float, up: float, down: float, wanted: int
) -> None:
    """With factors that stretch or damp the step."""
    assert ray_serve.desired(replicas, ongoing, target, up, down) == wanted


def test_ray_serve_waits_for_thirty_seconds_of_the_same_decision() -> None:
    """A decision in the other direction starts over."""
    policy = ray_serve.RayServe()
    orders = [policy.order(seen(float(now), waiting_texts=20)).planned for now in range(31)]
    assert orders == [4] * 30 + [10]


def test_skyserve_waits_five_minutes_up_and_twenty_down() -> None:
    """15 and 60 consecutive decisions of 20 s."""
    policy = skyserve.SkyServe(utilisation=1.0)
    up = [policy.order(seen(20.0 * i, arriving_slow=8000.0)).planned for i in range(15)]
    assert up == [4] * 14 + [8]
    down = [policy.order(seen(20.0 * i, ready=8, arriving_slow=3000.0)).planned for i in range(60)]
    assert down == [8] * 59 + [3]


@pytest.mark.parametrize(
    ("replicas", "used", "wanted"),
    [(4, 0.5, 4), (4, 0.54, 4), (4, 0.56, 5), (4, 2.0, 8), (8, 0.1, 4), (8, 0.4, 7)],
)
def test_aibrix_has_a_tolerance_and_doubles_or_halves_at_most(
    replicas: int, used: float, wanted: int
) -> None:
    """Target 0.5, tolerance 10 %."""
    assert aibrix.desired(replicas, used, 0.5) == wanted


@pytest.mark.parametrize(
    ("replicas", "ready", "strain", "wanted"),
    [(3, 3, 1.1, 6), (6, 3, 1.1, 6), (6, 3, 2.0, 11), (6, 6, 0.5, 6), (6, 6, 0.2, 3)],
)
def test_llm_d_credits_what_is_starting(
    replicas: int, ready: int, strain: float, wanted: int
) -> None:
    """The vectors of its guide."""
    assert llm_d.by_slo(replicas, ready, strain) == wanted


def test_llm_d_never_shrinks_on_its_way_up() -> None:
    """As printed, (6, 3, 0.6) would give 4; held at 6."""
    assert llm_d.by_slo(6, 3, 0.6) == 6


def test_llm_d_guards_against_ordering_what_is_pending() -> None:
    """9 wanted, 3 of 5 pending: 6; fewer wanted than there are: that."""
    assert llm_d.guarded(9, 5, 3) == 6
    assert llm_d.guarded(6, 5, 3) == 5
    assert llm_d.guarded(4, 5, 3) == 4


def test_llm_d_counts_tokens_in_flight_by_the_wait_that_is_allowed() -> None:
    """1,000 tokens at 1,000 per second in 0.2 s are five replicas."""
    assert llm_d.Tokens().order(seen(0.0, waiting_tokens=1000.0)).planned == 5


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_stays_within_bounds(name: str) -> None:
    """From two replicas to nine, whatever is measured or missing."""
    for rate, used in ((0.0, math.nan), (1e9, 1.0), (3000.0, 0.4)):
        policy = RIVALS[name](2, 9)
        for step in range(200):
            saw = seen(
                step * policy.period_s,
                arriving_fast=rate,
                arriving_slow=rate,
                utilisation=used,
                waiting_tokens=rate,
                waiting_texts=int(rate / 100),
                queued_texts=int(rate / 200),
                latency_p99_s=rate / 1e4,
            )
            assert 2 <= policy.order(saw).planned <= 9
