"""What the autoscaler sees of a pool."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.autoscaling import Arrivals, Observation, ability, total
from embedfleet.autoscaling.signals import fault, rates_now, texts_now
from embedfleet.runtime.settings import AutoscalingSettings
from embedfleet.work import CostModel

MODEL = CostModel(per_batch_s=4e-3, per_token_s=1 / 16_000, per_squared_token_s=0.0)


def test_rates_are_of_whole_seconds() -> None:
    """The second that has begun says nothing yet."""
    arrivals = Arrivals()
    for second in range(20):
        arrivals.add(100, second + 0.5)
    assert arrivals.tokens_per_s(10.0, 20.0) == 100.0
    arrivals.add(5_000, 20.1)
    assert arrivals.tokens_per_s(10.0, 20.2) == 100.0


def test_time_before_the_start_is_not_quiet() -> None:
    """After five seconds the rate is of these five, not of sixty."""
    arrivals = Arrivals()
    for second in range(5):
        arrivals.add(300, second, texts=3)
    assert arrivals.tokens_per_s(60.0, 5.0) == 300.0
    assert arrivals.texts_per_s(60.0, 5.0) == 3.0


def test_silence_is_a_rate_of_nothing() -> None:
    """Also after traffic, and before any."""
    arrivals = Arrivals()
    assert arrivals.tokens_per_s(10.0, 7.0) == 0.0
    arrivals.add(300, 8.0)
    assert arrivals.tokens_per_s(10.0, 100.0) == 0.0


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 1000)), min_size=1, max_size=50))
def test_a_window_over_everything_counts_every_token(gaps: list[tuple[float, int]]) -> None:
    """None is lost between seconds."""
    arrivals, now = Arrivals(keep_s=1000.0), 0.0
    for gap, tokens in gaps:
        now += gap
        arrivals.add(tokens, now)
    seconds = int(now) + 1 - int(gaps[0][0])
    total = sum(tokens for _, tokens in gaps)
    assert arrivals.tokens_per_s(500.0, now + 1.0) * seconds == pytest.approx(total)


def test_throughput_grows_with_the_batch_until_the_slo_bounds_it() -> None:
    """Full batches of 250 ms share the fixed 4 ms among 24 texts of 160 tokens."""
    assert ability(MODEL, 160, 16_384, 0.25) == pytest.approx(24 * 160 / 0.244)
    assert ability(MODEL, 160, 320, 0.25) == pytest.approx(320 / 0.024)


def test_a_text_longer_than_the_slo_runs_alone() -> None:
    """It has to run somewhere."""
    assert ability(MODEL, 8_000, 16_384, 0.25) == pytest.approx(8_000 / 0.504)


@given(st.floats(0, 1), st.floats(0, 1e-3), st.floats(0, 1e-6), st.floats(0, 1e5))
def test_any_cost_model_gives_an_ability(
    per_batch: float, per_token: float, squared: float, length: float
) -> None:
    """Also one in which a term is zero."""
    assert ability(CostModel(per_batch, per_token, squared), length, 16_384, 0.25) > 0


def of_gateway(**known: float) -> Observation:
    """One gateway's part of a pool."""
    return Observation(
        now=1.0,
        ready=round(known.pop("ready", 2)),
        **{"arriving_fast": 10.0, "arriving_slow": 20.0, "waiting_tokens": 5.0, **known},  # type: ignore[arg-type]
    )


def test_traffic_of_several_gateways_adds_up_and_their_replicas_are_the_same() -> None:
    """Each has a part of the traffic and sees the whole fleet."""
    seen = total(
        [
            of_gateway(ready=3, tokens_per_s=1000.0, latency_p99_s=0.2, utilisation=0.4),
            of_gateway(ready=2, tokens_per_s=1100.0, latency_p99_s=0.9, utilisation=0.5),
        ]
    )
    assert (seen.arriving_fast, seen.arriving_slow, seen.waiting_tokens) == (20.0, 40.0, 10.0)
    assert (seen.ready, seen.tokens_per_s) == (3, 1000.0)
    assert (seen.latency_p99_s, seen.utilisation) == (0.9, 0.5)


def test_a_gateway_that_started_just_now_hides_nothing() -> None:
    """It has seen no replica yet; what it can't say, the others do."""
    fresh = of_gateway(ready=0, arriving_fast=0.0)
    assert total([fresh, of_gateway(tokens_per_s=1000.0)]).tokens_per_s == 1000.0
    assert math.isnan(total([fresh, fresh]).tokens_per_s)


def test_traffic_that_one_gateway_can_not_tell_is_unknown() -> None:
    """A sum without it would be too small, so nothing must follow from it."""
    blind = of_gateway(arriving_slow=math.nan)
    assert math.isnan(total([of_gateway(), blind]).arriving_slow)


def test_texts_are_those_of_the_fast_window_as_far_as_they_were_counted() -> None:
    """Else by the mean length of the slow one, and at last a text for each token."""
    counted = of_gateway(arriving_fast=600.0, arriving_slow=200.0, texts_per_s=2.0, texts_fast=3.0)
    assert texts_now(counted) == 3.0
    assert texts_now(replace(counted, texts_fast=math.nan)) == 6.0
    assert texts_now(replace(counted, texts_fast=math.nan, texts_per_s=0.0)) == 600.0


def test_seconds_of_several_gateways_add_up_from_the_latest_on() -> None:
    """One that started just now has fewer of them."""
    first = Observation(0.0, 2, seconds=(1.0, 2.0, 3.0))
    both = total([first, replace(first, seconds=(10.0, 20.0)), replace(first, seconds=())])
    assert both.seconds == (1.0, 12.0, 23.0)


@pytest.mark.parametrize("absurd", [math.nan, math.inf, -1.0])
def test_an_absurd_second_is_nothing_to_act_on(absurd: float) -> None:
    known = Observation(
        0.0,
        2,
        arriving_fast=1.0,
        arriving_slow=1.0,
        waiting_tokens=0.0,
        tokens_per_s=1.0,
        seconds=(1.0, absurd),
    )
    assert fault(known, AutoscalingSettings()) is not None
    assert fault(replace(known, seconds=(1.0, 1.0)), AutoscalingSettings()) is None


@given(st.lists(st.floats(0.0, 1e9), max_size=30), st.floats(0.0, 1e9))
def test_seconds_have_the_shape_of_the_fast_rate_and_it_their_mean(
    seconds: list[float], rate: float
) -> None:
    """Whatever part of the traffic told them apart."""
    rates = rates_now(Observation(0.0, 2, arriving_fast=rate, seconds=tuple(seconds)))
    assert sum(rates) / len(rates) == pytest.approx(rate)


def test_the_oldest_figure_says_how_old_the_sum_is() -> None:
    """And one gateway alone is its own sum."""
    assert total([of_gateway(age_s=1.0), of_gateway(age_s=40.0)]).age_s == 40.0
    alone = of_gateway()
    assert total([alone]) is alone


@pytest.mark.parametrize(
    "absurd",
    [
        {"tokens_per_s": 5e-324},
        {"texts_per_s": -1.0},
        {"texts_per_s": math.inf},
        {"texts_fast": 1e300},
        {"burstiness": -1.0},
        {"start_up_s": 1e14},
        {"utilisation": -0.5},
        {"memory_used": (0.5, math.nan)},
    ],
    ids=str,
)
def test_a_figure_that_may_be_missing_must_not_be_absurd(absurd: dict[str, Any]) -> None:
    """Another gateway tells it, and what is learned of it would be kept."""
    known = Observation(
        0.0, 2, arriving_fast=1.0, arriving_slow=1.0, waiting_tokens=0.0, tokens_per_s=1.0
    )
    unknown: dict[str, Any] = dict.fromkeys(
        ("texts_per_s", "texts_fast", "burstiness", "start_up_s", "utilisation"), math.nan
    )
    assert fault(replace(known, **unknown), AutoscalingSettings()) is None
    assert fault(replace(known, **absurd), AutoscalingSettings()) is not None


def test_a_text_has_a_token_at_least() -> None:
    """Rates of different windows may say otherwise for a moment."""
    odd = Observation(0.0, 2, arriving_fast=600.0, arriving_slow=5e-324, texts_per_s=2.0)
    assert texts_now(odd) == 600.0
