"""A gateway process in a cluster whose API server is a stand-in: pods come and go under load."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.fleet.kubernetes.test_endpoints import pod
from tests.fleet.kubernetes.test_fleet_sync import SLICES
from tests.service import Service, started
from tests.stand_ins.kubernetes import ApiServer, api_server

pytestmark = pytest.mark.slow

KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: here
clusters: [{name: here, cluster: {server: "%s"}}]
users: [{name: nobody, user: {}}]
contexts: [{name: here, context: {cluster: here, user: nobody}}]
"""


@contextlib.contextmanager
def replica() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`embedfleet replica builtin`, and the port that it listens on."""
    process = subprocess.Popen(
        [sys.executable, "-m", "embedfleet", "replica", "builtin"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        port = urlsplit(process.stdout.readline().split()[-1]).port
        assert port is not None
        yield process, port
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def show(server: ApiServer, name: str, port: int, **conditions: bool) -> None:
    """A pod of the Service, in a slice of its own: here each has another port."""
    each: dict[str, Any] = {
        "metadata": {"name": f"engine-{name}", "labels": {"kubernetes.io/service-name": "engine"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port}],
        "endpoints": [pod(name, "127.0.0.1", **conditions)],
    }
    server.put(SLICES, each)


@contextlib.asynccontextmanager
async def gateway(
    server: ApiServer, directory: Path, environment: pytest.MonkeyPatch
) -> AsyncIterator[Service]:
    config = directory / "kubeconfig"
    config.write_text(KUBECONFIG % server.url)
    environment.setenv("KUBECONFIG", str(config))
    environment.setenv("EMBEDFLEET_POOL_REPLICA_SERVICE", "embedfleet/engine:http")
    with contextlib.ExitStack() as stack:
        # Elsewhere than in this loop, which answers for the API server meanwhile.
        entered = started("", log=directory / "gateway.log", command=["gateway"])
        service = await asyncio.to_thread(stack.enter_context, entered)
        yield service
        await asyncio.to_thread(stack.close)


async def states(service: Service) -> dict[str, str]:
    fleet = await asyncio.to_thread(service.fleet)
    return {each["name"]: each["state"] for each in fleet}


async def becomes(service: Service, wanted: dict[str, str]) -> None:
    async with asyncio.timeout(120):
        while await states(service) != wanted:
            await asyncio.sleep(0.05)


async def test_pods_are_exchanged_under_load_and_no_request_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api_server() as server, aiohttp.ClientSession() as session:
        with replica() as (old, old_port), replica() as (_, new_port):
            show(server, "a", old_port, ready=True)
            async with gateway(server, tmp_path, monkeypatch) as service:
                await becomes(service, {"a": "ready"})
                answers: list[int] = []
                going = True

                async def client(number: int) -> None:
                    texts = [f"text {number} {index} " * 20 for index in range(8)]
                    body = {"model": "builtin", "input": texts, "encoding_format": "base64"}
                    while going:
                        async with session.post(f"{service.base_url}/embeddings", json=body) as got:
                            assert len((await got.json()).get("data", ())) == len(texts)
                            answers.append(got.status)

                clients = [asyncio.create_task(client(number)) for number in range(4)]
                show(server, "b", new_port, ready=True)
                await becomes(service, {"a": "ready", "b": "ready"})
                show(server, "a", old_port, ready=False, serving=True, terminating=True)
                await becomes(service, {"a": "draining", "b": "ready"})
                old.terminate()
                await asyncio.to_thread(old.wait, 60)
                server.remove(SLICES, "engine-a")
                await becomes(service, {"b": "ready"})
                done = len(answers)
                async with asyncio.timeout(120):
                    while len(answers) < done + 20:
                        await asyncio.sleep(0.05)
                going = False
                await asyncio.gather(*clients)

                assert set(answers) == {200}
