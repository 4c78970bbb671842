"""What balancers, callers and operators see of a gateway that starts beside others, and leaves."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from pathlib import Path

import aiohttp
import pytest
from typer.testing import CliRunner

from embedfleet.cli.command_line import app
from embedfleet.transport.serving.servers import REPEAT_S
from tests.chaos.fleet import chaos_fleet
from tests.chaos.reckoning import Asker, session_without_limits
from tests.service import started

pytestmark = pytest.mark.slow

DEADLINE_S = 120.0


async def until(session: aiohttp.ClientSession, url: str, status: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        async with session.get(url) as answer:
            if answer.status == status:
                return
        assert time.monotonic() < deadline, f"{url} is not answered {status}"
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_gateway_serves_on_for_the_drain_delay_and_a_second_signal_skips_it(
    tmp_path: Path, workers: int
) -> None:
    path = tmp_path / "http.sock"
    config = (
        f'[admin]\nport = 0\n[gateway]\nworkers = {workers}\nhost = "127.0.0.1,unix:{path}"\n'
        "drain_delay_s = 3600\n"
    )
    with chaos_fleet(tmp_path, replicas=1, config=config) as fleet:
        asker, root = Asker(fleet.service.base_url), fleet.service.root
        connector = aiohttp.UnixConnector(str(path))
        async with (
            session_without_limits() as session,
            aiohttp.ClientSession(connector=connector) as through_unix,
        ):
            await until(through_unix, "http://localhost/health/ready", 200)
            fleet.service.process.send_signal(signal.SIGTERM)
            await until(session, f"{root}/health/ready", 503)
            await until(through_unix, "http://localhost/health/ready", 503)
            async with session.get(f"{fleet.service.admin}/health/ready") as answer:
                assert answer.status == 503
            assert await asker.ask(session, [[600, 601]]) == ""
            async with through_unix.get("http://localhost/v1/models") as answer:
                assert answer.status == 200
            await asyncio.sleep(REPEAT_S)  # earlier, it would be the same signal sent twice
            fleet.service.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(fleet.service.process.wait, DEADLINE_S) == 0
        asker.reckoning.check()
        assert not path.exists()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_second_signal_answers_what_is_open_that_the_server_stops(
    tmp_path: Path, workers: int
) -> None:
    config = f"[admin]\nport = 0\n[gateway]\nworkers = {workers}\ndrain_timeout_s = 3600\n"
    with chaos_fleet(tmp_path, replicas=1, config=config) as fleet:
        asker = Asker(fleet.service.base_url)
        async with session_without_limits() as session:
            fleet.replicas[0].hang(3600)
            asked = [asyncio.create_task(asker.ask(session, [[600, 601]])) for _ in range(10)]
            await asyncio.to_thread(fleet.service.wait_for_requests, len(asked))
            fleet.service.process.send_signal(signal.SIGTERM)
            async with session_without_limits() as other:
                deadline = time.monotonic() + DEADLINE_S
                while True:  # once nobody listens any more, it drains
                    try:
                        async with other.get(f"{fleet.service.root}/health/live"):
                            pass
                    except aiohttp.ClientConnectorError:
                        break
                    except aiohttp.ClientConnectionError:
                        pass  # one process has closed its listener with this connection in it
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)
            await asyncio.sleep(REPEAT_S)
            fleet.service.process.send_signal(signal.SIGTERM)
            codes = await asyncio.gather(*asked)
        assert set(codes) == {"draining"}, asker.reckoning.wrong[:3]
        assert await asyncio.to_thread(fleet.service.process.wait, DEADLINE_S) == 0


def test_a_second_service_takes_a_free_admin_port_and_says_which(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8081))
            taken.listen()
        except OSError:
            pass  # another one has it: as good
        words = ["--replicas", "1"]
        with started("builtin", log=tmp_path / "log", arguments=words, admin="") as service:
            told = (tmp_path / "log").read_text()
            assert "port 8081" in told
            assert service.admin.removeprefix("http://") in told
            service.wait_for(["ready"])
            done = CliRunner().invoke(app, ["status", "--admin", service.admin])
            assert done.exit_code == 0, done.output
