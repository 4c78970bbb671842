"""Virtual time: against queueing theory, against itself, and what no run may lose."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedfleet.autoscaling import queueing
from embedfleet.runtime.settings import AutoscalingSettings
from embedfleet.simulator import flow, profiles, texts
from embedfleet.simulator.profiles import Profile
from embedfleet.simulator.rivals import RIVALS
from embedfleet.simulator.scalers import Order, Ours, Static
from embedfleet.simulator.score import Answers, quantiles
from embedfleet.simulator.traffic import Trace
from embedfleet.vocabulary import SettingError

SERVER = Profile(
    per_batch_s=0.0, tokens_per_s=100.0, batch_tokens=1, window_batches=1.0, start_s=30.0
)
"""One text at a time and none in reserve: a server of queueing theory. Mean 10 tokens: 0.1 s."""


def steady(seconds: float, rate: float, tokens: int = 1000, seed: int = 0) -> Trace:
    """Poisson arrivals of texts of geometric length."""
    rng = np.random.default_rng(seed)
    count = int(seconds * rate)
    gaps = rng.exponential(1.0 / rate, count)
    return Trace("steady", np.cumsum(gaps), rng.geometric(1.0 / tokens, count))


def stepping(levels: list[float], each_s: float = 300.0, tokens: int = 800) -> Trace:
    """A level of traffic, in replicas' worth of 16,000 tokens/s, for each part."""
    parts = [
        steady(each_s, level * 16_000 / tokens, tokens, seed=place)
        for place, level in enumerate(levels)
    ]
    arrival_s = np.concatenate([part.arrival_s + each_s * i for i, part in enumerate(parts)])
    order = np.argsort(arrival_s)
    return Trace("steps", arrival_s[order], np.concatenate([part.tokens for part in parts])[order])


def ours(**chosen: float) -> Ours:
    return Ours(AutoscalingSettings(min_replicas=2, max_replicas=32, **chosen))  # type: ignore[arg-type]


def mean_wait_s(
    servers: int, rate: float, service_s: float, arrivals_scv: float, service_scv: float
) -> float:
    """Mean wait of a G/G/c queue (Allen and Cunneen); exact for M/M/c.

    `rate` per second, `service_s` the mean of a service, and the squared coefficients of variation
    of the gaps between arrivals and of services.
    """
    load = rate * service_s
    if load >= servers:
        return math.inf
    variation = (arrivals_scv + service_scv) / 2.0
    return queueing.erlang_c(servers, load) * service_s / (servers - load) * variation


def mean_wait(trace: Trace, servers: int) -> float:
    """Mean wait of the second half of a simulated run, in seconds."""
    run = texts._Run(trace, Static(servers), SERVER, seed=0, balancing="least-work")
    run.begin(servers, 0)
    run.run()
    return float(run.wait_s[len(run.wait_s) // 10 :].mean())


@pytest.mark.slow
@pytest.mark.parametrize(("servers", "rate"), [(5, 40.0), (6, 40.0), (2, 15.0)])
def test_waits_are_those_of_queueing_theory(servers: int, rate: float) -> None:
    """M/G/c by Allen and Cunneen within 5 %; a geometric length has a variation of 0.9."""
    waits = [
        mean_wait(steady(200_000 / rate, rate, tokens=10, seed=seed), servers) for seed in range(4)
    ]
    expected = mean_wait_s(servers, rate, 0.1, 1.0, 0.9)
    assert np.mean(waits) == pytest.approx(expected, rel=0.05)


class TestTheory:
    @pytest.mark.parametrize(
        ("servers", "wait_ms"), [(5, 55.4), (6, 14.2), (7, 4.5), (8, 1.48), (9, 0.48)]
    )
    def test_erlangs_formula_gives_the_textbook_waits(self, servers: int, wait_ms: float) -> None:
        """40 a second, 0.1 s each."""
        found = mean_wait_s(servers, 40.0, 0.1, 1.0, 1.0)
        assert 1000 * found == pytest.approx(wait_ms, abs=0.05 if wait_ms > 2 else 0.005)

    def test_variation_stretches_the_wait(self) -> None:
        """Azure's conversations: 1.2 and 0.92."""
        assert 1000 * mean_wait_s(5, 40.0, 0.1, 1.2, 0.92) == pytest.approx(58.7, abs=0.1)

    def test_too_few_servers_never_catch_up(self) -> None:
        """An infinite wait is the truth."""
        assert mean_wait_s(3, 40.0, 0.1, 1.0, 1.0) == float("inf")


class TestDeterminism:
    def test_the_same_seed_gives_the_same_run(self) -> None:
        """Down to the last figure and every decision."""
        profile = Profile(start_s=20.0, start_spread=0.5, life_s=600.0)
        trace = stepping([1, 4, 2], each_s=60.0)
        runs = [texts.simulate(trace, ours(), profile, ready=2, seed=5) for _ in range(2)]
        assert runs[0] == runs[1]

    def test_another_seed_gives_another_run(self) -> None:
        """Where there is chance in it."""
        profile = Profile(start_s=20.0, start_spread=0.5)
        trace = stepping([1, 6], each_s=60.0)
        runs = [texts.simulate(trace, ours(), profile, ready=2, seed=seed) for seed in (1, 2)]
        assert runs[0].latency_p99_s != runs[1].latency_p99_s


class TestAccounts:
    def test_every_text_is_answered_once(self) -> None:
        """Also with replicas that come, go and die."""
        profile = Profile(start_s=10.0, life_s=120.0)
        trace = stepping([2, 6, 1], each_s=90.0)
        run = texts._Run(trace, ours(down_cooldown_s=20.0), profile, seed=1, balancing="least-work")
        run.begin(3, 0)
        run.run()
        assert np.isfinite(run.latency_s).all()
        assert run.pool.waiting_tokens == 0
        assert (run.latency_s >= run.wait_s).all()
        assert run.pool.waiting_texts == run.pool.running_texts == 0

    def test_a_static_fleet_costs_its_size(self) -> None:
        """No more and no less."""
        trace = stepping([2], each_s=120.0)
        for simulated in (
            texts.simulate(trace, Static(4), Profile(), ready=4),
            flow.simulate(flow.Flow.of_trace(trace), Static(4), Profile(), ready=4),
        ):
            assert simulated.mean_replicas == pytest.approx(4.0, rel=0.01)
            assert simulated.scale_events == 0

    def test_standby_and_starting_replicas_are_paid_for(self) -> None:
        """They hold a GPU."""

        class Starting(Static):
            def order(self, seen: object) -> Order:
                return Order(3, standby=2)

        trace = stepping([1], each_s=300.0)
        found = texts.simulate(trace, Starting(1, period_s=1.0), Profile(start_s=1e6), ready=1)
        assert found.mean_replicas == pytest.approx(5.0, rel=0.02)

    def test_texts_beyond_what_may_queue_are_refused_and_count_as_missed(self) -> None:
        """The gateway's own admission decides."""
        trace = Trace("flood", np.linspace(0.0, 10.0, 4000), np.full(4000, 8000))
        found = texts.simulate(trace, Static(1), Profile(), ready=1)
        assert found.rejected > 0
        assert found.texts == 4000
        assert found.slo_attainment < 0.02

    def test_a_standby_replica_wakes_in_seconds(self) -> None:
        """Where a new one takes minutes."""
        trace = stepping([1, 4], each_s=200.0)
        warm, cold = (
            texts.simulate(trace, ours(standby=count), Profile(), ready=2, standby=count)
            for count in (3, 0)
        )
        assert warm.slo_attainment > cold.slo_attainment + 0.1


class TestFlow:
    @pytest.mark.parametrize("replicas", [4, 5, 7])
    def test_work_as_a_flow_agrees_with_single_texts(self, replicas: int) -> None:
        """Attainment within three points on traffic that overloads, fits and idles."""
        trace = stepping([2, 4.5, 3], each_s=120.0)
        exact = texts.simulate(trace, Static(replicas), Profile(), ready=replicas)
        summed = flow.Flow.of_trace(trace)
        about = flow.simulate(summed, Static(replicas), Profile(), ready=replicas)
        assert about.slo_attainment == pytest.approx(exact.slo_attainment, abs=0.03)
        assert about.texts == exact.texts

    def test_our_policy_comes_to_the_same_fleet_in_both(self) -> None:
        """Mean replicas within a tenth."""
        trace = stepping([2, 5, 3], each_s=200.0)
        profile = Profile(start_s=30.0)
        exact = texts.simulate(trace, ours(), profile, ready=4)
        about = flow.simulate(flow.Flow.of_trace(trace), ours(), profile, ready=4)
        assert about.mean_replicas == pytest.approx(exact.mean_replicas, rel=0.1)
        assert about.slo_attainment == pytest.approx(exact.slo_attainment, abs=0.03)


class TestPolicies:
    def test_ours_follows_a_step_better_than_the_article(self) -> None:
        """From two replicas' worth to eight."""
        trace = stepping([2, 8, 8], each_s=120.0)
        mine = texts.simulate(trace, ours(), Profile(start_s=30.0), ready=4)
        theirs = texts.simulate(trace, RIVALS["article"](2, 32), Profile(start_s=30.0), ready=4)
        assert mine.slo_attainment > theirs.slo_attainment + 0.2

    def test_quicker_starts_never_do_harm(self) -> None:
        """30 s instead of 120 s."""
        trace = stepping([2, 6, 3], each_s=150.0)
        quick, slow = (
            texts.simulate(trace, ours(), Profile(start_s=start_s), ready=2)
            for start_s in (30.0, 120.0)
        )
        assert quick.slo_attainment >= slow.slo_attainment


class TestProfiles:
    def test_a_profile_is_read_and_the_rest_has_its_default(self, tmp_path: Path) -> None:
        """TOML."""
        path = tmp_path / "h200.toml"
        path.write_text("tokens_per_s = 200000\nstart_s = 40\n", encoding="utf-8")
        assert profiles.read(path) == replace(Profile(), tokens_per_s=200_000, start_s=40)

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("speed = 1", "speed is unknown"),
            ("start_s = -1", "start_s is -1"),
            ("start_s = nan", "start_s is nan"),
            ('start_s = "long"', "start_s is 'long'"),
            ("tokens_per_s = 0", "tokens_per_s must be above 0"),
            ("start_s", "not valid TOML"),
        ],
    )
    def test_a_profile_that_makes_no_sense_is_refused(
        self, tmp_path: Path, text: str, complaint: str
    ) -> None:
        """With the field's name."""
        path = tmp_path / "p.toml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(SettingError) as raised:
            profiles.read(path)
        assert complaint in str(raised.value)


def test_quantiles_count_weights() -> None:
    """Ninety-nine quick ones and one slow one."""
    found = quantiles(np.array([5.0, 1.0]), np.array([1.0, 99.0]), (0.5, 0.99, 0.999))
    assert found == [1.0, 1.0, 5.0]


def test_unfinished_texts_are_not_in_time() -> None:
    """An infinite latency is late."""
    answers = Answers(np.zeros(2), np.array([0.1, np.inf]), np.ones(2))
    assert answers.attained(0.5) == 1.0


@pytest.mark.slow
def test_a_large_fleet_is_simulated_text_by_text() -> None:
    """600,000 texts over 200 replicas; all of them answered."""
    trace = steady(300.0, 2000.0, tokens=800)
    found = texts.simulate(trace, Static(200), Profile(), ready=200)
    assert found.texts == 600_000
    assert found.slo_attainment > 0.95
