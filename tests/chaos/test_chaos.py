"""Replicas that die, hang and lie under load: every text gets its own vector or a plain error."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.faults import ALL, LIES
from tests.chaos.fleet import ChaosFleet, chaos_fleet
from tests.chaos.reckoning import Asker, Reckoning, session_without_limits
from tests.chaos.replica_process import DEADLY

pytestmark = pytest.mark.slow

TEXTS = 200_000
EJECTED_S = 400.0
"""An ejection may last so long that follows others: five seconds, ten, twenty, to five minutes."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChaosFleet]:
    """Three replicas that behave until a test tells them otherwise."""
    with chaos_fleet(tmp_path_factory.mktemp("chaos")) as running:
        yield running


@pytest.fixture
def calm(fleet: ChaosFleet) -> Iterator[ChaosFleet]:
    """The same, well again before and after each test."""
    fleet.misbehave(0)
    fleet.service.wait_for(["ready"] * len(fleet.replicas), EJECTED_S)
    yield fleet
    fleet.misbehave(0)


@dataclass
class Acts:
    """How often something was done to a replica."""

    done: int = 0


@contextlib.asynccontextmanager
async def meanwhile(fleet: ChaosFleet, *actions: str, every_s: float) -> AsyncIterator[Acts]:
    """Kill, freeze or hang replicas in turn while the block runs."""
    acts = Acts()

    async def act() -> None:
        dice = random.Random(1)
        while True:
            await asyncio.sleep(every_s)
            await asyncio.to_thread(getattr(dice.choice(fleet.replicas), dice.choice(actions)))
            acts.done += 1

    acting = asyncio.create_task(act())
    try:
        yield acts
    finally:
        acting.cancel()


async def asked_during(fleet: ChaosFleet, action: str, *, every_s: float, times: int) -> Reckoning:
    """What became of the texts that were asked for while replicas were dealt with so often."""
    asker = Asker(fleet.service.base_url)
    async with meanwhile(fleet, action, every_s=every_s) as acts:
        while acts.done < times:
            await asker.ask_many(1000, clients=16)
    await asker.ask_many(1000, clients=16)
    asker.reckoning.check()
    return asker.reckoning


def asked(fleet: ChaosFleet, texts: int, *, clients: int = 16, seed: int = 0) -> Reckoning:
    asker = Asker(fleet.service.base_url, seed)
    asyncio.run(asker.ask_many(texts, clients=clients))
    asker.reckoning.check()
    return asker.reckoning


@pytest.mark.parametrize("lie", LIES)
def test_no_wrong_answer_of_a_replica_reaches_a_caller(calm: ChaosFleet, lie: str) -> None:
    """One frame in twenty is wrong in one way. Its texts are tried again as far as the budget for
    retries goes; beyond it they get a plain error."""
    calm.misbehave(0.05, lie)
    reckoning = asked(calm, 3000)

    assert reckoning.refused_share < 0.1, reckoning.refused


@pytest.mark.parametrize("deed", ["slow", "drip", "reset", "die", "refuse"])
def test_no_death_or_delay_of_a_replica_loses_a_text(calm: ChaosFleet, deed: str) -> None:
    """Torn connections, processes that kill themselves, refusals, late answers."""
    calm.misbehave(0.05, deed)
    reckoning = asked(calm, 3000)

    assert reckoning.refused_share < 0.1, reckoning.refused


async def test_killed_replicas_lose_nothing(calm: ChaosFleet) -> None:
    """Kill -9 from outside, at any moment; with three replicas nobody notices."""
    reckoning = await asked_during(calm, "kill", every_s=0.5, times=4)
    assert not reckoning.refused


async def test_frozen_replicas_lose_nothing(calm: ChaosFleet) -> None:
    """Kill -STOP: connections stay open and nothing comes. Probes notice, texts move on."""
    reckoning = await asked_during(calm, "freeze", every_s=1.5, times=2)
    assert not reckoning.refused


async def test_hung_engines_lose_nothing(calm: ChaosFleet) -> None:
    """Their servers live and describe themselves; texts move on."""
    reckoning = await asked_during(calm, "hang_a_while", every_s=1.5, times=2)
    assert not reckoning.refused


async def test_callers_outlast_a_fleet_that_is_gone_for_a_while(calm: ChaosFleet) -> None:
    """All replicas gone: requests wait in the queue and are answered when one is back."""
    asker = Asker(calm.service.base_url)
    asking = asyncio.create_task(asker.ask_many(3000, clients=16))
    await asyncio.sleep(0.3)
    for replica in calm.replicas:
        replica.stop()
    await asyncio.sleep(2)
    for replica in calm.replicas:
        replica.start()
    await asking

    asker.reckoning.check()
    assert not asker.reckoning.refused


async def test_a_text_that_kills_engines_gets_an_error_and_its_neighbours_vectors(
    calm: ChaosFleet,
) -> None:
    """It takes down whoever computes it, is found out by computing it alone, and is given up."""
    asker, deadly = Asker(calm.service.base_url), Asker(calm.service.base_url)
    asking = asyncio.create_task(asker.ask_many(4000, clients=16))
    await asyncio.sleep(0.2)
    async with session_without_limits() as session:
        code = await deadly.ask(session, [[DEADLY]])
    await asking

    assert code == "replica_failed"
    asker.reckoning.check()
    assert not asker.reckoning.refused


def test_replicas_and_gateway_serve_on_when_their_logs_find_no_room(tmp_path: Path) -> None:
    """Every write to standard error fails as on a full disk."""
    with chaos_fleet(tmp_path, stderr="/dev/full") as full:
        full.misbehave(0.05, "reset", "garbage", "failed")
        reckoning = asked(full, 2000)
    assert reckoning.refused_share < 0.1, reckoning.refused


async def test_a_flapping_replica_does_no_harm(calm: ChaosFleet) -> None:
    """One replica dies on every frame, and comes back each time."""
    calm.replicas[0].misbehave(1, "die")
    asker = Asker(calm.service.base_url)
    await asker.ask_many(6000, clients=16)

    asker.reckoning.check()
    assert not asker.reckoning.refused


def test_two_hundred_thousand_texts_under_all_faults_at_once(tmp_path: Path) -> None:
    """None lost, none wrong, none answered twice, and the gateway's memory stays flat."""
    with chaos_fleet(tmp_path, replicas=4) as fleet:
        asker = Asker(fleet.service.base_url, seed=7)

        async def all_of_it() -> tuple[float, float]:
            fleet.misbehave(0.01, *ALL)
            async with meanwhile(fleet, "kill", "kill", "freeze", every_s=4):
                await asker.ask_many(TEXTS // 4, clients=24)
                warm = fleet.gateway_mib
                await asker.ask_many(TEXTS - TEXTS // 4, clients=24)
                return warm, fleet.gateway_mib

        warm, end = asyncio.run(all_of_it())
        asker.reckoning.check()
        assert asker.reckoning.asked == TEXTS
        assert asker.reckoning.refused_share < 0.01, asker.reckoning.refused
        assert end < warm + 16, f"{warm:.0f} MiB after a quarter, {end:.0f} MiB at the end"
