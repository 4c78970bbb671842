"""One name with several addresses, and addresses that change, with a real gateway and replicas.

The gateway has a file of hosts of its own, which is the resolver's.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.ports import free_port
from tests.service import Service, started

pytestmark = pytest.mark.slow
WITH_HOSTS = ["unshare", "--map-root-user", "--mount"]
BIND = 'mount --bind "$0" /etc/hosts && exec "$@"'
HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
"""A replica listens at each, on one port."""


@contextlib.contextmanager
def replicas(port: int) -> Iterator[None]:
    words = [sys.executable, "-m", "embedfleet", "replica", "builtin", "--port", str(port)]
    running = [
        subprocess.Popen(
            [*words, "--host", host], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for host in HOSTS
    ]
    try:
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


def name_is_at(hosts: Path, *addresses: str) -> None:
    lines = [f"{address} replica.test\n" for address in addresses]
    hosts.write_text("127.0.0.1 localhost\n" + "".join(lines))


async def statuses(service: Service, count: int = 60) -> set[int]:
    """Of requests that are asked while replicas come and go."""

    async def ask(session: aiohttp.ClientSession, number: int) -> int:
        body = {"model": "builtin", "input": [f"Boat {number} of {each}." for each in range(8)]}
        async with session.post(f"{service.base_url}/embeddings", json=body) as answer:
            await answer.read()
            return answer.status

    found = set()
    async with aiohttp.ClientSession() as session:
        for start in range(0, count, 6):
            asked = [ask(session, number) for number in range(start, start + 6)]
            found |= set(await asyncio.gather(*asked))
            await asyncio.sleep(0.1)
    return found


def states(service: Service) -> dict[str, str]:
    """The state of each replica, by its host."""
    return {each["url"].split("/")[2].split(":")[0]: each["state"] for each in service.fleet()}


def are_ready(service: Service, *hosts: str) -> None:
    """Wait until these are the replicas, and no other is."""
    ready = dict.fromkeys(hosts, "ready")
    service.until(f"ready replicas at {hosts}", lambda: states(service) == ready)


def test_each_address_of_a_name_is_a_replica_and_they_change_with_it(tmp_path: Path) -> None:
    hosts, port = tmp_path / "hosts", free_port(HOSTS)
    tried = subprocess.run(
        [*WITH_HOSTS, "sh", "-c", BIND, __file__, "true"], capture_output=True, check=False
    )
    if tried.returncode:
        pytest.skip("no file of hosts of its own is to be had here (unshare, mount)")
    name_is_at(hosts, HOSTS[0], HOSTS[1])
    with (
        replicas(port),
        started(
            "",
            log=tmp_path / "log",
            command=["gateway", "--replica", f"http://replica.test:{port}"],
            settings="[fleet]\nresolve_interval_s = 0.2\n",
            before=[*WITH_HOSTS, "sh", "-c", BIND, str(hosts)],
        ) as service,
    ):
        are_ready(service, HOSTS[0], HOSTS[1])
        name_is_at(hosts, HOSTS[1], HOSTS[2])
        assert asyncio.run(statuses(service)) == {200}
        are_ready(service, HOSTS[1], HOSTS[2])
        name_is_at(hosts, HOSTS[0])
        assert asyncio.run(statuses(service)) == {200}
        are_ready(service, HOSTS[0])
