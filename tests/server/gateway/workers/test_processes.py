"""Several real processes at one address: they answer as one, and one that dies is replaced."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.chaos.fleet import ChaosFleet, chaos_fleet
from tests.chaos.reckoning import Asker, session_without_limits
from tests.processes import living_children, outliving

pytestmark = pytest.mark.slow

WORKERS = 3
CONFIG = f"""\
[admin]
port = 0
[gateway]
workers = {WORKERS}
[fleet]
probe_interval_s = 0.2
[cache]
memory_mib = 0
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[ChaosFleet]:
    with chaos_fleet(tmp_path, replicas=2, config=CONFIG) as running:
        yield running


def workers(fleet: ChaosFleet) -> list[psutil.Process]:
    return living_children(fleet.service.process.pid, "gateway.workers.worker")


async def replaced(fleet: ChaosFleet, victim: psutil.Process) -> None:
    """Wait until it is gone and there are as many as before."""

    def is_so() -> bool:
        found = workers(fleet)
        return len(found) == WORKERS and victim not in found

    await asyncio.to_thread(fleet.service.until, "another worker", is_so)


def test_they_answer_as_one_and_their_figures_add_up(fleet: ChaosFleet) -> None:
    asker = Asker(fleet.service.base_url)
    asyncio.run(asker.ask_many(3000, clients=32))

    asker.reckoning.check()
    assert not asker.reckoning.refused
    assert len(workers(fleet)) == WORKERS
    succeeded = fleet.service.measured(r'texts_total{.*"succeeded".*}')
    assert succeeded == asker.reckoning.right


async def test_one_that_is_killed_loses_its_own_connections_and_is_replaced(
    fleet: ChaosFleet,
) -> None:
    asker, clients = Asker(fleet.service.base_url), 32
    asking = asyncio.create_task(asker.ask_many(6000, clients=clients))
    answered = r'texts_total{.*"succeeded".*}'
    await asyncio.to_thread(
        fleet.service.until, "an answer", lambda: fleet.service.measured(answered) > 0
    )
    victim = workers(fleet)[0]
    victim.kill()
    await asking

    reckoning = asker.reckoning
    assert not reckoning.refused
    assert all(each.startswith("no answer") for each in reckoning.wrong), reckoning.wrong[:3]
    assert len(reckoning.wrong) < clients, "more requests were lost than one process can have had"
    await replaced(fleet, victim)
    after = Asker(fleet.service.base_url, seed=1)
    await after.ask_many(2000, clients=32)
    after.reckoning.check()
    assert not after.reckoning.refused


async def test_one_that_hangs_is_replaced(fleet: ChaosFleet) -> None:
    """Else the kernel would give it a third of all connections for ever."""
    victim = workers(fleet)[0]
    victim.suspend()
    await replaced(fleet, victim)
    after = Asker(fleet.service.base_url)
    await after.ask_many(500, clients=32)
    after.reckoning.check()
    assert not after.reckoning.refused


async def test_a_replica_that_dies_is_out_of_traffic_in_all_of_them(fleet: ChaosFleet) -> None:
    asker = Asker(fleet.service.base_url)
    asking = asyncio.create_task(asker.ask_many(6000, clients=32))
    for _ in range(4):
        await asyncio.sleep(0.4)
        fleet.replicas[0].kill()
    await asking

    asker.reckoning.check()
    assert not asker.reckoning.refused


async def test_a_stop_under_load_answers_what_was_accepted_and_leaves_no_process(
    fleet: ChaosFleet,
) -> None:
    asker = Asker(fleet.service.base_url)
    processes = workers(fleet)
    for replica in fleet.replicas:
        replica.hang(3600)  # else a fast machine answers some before the last one comes
    async with session_without_limits() as session:
        asked = [
            asyncio.create_task(asker.ask(session, [[600 + n % 60] * 100 for n in range(40)]))
            for _ in range(20)
        ]
        await asyncio.to_thread(fleet.service.wait_for_requests, len(asked))
        fleet.service.process.send_signal(signal.SIGTERM)
        for replica in fleet.replicas:
            replica.hang(0)
        codes = await asyncio.gather(*asked)

    assert set(codes) <= {"", "draining"}, asker.reckoning.wrong[:3]
    assert await asyncio.to_thread(fleet.service.process.wait, 120) == 0
    assert not outliving(processes)


def test_workers_end_when_their_primary_is_killed(fleet: ChaosFleet) -> None:
    processes = workers(fleet)
    fleet.service.process.kill()

    assert not outliving(processes)


def test_limits_of_a_key_hold_for_all_of_them_together(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    words = ("keys", "create", "--file", str(keys), "--name", "x", "--requests-per-minute", "20")
    made = subprocess.run(
        [sys.executable, "-m", "embedfleet", *words], check=True, capture_output=True, text=True
    )
    config = f'{CONFIG}[access]\nkeys_file = "{keys}"\n'
    with chaos_fleet(tmp_path, replicas=1, config=config) as fleet:
        asker = Asker(fleet.service.base_url, key=made.stdout.strip())

        async def ask() -> list[str]:
            codes = []
            for _ in range(30):  # each on a connection of its own, so that all processes get some
                async with session_without_limits() as session:
                    codes.append(await asker.ask(session, [[600, 601]]))
            return codes

        began = time.monotonic()
        codes = asyncio.run(ask())
        filled = (time.monotonic() - began) / 3  # 20 a minute are one in three seconds
        assert 20 <= codes.count("") <= min(30, 21 + filled), codes
        assert codes.count("rate_limit_exceeded") == 30 - codes.count("")


def test_the_first_request_after_the_greeting_is_answered_whichever_of_them_gets_it(
    fleet: ChaosFleet,
) -> None:
    """A model that replicas bring is known to all of them before anybody is told to come."""
    asker = Asker(fleet.service.base_url)
    asyncio.run(asker.ask_many(WORKERS * 8, clients=WORKERS * 8))
    asker.reckoning.check()
    assert not asker.reckoning.refused
