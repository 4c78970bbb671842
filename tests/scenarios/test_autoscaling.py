"""A load step through `serve --min-replicas 1 --max-replicas 3`: real processes come and go."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pybase64
import pytest

from tests.processes import replicas_of
from tests.service import Service, started

SETTINGS = """\
[admin]
port = 0
[cache]
memory_mib = 0
[fleet]
probe_interval_s = 0.2
[autoscaling]
tick_s = 0.5
fast_window_s = 2
slow_window_s = 4
peak_memory_s = 2
backlog_cooldown_s = 3
down_cooldown_s = 6
down_interval_s = 2
start_up_s = 5
"""
"""The production policy with cool-downs of seconds, and no cache, so that all texts are work."""
TEXTS = [
    f"Report {number}: {number * 37 % 101} boats and {number * 53 % 97} bridges in spring. "
    + f"Remarks on the weather of day {number % 7} and the one before. " * (1 + number % 7)
    for number in range(300)
]
DEADLINE_S = 180.0


@pytest.fixture
def scaled(tmp_path: Path) -> Iterator[Service]:
    config = tmp_path / "scaled.toml"
    config.write_text(SETTINGS)
    words = ["--config", str(config), "--min-replicas", "1", "--max-replicas", "3"]
    with started("builtin", log=tmp_path / "log", arguments=words) as service:
        yield service


async def embed(session: aiohttp.ClientSession, service: Service, texts: list[str]) -> np.ndarray:
    body = {"model": "builtin", "input": texts, "encoding_format": "base64"}
    async with session.post(f"{service.base_url}/embeddings", json=body) as answer:
        content = await answer.json()
        assert answer.status == 200, content
        rows = [pybase64.b64decode(one["embedding"]) for one in content["data"]]
        return np.stack([np.frombuffer(row, "<f4") for row in rows])


def decisions(service: Service) -> dict[str, Any]:
    """What `embedfleet autoscale explain --json` tells of the pool."""
    words = ["autoscale", "explain", "--json", "--last", "200", "--admin", service.admin]
    told = subprocess.run(
        [sys.executable, "-m", "embedfleet", *words], check=True, capture_output=True, text=True
    )
    pool: dict[str, Any] = json.loads(told.stdout)[0]
    return pool


def metric(service: Service, name: str) -> float:
    found = re.search(rf"^embedfleet_{re.escape(name)} (\S+)$", service.metrics(), re.MULTILINE)
    assert found is not None, name
    return float(found[1])


async def step_of_load(service: Service) -> int:
    """Ask for texts from many clients until three replicas are ready; every answer must be right.

    Load goes on while they leave again, as little as one replica carries.
    """
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(120)) as session:
        right = np.concatenate([await embed(session, service, [text]) for text in TEXTS])
        answered = 0

        async def client(seed: int, pause_s: float, stop: asyncio.Event) -> None:
            nonlocal answered
            rng = np.random.default_rng(seed)
            while not stop.is_set():
                chosen = rng.integers(0, len(TEXTS), rng.integers(1, 24)).tolist()
                vectors = await embed(session, service, [TEXTS[index] for index in chosen])
                assert (vectors * right[chosen]).sum(1).min() > 0.99
                answered += 1
                await asyncio.sleep(pause_s)

        heavy, light = asyncio.Event(), asyncio.Event()
        clients = [asyncio.create_task(client(seed, 0.0, heavy)) for seed in range(12)]
        clients.append(asyncio.create_task(client(99, 0.5, light)))
        await asyncio.to_thread(service.wait_for, ["ready"] * 3, DEADLINE_S)
        await asyncio.sleep(2)
        heavy.set()
        await asyncio.to_thread(service.wait_for, ["ready"], DEADLINE_S)
        light.set()
        await asyncio.gather(*clients)
        return answered


@pytest.mark.slow
def test_replicas_follow_a_step_of_load_and_no_request_is_lost(scaled: Service) -> None:
    """Up to three and back to one; the log and the metrics tell why."""
    assert [each["state"] for each in scaled.fleet()] == ["ready"]
    assert asyncio.run(step_of_load(scaled)) > 20

    orders = [
        (each["seen"]["ready"] + each["seen"]["starting"], each["ordered"])
        for each in decisions(scaled)["decisions"]
        if each["ordered"] != each["seen"]["ready"] + each["seen"]["starting"]
    ]
    assert min(after for _, after in orders) == 1
    assert max(after for _, after in orders) == 3
    log = scaled.log.read_text()
    assert "pool builtin: replicas 1 -> " in log
    assert re.search(r"pool builtin: replicas \d -> 1: ", log)
    assert "did not answer" not in log
    assert metric(scaled, 'autoscaling_changes_total{direction="up",pool="builtin"}') >= 1
    assert metric(scaled, 'autoscaling_changes_total{direction="down",pool="builtin"}') >= 1
    assert metric(scaled, 'autoscaling_planned_replicas{pool="builtin"}') == 1
    assert metric(scaled, 'replica_start_seconds_count{came_from="start",pool="builtin"}') >= 3
    scaled.until(
        "the end of the processes of replicas that left",
        lambda: len(replicas_of(scaled.process.pid)) == 1,
    )


@pytest.mark.slow
def test_the_number_can_be_set_by_hand_and_given_back(scaled: Service) -> None:
    """`embedfleet autoscale scale`, `resume`; what is wrong is said."""

    def say(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "embedfleet", "autoscale", *words, "--admin", scaled.admin],
            check=False,
            capture_output=True,
            text=True,
        )

    assert say("scale", "2").stdout == "builtin: pinned at 2\n"
    scaled.wait_for(["ready", "ready"])
    assert "[pinned] " in say("explain").stdout
    wrong = say("scale", "9")
    assert (wrong.returncode, "takes 0 to 3" in wrong.stderr) == (2, True)
    wrong = say("pause", "--pool", "other")
    assert (wrong.returncode, "name one of builtin" in wrong.stderr) == (2, True)
    assert say("resume").stdout == "builtin: automatic\n"
    scaled.wait_for(["ready"])
    time.sleep(0.2)
    assert scaled.process.poll() is None


@pytest.mark.slow
def test_a_replica_on_standby_is_loaded_gets_no_traffic_and_serves_when_it_is_woken(
    tmp_path: Path,
) -> None:
    """Its process is the same before and after, and goes back when it is not needed."""

    def processes(service: Service) -> set[int]:
        return {child.pid for child in replicas_of(service.process.pid)}

    async def ask(service: Service) -> None:
        async with aiohttp.ClientSession() as session:
            await embed(session, service, TEXTS[:40])

    def scale(service: Service, count: str) -> None:
        words = ["autoscale", "scale", count, "--admin", service.admin]
        subprocess.run([sys.executable, "-m", "embedfleet", *words], check=True)

    config = tmp_path / "standby.toml"
    config.write_text(SETTINGS + "standby = 1\n")
    words = ["--config", str(config), "--min-replicas", "1", "--max-replicas", "2"]
    with started("builtin", log=tmp_path / "log", arguments=words) as service:
        service.wait_for(["ready", "standby"])
        before = processes(service)
        asyncio.run(ask(service))
        spare = next(each["name"] for each in service.fleet() if each["state"] == "standby")
        assert f'embedfleet_replica_window_tokens{{pool="builtin",replica="{spare}"' not in (
            service.metrics()
        )

        scale(service, "2")
        service.wait_for(["ready", "ready"])
        asyncio.run(ask(service))
        assert metric(service, 'replica_start_seconds_count{came_from="standby",pool="builtin"}')

        scale(service, "1")
        service.wait_for(["ready", "standby"])
        assert processes(service) == before


SHEDDING = f"""\
{SETTINGS}
[gateway]
max_queued_tokens = 20000
"""
"""Bulk texts may fill half of that, so that a request of one interactive text always finds room."""


async def overloaded(service: Service) -> tuple[list[int], list[int]]:
    """Statuses of interactive and of bulk requests, while bulk clients ask for more than can be
    computed, until many of theirs were refused."""
    interactive: list[int] = []
    bulk: list[int] = []
    enough = asyncio.Event()

    async def asked(session: aiohttp.ClientSession, texts: list[str], lane: str) -> int:
        body = {"model": "builtin", "input": texts}
        headers = {"x-embedfleet-lane": lane}
        url = f"{service.base_url}/embeddings"
        async with session.post(url, json=body, headers=headers) as answer:
            await answer.read()
            assert answer.status == 200 or "retry-after" in answer.headers
            return answer.status

    async def importer(session: aiohttp.ClientSession, first: int) -> None:
        texts = [TEXTS[(first * 24 + place) % len(TEXTS)] for place in range(24)]
        while not enough.is_set():
            bulk.append(await asked(session, texts, "bulk"))
            if bulk.count(429) >= 40 and len(interactive) >= 20:
                enough.set()

    async def person(session: aiohttp.ClientSession) -> None:
        while not enough.is_set():
            interactive.append(await asked(session, [TEXTS[len(interactive) % 300]], "interactive"))

    async with (
        asyncio.timeout(DEADLINE_S),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        await asyncio.gather(person(session), *(importer(session, each) for each in range(24)))
    return interactive, bulk


@pytest.mark.slow
def test_bulk_is_shed_and_interactive_is_not_where_no_more_replicas_may_start(
    tmp_path: Path,
) -> None:
    """The fleet is as large as it may be, and an import asks for more than it can do."""
    config = tmp_path / "full.toml"
    config.write_text(SHEDDING)
    words = ["--config", str(config), "--min-replicas", "1", "--max-replicas", "1"]
    with started("builtin", log=tmp_path / "log", arguments=words) as service:
        interactive, bulk = asyncio.run(overloaded(service))
    assert set(interactive) == {200}
    assert set(bulk) == {200, 429}
