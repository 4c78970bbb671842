"""Replicas die under load; no request does."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pybase64
import pytest

from tests.processes import outliving, replicas_of
from tests.service import Service, started

TEXTS = [
    f"Paragraph {number} is about {number * 37 % 101} boats on a river." for number in range(200)
]


async def embed(session: aiohttp.ClientSession, service: Service, texts: list[str]) -> np.ndarray:
    body: dict[str, Any] = {"model": await name(session, service), "input": texts}
    async with session.post(
        f"{service.base_url}/embeddings",
        json=body | {"encoding_format": "base64"},
        headers={"cache-control": "no-cache"},  # replicas are to have work
    ) as answer:
        content = await answer.json()
        assert answer.status == 200, content
        assert [one["index"] for one in content["data"]] == list(range(len(texts)))
        rows = [pybase64.b64decode(one["embedding"]) for one in content["data"]]
        return np.stack([np.frombuffer(row, "<f4") for row in rows])


async def name(session: aiohttp.ClientSession, service: Service) -> str:
    async with session.get(f"{service.base_url}/models") as answer:
        model: str = (await answer.json())["data"][0]["id"]
        return model


async def under_load(service: Service, kills: int) -> None:
    """Ask for all texts again and again while replicas are killed; every answer must be right."""
    async with aiohttp.ClientSession() as session:
        right = np.concatenate([await embed(session, service, [text]) for text in TEXTS[:50]])

        async def client(seed: int) -> int:
            rng = np.random.default_rng(seed)
            done = 0
            while not stop.is_set():
                chosen = rng.integers(0, 50, rng.integers(1, 20)).tolist()
                vectors = await embed(session, service, [TEXTS[index] for index in chosen])
                assert (vectors * right[chosen]).sum(1).min() > 0.999
                done += 1
            return done

        stop = asyncio.Event()
        clients = [asyncio.create_task(client(seed)) for seed in range(8)]
        for _ in range(kills):
            await asyncio.sleep(0.5)
            before = service.measured("replica_restarts_total{.*}")
            replicas_of(service.process.pid)[0].kill()
            await asyncio.to_thread(
                service.until,
                "a restart",
                lambda before=before: service.measured("replica_restarts_total{.*}") > before,  # type: ignore[misc]
            )
            await asyncio.to_thread(service.wait_for, ["ready", "ready"])
        stop.set()
        assert all([await each for each in clients])


@pytest.mark.slow
def test_killed_replicas_lose_no_request_and_come_back(service: Service) -> None:
    """Kill -9 under load: every request is answered, with the right vectors."""
    service.wait_for(["ready", "ready"])
    asyncio.run(under_load(service, kills=3))

    assert 'embedfleet_replica_restarts_total{pool="' in service.metrics()


@pytest.mark.slow
def test_a_stopped_service_finishes_its_requests_and_leaves_no_process(tmp_path: Path) -> None:
    """SIGTERM: what was accepted is answered, exit code 0, no replica outlives the gateway."""
    model = os.environ.get("EMBEDFLEET_TEST_SERVICE", "builtin")
    with started(model, log=tmp_path / "log") as service:
        processes = replicas_of(service.process.pid)

        many = [f"{text} It is boat {number}." for text in TEXTS for number in range(5)]

        async def stop_while_asking() -> None:
            async with aiohttp.ClientSession() as session:
                await embed(session, service, TEXTS[:1])
                for process in processes:
                    process.suspend()  # else a fast machine answers before anybody looks
                asking = asyncio.create_task(embed(session, service, many))
                await asyncio.to_thread(service.wait_for_requests, 1)
                service.process.terminate()
                for process in processes:
                    process.resume()
                assert len(await asking) == len(many)

        asyncio.run(stop_while_asking())
        assert service.process.wait(120) == 0
        assert not outliving(processes), service.log.read_text()


@pytest.mark.slow
def test_replicas_of_a_killed_gateway_end_too(tmp_path: Path) -> None:
    """Nobody else would stop them."""
    model = os.environ.get("EMBEDFLEET_TEST_SERVICE", "builtin")
    with started(model, log=tmp_path / "log") as service:
        processes = replicas_of(service.process.pid)
        service.process.kill()
        assert not outliving(processes), service.log.read_text()
