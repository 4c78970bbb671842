"""What becomes of accepted requests and of processes when a service is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.service import Service, started

pytestmark = pytest.mark.slow
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]


async def ask(session: aiohttp.ClientSession, service: Service, number: int) -> int:
    texts = [f"{number} {each} " + " ".join(WORDS * 30) for each in range(16)]
    body = {"model": "builtin", "input": texts, "truncate": True}
    async with session.post(f"{service.base_url}/embeddings", json=body) as answer:
        await answer.read()
        return answer.status


async def statuses(service: Service, signals: list[tuple[int, bool]], count: int = 24) -> list[int]:
    """Of requests of which some are in flight when each signal comes, after a pause for each."""
    processes = [service.process.pid] + [
        each.pid for each in psutil.Process(service.process.pid).children()
    ]
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        asked = [asyncio.create_task(ask(session, service, each)) for each in range(count)]
        await asyncio.sleep(0.6)
        for number, to_all in signals:
            for pid in processes if to_all else processes[:1]:
                os.kill(pid, number)
            await asyncio.sleep(0.3)
        return await asyncio.gather(*asked)


def outlived(pids: list[int]) -> list[int]:
    deadline = time.monotonic() + 20
    while (left := [pid for pid in pids if psutil.pid_exists(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


@pytest.mark.parametrize("to_all", [False, True], ids=["the gateway", "all processes"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_costs_no_accepted_request_and_leaves_no_process(
    tmp_path: Path, number: int, to_all: bool
) -> None:
    """Replicas obey their gateway, whoever else gets the signal."""
    with started("builtin", log=tmp_path / "log", arguments=["--replicas", "2"]) as service:
        children = [each.pid for each in psutil.Process(service.process.pid).children()]
        found = asyncio.run(statuses(service, [(number, to_all)]))
        assert set(found) == {200}
        assert service.process.wait(60) == 0
        assert outlived(children) == []
    assert "is started again" not in service.log.read_text()


def test_a_second_signal_answers_what_is_left_with_503_and_stops_at_once(tmp_path: Path) -> None:
    with started("builtin", log=tmp_path / "log", arguments=["--replicas", "1"]) as service:
        children = [each.pid for each in psutil.Process(service.process.pid).children()]
        twice = [(signal.SIGTERM, False), (signal.SIGTERM, False)]
        found = asyncio.run(statuses(service, twice, count=80))
        assert set(found) <= {200, 503}
        assert 503 in found
        assert service.process.wait(20) == 0
        assert outlived(children) == []


def test_what_the_drain_time_out_cuts_is_answered_503(tmp_path: Path) -> None:
    with started(
        "builtin",
        log=tmp_path / "log",
        arguments=["--replicas", "1"],
        settings="[gateway]\ndrain_timeout_s = 1\n",
    ) as service:
        found = asyncio.run(statuses(service, [(signal.SIGTERM, False)], count=120))
        assert set(found) == {200, 503}
        assert service.process.wait(20) == 0


def test_no_replica_outlives_a_gateway_that_is_killed(tmp_path: Path) -> None:
    with started("builtin", log=tmp_path / "log", arguments=["--replicas", "2"]) as service:
        children = [each.pid for each in psutil.Process(service.process.pid).children()]
        service.process.kill()
        service.process.wait(10)
        assert outlived(children) == []


def test_a_replica_is_started_again_when_files_of_the_gateway_were_cleaned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cleaners of /tmp take what is ten days old."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with started("builtin", log=tmp_path / "log", arguments=["--replicas", "2"]) as service:
        for left in temporary.iterdir():
            left.rmdir()
        psutil.Process(service.process.pid).children()[0].kill()
        time.sleep(0.2)
        service.wait_for(["ready", "ready"])
