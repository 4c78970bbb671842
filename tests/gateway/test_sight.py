"""What the autoscaler sees of a pool, measured where requests pass."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from embedfleet.autoscaling import Observation
from embedfleet.endpoint import Caller, Computed
from embedfleet.fleet.fleet import Fleet
from embedfleet.fleet.states import Event
from embedfleet.gateway.sight import PoolSight
from embedfleet.settings import AutoscalingSettings
from embedfleet.vocabulary import Encoding, Lane, OverloadedError
from tests.conformance.scaling_conformance import SightConformance
from tests.fleet.test_health import DESCRIPTION


class FakePool:
    """Answers after as long as the test says."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.workload = SimpleNamespace(waiting_tokens=700, queued_texts=3)
        self.takes_s = 0.0
        self.error: Exception | None = None

    async def compute(
        self, encodings: Sequence[Encoding], caller: Caller, arrived: Any = None
    ) -> Computed:
        await asyncio.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        return Computed(np.zeros((len(encodings), 2), np.float32), 0.0, 0.0)

    def ready(self, name: str, **told: Any) -> None:
        member = self.fleet.add(name, f"http://{name}", 0.0)
        member.description = msgspec.structs.replace(DESCRIPTION, **told)
        self.fleet.apply(member, Event.ANSWERED, 0.0)
        self.fleet.apply(member, Event.VERIFIED, 0.0)


def texts(count: int, tokens: int = 100) -> list[Encoding]:
    return [np.zeros(tokens, np.int32)] * count


def caller(lane: Lane = Lane.INTERACTIVE) -> Caller:
    return Caller(lane, time.monotonic() + 60)


class Rig:
    """A sight of a fake pool."""

    def __init__(self, memory: float | None = None) -> None:
        self.pool = FakePool()
        settings = AutoscalingSettings()
        self.sight = PoolSight(self.pool, settings, lambda: memory)  # type: ignore[arg-type]

    async def ask(self, count: int = 1, lane: Lane = Lane.INTERACTIVE) -> None:
        await self.sight.compute(texts(count), caller(lane))

    async def seen(self, later_s: float = 1.0) -> Observation:
        return await self.sight.observe(time.monotonic() + later_s)


class TestAsSight(SightConformance):
    """What the autoscaler relies on."""

    @pytest.fixture
    def sight(self) -> PoolSight:
        return Rig().sight


async def test_what_is_asked_for_is_counted_also_where_it_is_refused() -> None:
    """The refused would have been work for a further replica."""
    rig = Rig()
    await rig.ask(3)
    rig.pool.error = OverloadedError("too much waits")
    with pytest.raises(OverloadedError):
        await rig.ask(5)
    seen = await rig.seen()
    assert (seen.arriving_slow, seen.texts_per_s) == (800.0, 8.0)


async def test_latency_is_that_of_interactive_texts() -> None:
    """Bulk ones wait by intent; a refusal is no slow answer."""
    rig = Rig()
    await rig.ask(100)
    rig.pool.takes_s = 0.2
    await rig.ask(100, Lane.BULK)
    assert (await rig.seen()).latency_p99_s < 0.1
    rig.pool.error = OverloadedError("too much waits")
    with pytest.raises(OverloadedError):
        await rig.ask(100)
    assert (await rig.seen()).latency_p99_s < 0.1
    rig.pool.error = None
    await rig.ask(3)
    assert (await rig.seen()).latency_p99_s == pytest.approx(0.2, rel=0.3)


async def test_a_caller_that_gave_up_waited_as_long_as_it_did() -> None:
    """Else the worst latencies would be invisible."""
    rig = Rig()
    rig.pool.takes_s = 60.0
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(rig.ask(), 0.15)
    assert (await rig.seen()).latency_p99_s > 0.1


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
    assert (seen.ready, seen.tokens_per_s) == (0, pytest.approx(10_000.0))


async def test_what_a_new_replica_guesses_of_itself_counts_only_while_nobody_knows() -> None:
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
    rig.pool.fleet["a"].description = msgspec.structs.replace(told, busy_s=13.0)
    assert (await rig.seen(6.0)).utilisation == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(("used", "told"), [(0.93, (0.93,)), (None, ())])
async def test_the_memory_of_the_host_is_told_where_it_is_known(
    used: float | None, told: tuple[float, ...]
) -> None:
    """And what waits, as the pool counts it."""
    seen = await Rig(used).seen()
    assert seen.memory_used == told
    assert (seen.waiting_tokens, seen.queued_texts) == (700, 3)
