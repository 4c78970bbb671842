"""One replica of three is ill while texts come: it gets none, they lose nothing, it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.fleet import CONFIG, ChaosFleet, ChaosReplica, chaos_fleet, gateway
from tests.chaos.reckoning import Asker

pytestmark = pytest.mark.slow

WITHIN_S = 400.0
"""On a busy machine, and after ejections that follow others; seconds on an idle one."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChaosFleet]:
    with chaos_fleet(tmp_path_factory.mktemp("sick")) as running:
        yield running


@pytest.fixture
def calm(fleet: ChaosFleet) -> ChaosFleet:
    fleet.service.wait_for(["ready"] * len(fleet.replicas), WITHIN_S)
    return fleet


def state(fleet: ChaosFleet, replica: ChaosReplica) -> str:
    found = next(each for each in fleet.service.fleet() if each["url"] == replica.url)
    return str(found["state"])


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def asking(fleet: ChaosFleet) -> AsyncIterator[None]:
    """Texts come while the block runs: each gets its vector."""
    asker, stopped = Asker(fleet.service.base_url), asyncio.Event()

    async def ask() -> None:
        while not stopped.is_set():
            await asker.ask_many(200, clients=4)

    task = asyncio.create_task(ask())
    try:
        yield
    finally:
        stopped.set()
        await task
    asker.reckoning.check()
    assert not asker.reckoning.refused
    assert asker.reckoning.right


async def test_one_whose_engine_hangs_behind_a_living_server_gets_no_texts(
    calm: ChaosFleet,
) -> None:
    sick = calm.replicas[0]
    async with asking(calm):
        await asyncio.to_thread(sick.hang, 15.0)
        await until(lambda: state(calm, sick) != "ready")
        await until(lambda: state(calm, sick) == "ready")


async def test_one_that_fails_every_call_is_out_for_longer_each_time(calm: ChaosFleet) -> None:
    """It describes itself well all the time."""
    sick = calm.replicas[1]
    before = calm.service.log.read_text().count("remote-1 is ejected")
    async with asking(calm):
        await asyncio.to_thread(sick.misbehave, 1.0, "refuse")
        await until(lambda: state(calm, sick) != "ready")
        await asyncio.sleep(20)
        assert await asyncio.to_thread(state, calm, sick) != "ready"
        await asyncio.to_thread(sick.misbehave, 0.0)
        await until(lambda: state(calm, sick) == "ready")
    times = calm.service.log.read_text().count("remote-1 is ejected") - before
    assert times <= 4, "after 5, 10 and 20 seconds"


async def test_one_that_is_stopped_for_twenty_seconds_gets_no_texts(calm: ChaosFleet) -> None:
    """Its connections stay open, and nothing comes."""
    sick = calm.replicas[2]
    async with asking(calm):
        with sick.suspended():
            await until(lambda: state(calm, sick) != "ready")
            await asyncio.sleep(20)
            assert await asyncio.to_thread(state, calm, sick) != "ready"
        await until(lambda: state(calm, sick) == "ready")


async def test_one_that_describes_itself_by_a_thousand_lists_is_watched_on(
    calm: ChaosFleet,
) -> None:
    """While its answers are right it may stay; when it dies, that is noticed."""
    sick = calm.replicas[0]
    async with asking(calm):
        await asyncio.to_thread(sick.nest, 1000)
        await asyncio.sleep(5)
        sick.stop()
        await until(lambda: state(calm, sick) != "ready")
        sick.start()
        await until(lambda: state(calm, sick) == "ready")
    assert "ended unexpectedly" not in calm.service.log.read_text()


def test_three_gateways_verify_the_same_replicas_at_once(calm: ChaosFleet, tmp_path: Path) -> None:
    """Each time that one comes back all three check its vectors, and none disturbs another."""
    settings = tmp_path / "gateway.toml"
    settings.write_text(CONFIG)
    with contextlib.ExitStack() as stack:
        services = [calm.service]
        for number in range(2):
            log = tmp_path / f"{number}.log"
            services.append(stack.enter_context(gateway(settings, calm.replicas, log)))
        for round_ in range(3):
            for replica in calm.replicas:
                replica.kill()
            for service in services:
                service.wait_for(["ready"] * len(calm.replicas), WITHIN_S)
            for service in services:
                asker = Asker(service.base_url, round_)
                asyncio.run(asker.ask_many(300, clients=4))
                asker.reckoning.check()
                assert not asker.reckoning.refused
    for replica in calm.replicas:
        told = Path(replica.stderr).read_text()
        assert "This is a bug" not in told
        assert "Traceback" not in told
