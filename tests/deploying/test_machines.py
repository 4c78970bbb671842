"""The container's definition, the compose file and systemd's units, as far as files can tell."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from embedfleet import __version__
from embedfleet.cli.command_line import app
from embedfleet.deploying.case import DIGEST
from embedfleet.runtime.settings import load, options
from tests.deploying.rendered import ROOT

CONTAINERFILE = ROOT / "deploy" / "container" / "Containerfile"
COMPOSE: dict[str, Any] = yaml.safe_load(
    (ROOT / "deploy" / "compose" / "compose.yml").read_text(encoding="utf-8")
)
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))


def instructions() -> list[tuple[str, str]]:
    """Of the container's definition, continued lines joined."""
    text = CONTAINERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found = [line.partition(" ") for line in lines]
    return [(word, rest.strip()) for word, _, rest in found]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions by stage, those of the stages it is made from included."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for word, rest in instructions():
        if word == "FROM":
            origin, _, name = rest.partition(" AS ")
            found[name] = list(found.get(origin, []))
        elif name:
            found[name].append((word, rest))
    return found


def test_the_containers_definition_has_nothing_that_hadolint_minds() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed: `make setup` brings it")
    done = subprocess.run(
        [hadolint, str(CONTAINERFILE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_base_is_pinned_by_digest_and_nothing_else_is_pulled() -> None:
    (base,) = [rest for word, rest in instructions() if word == "ARG" and rest.startswith("BASE=")]
    assert DIGEST.fullmatch(base.removeprefix("BASE="))
    origins = {rest.partition(" AS ")[0] for word, rest in instructions() if word == "FROM"}
    assert origins - set(stages()) == {"${BASE}"}


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_runs_unprivileged_and_receives_signals(target: str) -> None:
    stage = stages()[target]
    assert [rest for word, rest in stage if word == "USER"][-1] == "10001:10001"
    assert [rest for word, rest in stage if word == "ENTRYPOINT"] == ['["embedfleet"]']
    (copied,) = [rest for word, rest in stage if word == "COPY"]
    assert copied.endswith("/opt/embedfleet /opt/embedfleet")


def test_everything_that_is_copied_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for word, rest in instructions():
        if word != "COPY" or rest.startswith("--from"):
            continue
        *sources, _ = rest.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] not in ignored


def test_what_is_installed_comes_from_the_locks() -> None:
    runs = " ; ".join(rest for word, rest in stages()["installed"] if word == "RUN")
    installed = re.findall(r"pip (?:--python \S+ )?install ([^;&]+)", runs)
    assert [each.split() for each in installed] == [
        ["-r", "requirements/build.txt"],
        ["-r", "requirements/image.txt"],
        ["--no-deps", "--no-index", "/built/*.whl"],
    ]
    assert "pip wheel --no-deps --no-build-isolation" in runs


def test_the_compiler_comes_before_the_package_and_is_not_in_the_image_for_processors() -> None:
    runs = [rest for word, rest in stages()["installed"] if word == "RUN"]
    (installs,) = [at for at, run in enumerate(runs) if "gcc=" in run]
    (builds,) = [at for at, run in enumerate(runs) if run.startswith("pip wheel ")]
    assert installs < builds
    assert any("ls " in run and "_kernels.so" in run for run in runs)
    assert not [rest for _, rest in stages()["cpu"] if "gcc" in rest]


class Answering(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health/ready" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def answering(status: int | None) -> Iterator[int]:
    """A port where health is asked for, if a status is given; else one where nobody listens."""
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        Answering.status = status or 200
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield server.server_port if status else 1
        server.shutdown()
        serving.join()


def checked(program: str) -> subprocess.CompletedProcess[bytes]:
    """Run a health check where Docker passes a proxy on to containers."""
    proxies = {"http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
    return subprocess.run(
        [sys.executable, "-c", program], env=os.environ | proxies, capture_output=True, check=False
    )


HEALTH = [(200, 0), (503, 1), (None, 1)]


@pytest.mark.parametrize(("status", "code"), HEALTH)
def test_the_health_check_is_that_of_a_gateway_or_a_replica(status: int | None, code: int) -> None:
    """Healthy is who is ready at either port; starting, draining and absent are not."""
    (check,) = [rest for word, rest in instructions() if word == "HEALTHCHECK"]
    words = json.loads(check[check.index("[") :])
    with answering(status) as here:
        done = checked(words[2].replace("(8080, 9000)", f"(1, {here})"))
    assert words[:2] == ["python", "-c"]
    assert (done.returncode, done.stderr) == (code, b"")


@pytest.mark.parametrize(("status", "code"), HEALTH)
@pytest.mark.parametrize(("service", "port"), [("gateway", 8080), ("replica", 9000)])
def test_composes_health_checks_ask_their_service(
    service: str, port: int, status: int | None, code: int
) -> None:
    words = COMPOSE["services"][service]["healthcheck"]["test"]
    with answering(status) as here:
        done = checked(words[3].replace(f":{port}/", f":{here}/"))
    assert words[:3] == ["CMD", "python", "-c"]
    assert done.returncode == code, done.stderr


def test_the_image_says_what_it_is() -> None:
    (labels,) = [rest for word, rest in instructions() if word == "LABEL"]
    assert 'org.opencontainers.image.title="embedfleet"' in labels
    assert f'org.opencontainers.image.version="{__version__}"' in labels


def test_compose_pins_what_it_pulls_and_locks_what_it_runs() -> None:
    for name, service in COMPOSE["services"].items():
        if "build" not in service:
            assert DIGEST.fullmatch(service["image"]), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["restart"] == "unless-stopped"
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), "nobody else's machine gets in"


def test_compose_builds_a_target_that_there_is() -> None:
    build = COMPOSE["services"]["gateway"]["build"]
    assert (ROOT / build["dockerfile"]) == CONTAINERFILE
    assert build["target"] in stages()


def test_composes_settings_are_ones_that_a_gateway_takes() -> None:
    given = COMPOSE["services"]["gateway"]["environment"]
    settings = load(None, given, {"pools.replica_urls": ["http://replica:9000"]})
    assert settings.cache.redis_url == "redis://redis:6379/0"
    assert settings.admin.open


def of_unit(unit: Path, key: str) -> list[str]:
    return re.findall(rf"(?m)^{key}=(.*)$", unit.read_text(encoding="utf-8"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_is_one_that_systemd_accepts(unit: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / unit.name
    program = "/opt/embedfleet/bin/embedfleet"  # must exist to be accepted
    copy.write_text(unit.read_text(encoding="utf-8").replace(program, sys.executable))
    done = subprocess.run(
        [analyze, "verify", str(copy)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("part", "most"), [("gateway", 20), ("serve", 30), ("replica@", 40)])
def test_a_systemd_unit_is_restricted(part: str, most: int) -> None:
    """Systemd's own judgement, in tenths: 100 is a service without any restriction."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    unit = ROOT / "deploy" / "systemd" / f"embedfleet-{part}.service"
    done = subprocess.run(
        [analyze, "security", "--offline=true", f"--threshold={most}", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-400:]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_that_there_is_and_waits_for_its_end(unit: Path) -> None:
    (line,) = of_unit(unit, "ExecStart")
    _, command, *words = line.split()
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert [word for word in words if word.startswith("--") and word not in shown.stdout] == []
    (stop_s,) = of_unit(unit, "TimeoutStopSec")
    area = "replica" if command == "replica" else "gateway"
    drains = 2 if command == "serve" else 1  # requests, then replicas
    assert float(stop_s) > drains * options()[f"{area}.drain_timeout_s"].default
    assert of_unit(unit, "KillMode") == ["mixed"]
    assert of_unit(unit, "RestartPreventExitStatus") == ["2"]
