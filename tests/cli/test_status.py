"""`embedfleet status`: what a person reads of a fleet, and a script of the exit code."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from embedfleet.cli.command_line import app
from embedfleet.vocabulary import ReplicaState
from tests.service import Service, started

REASON = "http://10.0.0.5:9000: no connection: [Errno 111] Connection refused, tried for 4 minutes"
REPLICA: dict[str, Any] = {
    "name": "remote-0",
    "url": "http://a-rather-long-name-of-a-machine.example.org:9000",
    "state": "ready",
    "for_s": 3725.0,
    "reason": "",
    "engine": "cpu",
    "precision": "int8",
    "measured_tokens_per_s": 12345.6,
    "in_flight_tokens": 512,
}
POOL: dict[str, Any] = {
    "name": "embeddings",
    "served_names": ["text-embedding-3-small"],
    "tokens_per_s": 987.6,
    "queued_texts": 3,
    "queued_tokens": {"interactive": 0, "bulk": 4096},
    "in_flight_tokens": 512,
    "replicas": [REPLICA],
    "last_decision": {
        "at": "2026-11-23T09:00:05.123+00:00",
        "mode": "automatic",
        "replicas": 2,
        "reason": "1 -> 2: reserve asks for 2",
        "trouble": "",
    },
}
CACHE = {
    "memory": {"hits": 60, "misses": 40},
    "redis": {"state": "closed", "hits": 15},
}
FLEET: dict[str, Any] = {
    "version": "0.1.0",
    "state": "ready",
    "active_requests": 1,
    "pools": [POOL],
    "cache": CACHE,
}


class StandIn(ThreadingHTTPServer):
    """An admin address that answers what the test says."""

    daemon_threads = False  # its end waits for what it answers

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.answer = copy.deepcopy(FLEET)

    @property
    def replica(self) -> dict[str, Any]:
        found: dict[str, Any] = self.answer["pools"][0]["replicas"][0]
        return found


class Answering(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        raw = json.dumps(self.server.answer if self.path == "/fleet" else None).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def gateway() -> Iterator[StandIn]:
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def status(gateway: StandIn, *words: str) -> Result:
    admin = f"http://127.0.0.1:{gateway.server_port}"
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, ["status", "--admin", admin, *words])


def test_the_fleet_is_a_table_with_load_queue_cache_and_the_last_decision(
    gateway: StandIn,
) -> None:
    shown = status(gateway).stdout
    assert "embedfleet 0.1.0: ready, 1 request in flight" in shown
    assert "cache: 75.0% of 100 texts known, Redis connected (breaker closed)" in shown
    assert "embeddings (also text-embedding-3-small): 1 of 1 replica ready" in shown
    assert "988 tokens/s arriving, 512 tokens in flight" in shown
    assert "queued tokens: interactive 0, bulk 4,096" in shown
    assert "scaling 09:00:05: 1 -> 2: reserve asks for 2" in shown
    row = next(line for line in shown.splitlines() if "remote-0" in line)
    assert row.split()[:4] == ["remote-0", "ready", "1h02m", "12,346"]


def test_nothing_is_cut_off_in_a_pipe_however_narrow_the_terminal(gateway: StandIn) -> None:
    gateway.replica.update(state="starting", reason=REASON)
    shown = status(gateway).stdout
    assert REASON in shown
    assert REPLICA["url"] in shown
    assert all(line == line.rstrip() for line in shown.splitlines())


@pytest.mark.parametrize("state", list(ReplicaState))
def test_the_exit_code_says_whether_every_replica_is_well(
    gateway: StandIn, state: ReplicaState
) -> None:
    gateway.replica["state"] = state.value
    well = state in {ReplicaState.READY, ReplicaState.DRAINING, ReplicaState.STANDBY}
    assert status(gateway).exit_code == (0 if well else 1)
    assert status(gateway, "--json").exit_code == (0 if well else 1)


@pytest.mark.parametrize("state", ["starting", "draining"])
def test_a_gateway_that_takes_no_traffic_is_not_healthy(gateway: StandIn, state: str) -> None:
    gateway.answer["state"] = state
    assert status(gateway).exit_code == 1


def test_json_is_the_gateways_own_document(gateway: StandIn) -> None:
    assert json.loads(status(gateway, "--json").stdout) == FLEET


def test_a_pool_without_replicas_cache_and_decisions_has_a_table_too(gateway: StandIn) -> None:
    gateway.answer["cache"] = None
    gateway.answer["pools"] = [POOL | {"replicas": [], "last_decision": None}]
    shown = status(gateway)
    assert "embeddings (also text-embedding-3-small): 0 of 0 replicas ready" in shown.stdout
    assert shown.exit_code == 1


def test_the_admin_port_of_the_environment_is_asked(gateway: StandIn) -> None:
    environment = {"EMBEDFLEET_ADMIN_PORT": str(gateway.server_port)}
    assert CliRunner(env=environment).invoke(app, ["status"]).exit_code == 0


def test_a_gateway_that_does_not_answer_is_one_line_and_exit_code_two() -> None:
    result = CliRunner().invoke(app, ["status", "--admin", "http://127.0.0.1:1"])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "--admin says where it is" in line


def _status(service: Service, *words: str) -> Result:
    return CliRunner().invoke(app, ["status", "--admin", service.admin, *words])


def scaled(service: Service) -> bool:
    """Whether the autoscaler has decided once."""
    return json.loads(_status(service, "--json").stdout)["pools"][0]["last_decision"] is not None


@pytest.mark.slow
def test_a_running_service_tells_its_fleet(tmp_path: Path) -> None:
    flags = ["--min-replicas", "2", "--max-replicas", "2"]
    with started("builtin", log=tmp_path / "log", arguments=flags) as service:
        deadline = time.monotonic() + 120
        ready = "builtin: 2 of 2 replicas ready"
        while ready not in (done := _status(service)).stdout or not scaled(service):
            assert time.monotonic() < deadline, f"{done.output}\n{service.log.read_text()}"
            time.sleep(0.2)
        found = json.loads(_status(service, "--json").stdout)
        (pool,) = found["pools"]
        assert set(FLEET) == set(found)
        assert set(POOL) <= set(pool)
        assert set(REPLICA) <= set(pool["replicas"][0])
