"""`embedfleet serve` as a process, for tests that need the whole of it."""

from __future__ import annotations

import contextlib
import json
import re
import selectors
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 120.0
PATIENCE_S = 120.0

BANNER = re.compile(r"serves .* at (https?://\S+)/v1 \(fleet and metrics: (\S+)\)")


@dataclass(frozen=True)
class Service:
    """A running gateway with its replicas."""

    process: subprocess.Popen[str]
    root: str
    """For instance `http://127.0.0.1:8080`."""
    admin: str
    log: Path

    @property
    def base_url(self) -> str:
        """What OpenAI's clients take."""
        return f"{self.root}/v1"

    def post(self, path: str, body: object) -> tuple[int, Any]:
        """Send JSON to the gateway; give status and JSON."""
        return posted(self.root + path, body)

    def fleet(self) -> list[dict[str, Any]]:
        """The replicas as the gateway sees them."""
        with urllib.request.urlopen(f"{self.admin}/fleet", timeout=60) as answer:  # noqa: S310
            replicas: list[dict[str, Any]] = json.load(answer)["pools"][0]["replicas"]
            return replicas

    def metrics(self) -> str:
        with urllib.request.urlopen(f"{self.admin}/metrics", timeout=60) as answer:  # noqa: S310
            text: str = answer.read().decode()
            return text

    def measured(self, metric: str) -> float:
        """The sum of a metric over its labels; a regular expression picks some of them."""
        found = re.findall(rf"^embedfleet_{metric} (\S+)$", self.metrics(), re.MULTILINE)
        return sum(map(float, found))

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Return when something that can be seen from outside holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, f"{what} never came\n{self.log.read_text()}"
            time.sleep(0.02)

    def wait_for_requests(self, count: int) -> None:
        """Return when so many requests have come in and are not answered yet."""
        self.until(f"{count} requests", lambda: self.measured("active_requests") >= count)

    def wait_for(self, states: Sequence[str], timeout_s: float = PATIENCE_S) -> None:
        """Return when the replicas are in these states, in any order."""
        deadline = time.monotonic() + timeout_s
        while (seen := sorted(each["state"] for each in self.fleet())) != sorted(states):
            if time.monotonic() > deadline:
                raise TimeoutError(f"replicas are {seen}, not {states}\n{self.log.read_text()}")
            time.sleep(0.1)


def posted(url: str, body: object) -> tuple[int, Any]:
    """Send JSON; give status and JSON."""
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@contextlib.contextmanager
def started(
    model: str,
    *,
    log: Path,
    arguments: Sequence[str] = (),
    command: Sequence[str] | None = None,
    settings: str = "",
    admin: str = "port = 0",
    before: Sequence[str] = (),
) -> Iterator[Service]:
    """Start a service, wait until it says that it is ready, and stop it at the end.

    `command` takes the place of `serve MODEL`, `before` is a program that starts it. In the
    settings file `admin` are the lines of the admin address, and `settings` further ones.
    """
    config = log.with_suffix(".toml")
    config.write_text(f"[admin]\n{admin}\n{settings}")
    words = [*(command or ["serve", model]), "--port", "0", "--config", str(config), *arguments]
    with log.open("w") as sink:
        process = subprocess.Popen(
            [*before, sys.executable, "-m", "embedfleet", *words],
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
        )
    try:
        root, admin = _banner(process, log)
        yield Service(process, root, admin, log)
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        finally:
            process.kill()
            assert process.stdout is not None
            process.stdout.close()


def _banner(process: subprocess.Popen[str], log: Path) -> tuple[str, str]:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if selector.select(START_TIMEOUT_S):
            found = BANNER.search(process.stdout.readline())
            if found:
                return found[1], found[2]
    raise TimeoutError(f"the service did not start\n{log.read_text()}")
