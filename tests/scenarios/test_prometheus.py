"""A real Prometheus watches a real service: targets, rules, dashboards, and an alert that fires."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port, free_ports
from tests.processes import replicas_of
from tests.runtime.telemetry.test_monitoring import MONITORING, expressions, writer
from tests.service import Service, started

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("prometheus") and shutil.which("promtool")),
        reason="prometheus and promtool are not installed (Debian: apt-get install prometheus)",
    ),
]
DEADLINE_S = 180
COMPARISON = re.compile(r"\s*(==|>|<)\s*[\d.]+")


class Prometheus:
    """A running one, asked over its API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **query: str) -> Any:
        text = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(text, timeout=60) as answer:  # noqa: S310
            return json.load(answer)["data"]

    def values(self, expression: str) -> list[Any]:
        """What an expression gives now."""
        found: list[Any] = self.get("query", query=expression)["result"]
        return found

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait for what comes with the next scrapes."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"{what} never came"
            time.sleep(0.5)


def configuration(directory: Path, admin: str) -> Path:
    """The shipped configuration with this service's address, looked at every second.

    What must hold for minutes before an alert fires must hold for as many seconds.
    """
    shutil.copytree(MONITORING / "rules", directory / "rules")
    alerts = directory / "rules" / "alerts.yml"
    alerts.write_text(re.sub(r"(?m)^( +for: \d+)m$", r"\1s", alerts.read_text(encoding="utf-8")))
    text = (MONITORING / "prometheus.yml").read_text(encoding="utf-8")
    text = text.replace("gateway:8081", admin.removeprefix("http://")).replace(": 5s", ": 1s")
    text = text.partition("  # GPUs")[0]  # their exporter is found by a name that is not known here
    config = directory / "prometheus.yml"
    config.write_text(text, encoding="utf-8")
    return config


@contextlib.contextmanager
def watching(directory: Path, service: Service) -> Iterator[Prometheus]:
    """Prometheus over a service."""
    address = f"127.0.0.1:{free_port()}"
    with (directory / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={configuration(directory, service.admin)}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    prometheus = Prometheus(f"http://{address}")
    try:
        prometheus.until("Prometheus", lambda: answers(prometheus))
        yield prometheus
    finally:
        process.terminate()
        process.wait(60)


def answers(prometheus: Prometheus) -> bool:
    try:
        return bool(prometheus.get("status/buildinfo"))
    except (urllib.error.URLError, ConnectionError):
        return False


@contextlib.contextmanager
def load(service: Service) -> Iterator[None]:
    """Requests one after the other, in both lanes, some of them wrong, while the block runs."""
    with urllib.request.urlopen(f"{service.base_url}/models", timeout=60) as answer:  # noqa: S310
        model = json.load(answer)["data"][0]["id"]
    stop = threading.Event()

    def ask() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            name = model if number % 10 else "another"
            texts = [f"Text {number} of {n} about the sea." for n in range(1 + number % 7)]
            request = urllib.request.Request(  # noqa: S310
                f"{service.base_url}/embeddings",
                json.dumps({"model": name, "input": texts}).encode(),
                {"x-embedfleet-lane": "bulk" if number % 3 else "interactive"},
            )
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(request, timeout=60).close()  # noqa: S310
            stop.wait(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_the_files_pass_promtool(tmp_path: Path) -> None:
    """Syntax of rules and configuration, and the alerts' own tests over time."""
    for command in (
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "rules/recording.yml", "rules/alerts.yml"],
        ["test", "rules", "rules_test.yml"],
    ):
        done = subprocess.run(
            ["promtool", *command], cwd=MONITORING, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def questions() -> dict[str, str]:
    """Every expression of rules and dashboards, as it is asked, by where it stands."""
    found = {}
    script = writer()
    for name in script.DASHBOARDS:
        for number, expression in enumerate(expressions(script.dashboard(name))):
            found[f"{name} {number}"] = expression
    for file in ("recording", "alerts"):
        text = (MONITORING / "rules" / f"{file}.yml").read_text(encoding="utf-8")
        for block in re.split(r"- (?=record|alert)", text)[1:]:
            name = block.partition("\n")[0]
            rule = re.search(r"expr: (\|\n(?: {10,}.*\n)+|.*\n)", block)
            assert rule
            expression = " ".join(rule[1].removeprefix("|\n").split())
            # An alert that does not fire gives nothing; what it compares must be there.
            found[name] = COMPARISON.sub("", expression) if "alert" in name else expression
    return {
        place: expression.replace("$__rate_interval", "1m").replace("$pool", ".*")
        for place, expression in found.items()
    }


def test_every_expression_gives_data_and_a_killed_replica_raises_an_alert(tmp_path: Path) -> None:
    """But for those that need a GPU, say, and are listed with their reason."""
    model = os.environ.get("EMBEDFLEET_TEST_SERVICE", "builtin")
    conditional = writer().CONDITIONAL
    with (
        started(model, log=tmp_path / "log") as service,
        watching(tmp_path, service) as prometheus,
        load(service),
    ):
        service.wait_for(["ready", "ready"])
        prometheus.until(
            "targets", lambda: [each["value"][1] for each in prometheus.values("up")] == ["1"] * 3
        )
        asked = questions()
        silent: dict[str, str] = {}

        def all_answer() -> bool:
            silent.clear()
            silent.update(
                (place, each) for place, each in asked.items() if not prometheus.values(each)
            )
            return not {
                place: each
                for place, each in silent.items()
                if not any(part in each for part in conditional)
            }

        try:
            prometheus.until("data", all_answer)
        except AssertionError:
            pytest.fail(f"no data: {silent}")

        def firing() -> set[str]:
            return {
                alert["labels"]["alertname"]
                for alert in prometheus.get("alerts")["alerts"]
                if alert["state"] == "firing"
            }

        assert "EmbedfleetReplicaLost" not in firing()
        replicas_of(service.process.pid)[0].kill()
        prometheus.until("the alert", lambda: "EmbedfleetReplicaLost" in firing())
        service.wait_for(["ready", "ready"])
        prometheus.until(
            "the new replica's target",
            lambda: sorted(each["value"][1] for each in prometheus.values("up")) == ["1"] * 3,
        )


@contextlib.contextmanager
def remote_replicas(
    directory: Path, count: int
) -> Iterator[list[tuple[str, subprocess.Popen[bytes]]]]:
    """Replicas of the built-in model as on other machines, with their addresses."""
    ports = free_ports(count)
    with contextlib.ExitStack() as stack:
        found = []
        for port in ports:
            log = stack.enter_context((directory / f"replica-{port}.log").open("wb"))
            words = ["replica", "builtin", "--port", str(port)]
            process = subprocess.Popen(
                [sys.executable, "-m", "embedfleet", *words], stdout=log, stderr=log
            )
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
            found.append((f"http://127.0.0.1:{port}", process))
        yield found


def test_one_of_three_replicas_elsewhere_is_killed_and_alerts_tell(tmp_path: Path) -> None:
    """With every address kept in the settings, nothing but these alerts tells of it."""
    with remote_replicas(tmp_path, 3) as replicas:
        command = ["gateway", *(word for url, _ in replicas for word in ("--replica", url))]
        with (
            started("", log=tmp_path / "log", command=command) as service,
            watching(tmp_path, service) as prometheus,
        ):
            service.wait_for(["ready"] * 3)
            up = 'up{job="embedfleet-replica"} == 1'
            prometheus.until("targets", lambda: len(prometheus.values(up)) == 3)

            def firing(name: str) -> list[dict[str, str]]:
                return [
                    alert["labels"]
                    for alert in prometheus.get("alerts")["alerts"]
                    if alert["state"] == "firing" and alert["labels"]["alertname"] == name
                ]

            names = ("EmbedfleetReplicaDown", "EmbedfleetReplicaNotReady")
            # One that was slow to start may have been told of.
            prometheus.until("calm", lambda: not any(map(firing, names)))
            url, process = replicas[1]
            process.kill()
            for name in names:
                prometheus.until(name, lambda name=name: bool(firing(name)))  # type: ignore[misc]
                (labels,) = firing(name)
                assert labels["replica"] == "remote-1"
            told = next(each for each in service.fleet() if each["name"] == "remote-1")
            assert told["url"] == url
            assert "refused" in told["reason"].lower() or "connect" in told["reason"].lower(), told
