"""What the autoscaler sees of a pool, measured where requests pass."""

from __future__ import annotations

import math
import time
from typing import Any

import msgspec
import pytest

from embedfleet.autoscaling import Observation
from embedfleet.fleet.fleet import Fleet
from embedfleet.fleet.states import Event
from embedfleet.runtime.settings import AutoscalingSettings
from embedfleet.server.gateway.scaling import LoadObserver
from tests.conformance.scaling_conformance import ObservationSourceConformance
from tests.fleet.test_health import DESCRIPTION


class FakePool:
    """What a monitor reads of a pool, without a pool at work."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.waiting_tokens, self.queued_texts = 700, 3
        self.observer: LoadObserver | None = None

    def ready(self, name: str, **told: Any) -> None:
        member = self.fleet.add(name, f"http://{name}", 0.0)
        member.description = msgspec.structs.replace(DESCRIPTION, **told)
        self.fleet.apply(member, Event.ANSWERED, 0.0)
        self.fleet.apply(member, Event.VERIFIED, 0.0)


class Rig:
    """A monitor of a fake pool."""

    def __init__(self, memory: float | None = None) -> None:
        self.pool = FakePool()
        settings = AutoscalingSettings()
        self.observer = LoadObserver(self.pool, settings, lambda: memory)  # type: ignore[arg-type]

    def asked(self, texts: int) -> None:
        self.observer.asked(100 * texts, texts, time.monotonic())

    def ended(self, seconds: float, texts: int = 1, *, left: bool = False) -> None:
        self.observer.ended(seconds, time.monotonic(), texts, left=left)

    async def seen(self, later_s: float = 1.0) -> Observation:
        return await self.observer.observe(time.monotonic() + later_s)


class TestAsObservationSource(ObservationSourceConformance):
    """What the autoscaler relies on."""

    @pytest.fixture
    def source(self) -> LoadObserver:
        return Rig().observer


async def test_the_rates_of_requested_tokens_and_texts_are_observed() -> None:
    rig = Rig()
    rig.asked(3)
    rig.asked(5)
    seen = await rig.seen()
    assert (seen.arriving_slow, seen.texts_per_s) == (800.0, 8.0)
    assert sum(seen.seconds) == 800.0


async def test_latency_is_that_of_texts_that_were_answered() -> None:
    rig = Rig()
    rig.ended(0.01, 1)
    rig.ended(0.2, 3)
    assert (await rig.seen()).latency_p99_s == pytest.approx(0.2, rel=0.1)


async def test_callers_who_give_up_early_do_not_count_as_fast_answers() -> None:
    """Answers take three seconds, and nobody waits for longer than a third of one."""
    rig = Rig()
    rig.ended(0.3, 20, left=True)
    assert (await rig.seen()).latency_p99_s == 0.0, "nothing is known yet"
    rig.ended(3.0, 1)
    assert (await rig.seen()).latency_p99_s == pytest.approx(3.0, rel=0.1)


async def test_a_caller_who_gave_up_after_the_slo_was_violated_waited_at_least_that_long() -> None:
    """Else the worst latencies would be invisible."""
    rig = Rig()
    rig.ended(10.0, 1, left=True)
    assert (await rig.seen()).latency_p99_s == pytest.approx(10.0, rel=0.1)


async def test_ability_is_that_of_the_replicas_by_their_own_measures() -> None:
    """For the mean length of what arrives, in batches of half the promised latency."""
    rig = Rig()
    assert math.isnan((await rig.seen()).tokens_per_s)
    rig.pool.ready("a", cost=(0.0, 1e-4, 0.0))
    rig.pool.ready("b", cost=(0.0, 2e-4, 0.0))
    seen = await rig.seen()
    assert seen.ready == 2
    assert seen.tokens_per_s == pytest.approx(7500.0)


async def test_ability_is_remembered_while_no_replica_is_ready() -> None:
    """The dead ones will come back, and what waits must still count."""
    rig = Rig()
    rig.pool.ready("a", cost=(0.0, 1e-4, 0.0))
    await rig.seen()
    rig.pool.fleet.apply(rig.pool.fleet["a"], Event.LOST, 0.0)
    seen = await rig.seen()
    assert seen.ready == 0
    assert seen.tokens_per_s == pytest.approx(10_000.0)


async def test_the_initial_estimate_of_a_new_replica_counts_only_until_measurements() -> None:
    """Else every growth would look like slowness, and order more."""
    rig = Rig()
    rig.pool.ready("a", cost=(0.0, 1e-3, 0.0), batches=1)
    assert (await rig.seen()).tokens_per_s == pytest.approx(1000.0)
    rig.pool.ready("b", cost=(0.0, 1e-5, 0.0), batches=500)
    assert (await rig.seen()).tokens_per_s == pytest.approx(100_000.0)
    rig.pool.fleet.apply(rig.pool.fleet["b"], Event.LOST, 0.0)
    assert (await rig.seen()).tokens_per_s == pytest.approx(100_000.0)


async def test_utilisation_comes_from_what_replicas_computed() -> None:
    """Unknown where none says it, which is no reason to hold."""
    rig = Rig()
    rig.pool.ready("a", busy_s=10.0)
    rig.pool.ready("b")
    assert math.isnan((await rig.seen(0.0)).utilisation)
    told = rig.pool.fleet["a"].description
    assert told is not None
    rig.pool.fleet["a"].description = msgspec.structs.replace(told, busy_s=13.0)
    assert (await rig.seen(6.0)).utilisation == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(("used", "told"), [(0.93, (0.93,)), (None, ())])
async def test_the_memory_of_the_host_is_observed_where_known(
    used: float | None, told: tuple[float, ...]
) -> None:
    """And what waits, as the pool counts it."""
    seen = await Rig(used).seen()
    assert seen.memory_used == told
    assert (seen.waiting_tokens, seen.queued_texts) == (700, 3)
