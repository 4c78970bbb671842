"""Orders about single replicas at the admin address, from the page and `embedfleet fleet`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from embedfleet.cli.command_line import app
from embedfleet.vocabulary import ReplicaState
from tests.transport.access.gateway import MODEL, Running, running


async def ordered(service: Running, verb: str, body: Any) -> tuple[int, Any]:
    async with service.http.post(f"{service.admin}/fleet/{verb}", json=body) as answer:
        return answer.status, await answer.json()


def only(service: Running) -> Any:
    (pool,) = service.gateway.pools
    (member,) = pool.fleet
    return member


async def until(service: Running, state: ReplicaState) -> None:
    async with asyncio.timeout(60):
        while only(service).state is not state:
            await asyncio.sleep(0.02)


async def test_a_drained_replica_stays_out_until_it_is_readmitted(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        name = only(service).name
        status, said = await ordered(service, "drain", {"replica": name})
        assert status == 400
        assert "only ready replica" in said["error"]["message"]
        assert only(service).state is ReplicaState.READY

        status, said = await ordered(service, "drain", {"replica": name, "force": True})
        assert (status, said["state"], said["drained"]) == (200, "draining", True)
        async with service.http.get(f"{service.admin}/fleet") as answer:
            (pool,) = (await answer.json())["pools"]
        assert pool["replicas"][0]["drained"]
        assert pool["replicas"][0]["reason"] == "it was drained by an operator"

        status, said = await ordered(service, "readmit", {"replica": name})
        assert (status, said["drained"]) == (200, False)
        await until(service, ReplicaState.READY)
        client = service.client()
        answer_ = await client.embeddings.create(model=MODEL, input="again")
        assert len(answer_.data) == 1
        await client.close()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "missing required field `replica`"),
        ({"replica": "nobody"}, "there is no replica"),
        ({"replica": "nobody", "pool": "nowhere"}, "in pool"),
        ({"replica": 3}, "invalid JSON body"),
        ({"replica": "a", "now": True}, "invalid JSON body"),
    ],
)
async def test_a_wrong_order_changes_nothing_and_says_what_would_be_right(
    tmp_path: Path, body: Any, said: str
) -> None:
    async with running(tmp_path) as service:
        for verb in ("drain", "readmit"):
            status, told = await ordered(service, verb, body)
            assert status == 400
            assert said in told["error"]["message"]
        plain = {"content-type": "text/plain"}
        url = f"{service.admin}/fleet/drain"
        async with service.http.post(url, data=b"{}", headers=plain) as answer:
            assert answer.status == 415  # what a form of a foreign page could send
        assert only(service).state is ReplicaState.READY


async def test_the_commands_send_the_same_orders(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        name = only(service).name

        async def typed(*words: str) -> str:
            command = ["fleet", *words, "--admin", service.admin]
            done = await asyncio.to_thread(CliRunner().invoke, app, command)
            return done.output

        assert "only ready replica" in await typed("drain", name)
        assert f"{name} of" in await typed("drain", name, "--force")
        assert only(service).state is ReplicaState.DRAINING
        assert '"drained": false' in await typed("readmit", name, "--json")
        await until(service, ReplicaState.READY)


async def test_where_batches_are_off_none_are_listed(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as service,
        service.http.get(f"{service.admin}/batches") as answer,
    ):
        assert await answer.json() == {"enabled": False, "batches": []}
