"""A day of operation: start, attach, kill, rotate, fail over, drain, stop, while clients ask.

Real nginx, Redis and Prometheus, two gateways, three replicas in processes of their own. No request
is lost. What the processes wrote is the log in docs/operations.md; EMBEDFLEET_TEST_WRITE_DAY=FILE
writes that of a run.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest
from typer.testing import CliRunner

from embedfleet.cli.command_line import app
from tests.cache.redis_server import RedisServer
from tests.ports import free_ports
from tests.scenarios.test_nginx import NGINX, nginx
from tests.scenarios.test_prometheus import watching
from tests.service import Service, started
from tests.transport.access.test_tls import make_certificate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (NGINX and shutil.which("prometheus") and shutil.which("redis-server")),
        reason="nginx, Prometheus or Redis is not installed (`make packages`)",
    ),
]
DEADLINE_S = 180.0
MOST_LINES = 100


def until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.2)


def insecure() -> ssl.SSLContext:
    """Certificates are made for this test."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Clients:
    """Threads that ask one request after the other, each answered in full or noted as lost."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key
        self.answered = 0
        self.turns = [0, 0, 0]
        """Requests of each that have ended."""
        self.lost: list[str] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._ask, args=(n,)) for n in range(len(self.turns))
        ]

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for each in self._threads:
            each.join()

    def _ask(self, number: int) -> None:
        for turn in itertools.count():
            if self._stop.is_set():
                return
            trouble = self.once(
                [f"Boat {n} of {number} on river {turn}." for n in range(1 + turn % 4)]
            )
            with self._lock:
                self.answered += not trouble
                self.turns[number] = turn + 1
                if trouble:
                    self.lost.append(trouble)
            self._stop.wait(0.05)

    def once(self, texts: list[str], key: str = "") -> str:
        """What went wrong with a request; empty when nothing did."""
        request = urllib.request.Request(  # noqa: S310
            f"{self.url}/v1/embeddings",
            json.dumps({"model": "builtin", "input": texts, "dimensions": 32}).encode(),
            {"authorization": f"Bearer {key or self.key}", "content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60, context=insecure()) as answer:  # noqa: S310
                rows = json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            return f"{error.code}: {error.read().decode()[:200]}"
        except OSError as error:
            return repr(error)
        return "" if [row["index"] for row in rows] == list(range(len(texts))) else "other rows"


class Site:
    """The files and processes of the day."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.ports = free_ports(5)
        self.keys = place / "keys.json"
        self.certificate, self.private = make_certificate(place, "first")
        self.redis = place / "redis.sock"
        self.logs: dict[str, Path] = {}
        self.replicas: dict[int, subprocess.Popen[bytes]] = {}

    def key(self, name: str) -> str:
        words = ["keys", "create", "--file", str(self.keys), "--name", name]
        return CliRunner().invoke(app, words).stdout.strip()

    def start_replica(self, number: int) -> None:
        log = self.logs.setdefault(f"replica-{number}", self.place / f"replica-{number}.log")
        with log.open("ab") as sink:
            words = ["replica", "builtin", "--port", str(self.ports[number])]
            self.replicas[number] = subprocess.Popen(
                [sys.executable, "-m", "embedfleet", *words], stdout=subprocess.DEVNULL, stderr=sink
            )

    def kill_replicas(self) -> None:
        for each in self.replicas.values():
            each.kill()

    @contextlib.contextmanager
    def gateway(self, number: int, start: int = 1) -> Iterator[Service]:
        name = f"gateway-{number}"
        log = self.place / f"{name}-{start}.log"
        self.logs[f"{name}{' ' * (start > 1) + 'again' * (start > 1)}"] = log
        settings = (
            f'[access]\nkeys_file = "{self.keys}"\n[cache]\nredis_url = "unix://{self.redis}"\n'
            f'[gateway]\ntls_certificate = "{self.certificate}"\ntls_key = "{self.private}"\n'
        )
        urls = [f"http://127.0.0.1:{port}" for port in self.ports[:3]]
        flags = [word for url in urls for word in ("--replica", url)]
        port = ["--port", str(self.ports[2 + number]), "--served-name", "builtin"]
        with started(
            "", log=log, command=["gateway", *flags], settings=settings, arguments=port
        ) as service:
            yield service
        assert service.process.returncode == 0

    def lines(self) -> list[str]:
        """All logs, in the order of their times."""
        found = [
            (line[:8], f"{line[:8]} {name:15} {line[9:].rstrip()}")
            for name, log in self.logs.items()
            for line in log.read_text(encoding="utf-8").splitlines()
        ]
        return [line for _, line in sorted(found, key=lambda each: each[0])]

    def shown(self) -> list[str]:
        """As in the documentation: without what differs from machine to machine."""
        named = {str(port): f"900{n}" for n, port in enumerate(self.ports[:3])}
        named |= {str(port): f"844{n + 3}" for n, port in enumerate(self.ports[3:])}
        shown = []
        for line in self.lines():
            told = line.replace(str(self.place), "/etc/embedfleet")
            for port, other in named.items():
                told = told.replace(f":{port}", f":{other}")
            shown.append(told)
        return shown


@contextlib.contextmanager
def redis_at(link: Path, place: Path) -> Iterator[Callable[[], None]]:
    """Redis behind a name, and its copy; the function makes the copy the primary."""
    with contextlib.ExitStack() as stack:
        servers = []
        for name in ("a", "b"):
            directory = place / name
            directory.mkdir()
            server = RedisServer(directory, ["--unixsocket", str(directory / "s")])
            server.start()
            stack.callback(server.stop)
            servers.append((server, directory / "s"))
        (first, socket_a), (second, socket_b) = servers
        second.tell("replicaof", "127.0.0.1", str(first.port))
        link.symlink_to(socket_a)

        def fail_over() -> None:
            first.stop()
            second.tell("replicaof", "no", "one")
            beside = link.with_suffix(".new")
            beside.symlink_to(socket_b)
            beside.replace(link)

        yield fail_over
        assert int(second.tell("dbsize")) > 0


def written(service: Service) -> int:
    """Vectors that a gateway has written to Redis."""
    found = re.search(
        r'embedfleet_cache_redis_writes_total\{result="written"\} (\d+)', service.metrics()
    )
    return int(found[1]) if found else 0


def served_certificate(service: Service) -> str:
    host, _, port = service.root.partition("://")[2].partition(":")
    return ssl.get_server_certificate((host, int(port)))


def test_a_day_of_operation_loses_no_request(  # noqa: PLR0915  a day is long
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    old = site.key("search")
    with contextlib.ExitStack() as day:
        fail_over = day.enter_context(redis_at(site.redis, tmp_path))
        for number in (0, 1):  # the third is attached later: its address is known already
            site.start_replica(number)
        day.callback(site.kill_replicas)
        again = contextlib.ExitStack()
        day.enter_context(again)
        first = again.enter_context(site.gateway(1))
        second = day.enter_context(site.gateway(2))
        url = day.enter_context(nginx(tmp_path, [first, second]))
        prometheus = day.enter_context(watching(tmp_path, second))
        with Clients(url, old) as clients:
            until("traffic", lambda: clients.answered > 20)
            until("vectors in Redis", lambda: written(first) > 0 and written(second) > 0)

            # Attach.
            site.start_replica(2)
            second.wait_for(["ready"] * 3)
            first.wait_for(["ready"] * 3)
            up = 'up{job="embedfleet-replica"} == 1'
            prometheus.until("targets", lambda: len(prometheus.values(up)) == 3)

            # Kill.
            site.replicas[1].kill()
            site.replicas[1].wait()
            prometheus.until(
                "the alert",
                lambda: (
                    "EmbedfleetReplicaDown"
                    in {
                        alert["labels"]["alertname"]
                        for alert in prometheus.get("alerts")["alerts"]
                        if alert["state"] == "firing"
                    }
                ),
            )
            site.start_replica(1)
            second.wait_for(["ready"] * 3)

            # Rotate the clients' key and the gateways' certificate.
            new = site.key("search, new")
            until("the new key", lambda: not any(clients.once(["a"], new) for _ in range(6)))
            clients.key, turns = new, list(clients.turns)
            until(
                "requests with the new key alone",  # the one after that which was under way
                lambda: all(now > then + 1 for now, then in zip(clients.turns, turns, strict=True)),
            )
            words = ["keys", "revoke", "--file", str(site.keys), old]
            assert CliRunner().invoke(app, words).exit_code == 0
            until("the end of the old key", lambda: clients.once(["a"], old).startswith("401"))
            before = served_certificate(second)
            make_certificate(tmp_path, "second")
            until("the new certificate", lambda: served_certificate(second) != before)

            # Fail over.
            fail_over()
            before_it = written(first), written(second)
            until("writes to the new primary", lambda: written(first) > before_it[0])
            until("writes to the new primary", lambda: written(second) > before_it[1])

            # Drain: one gateway goes and comes back behind nginx.
            again.close()  # sends SIGTERM
            asked = clients.answered
            until("traffic by the other", lambda: clients.answered > asked + 20)
            back = again.enter_context(site.gateway(1, start=2))
            answers = re.compile(r'embedfleet_requests_total\{.*status="200"\} [1-9]')
            until("traffic by both", lambda: bool(answers.search(back.metrics())))
        again.close()
        second.process.send_signal(signal.SIGTERM)
        second.process.wait(60)
        for replica in site.replicas.values():
            replica.send_signal(signal.SIGTERM)
        assert [each.wait(60) for each in site.replicas.values()] == [0, 0, 0]
    lines = site.shown()
    if target := os.environ.get("EMBEDFLEET_TEST_WRITE_DAY"):
        Path(target).write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert clients.lost == []
    assert clients.answered > 100
    assert len(lines) <= MOST_LINES, "\n".join(lines)
    assert not any("Traceback" in line or " ERROR " in line for line in lines), "\n".join(lines)
    assert sum("stopped: " in line for line in lines) >= 3
