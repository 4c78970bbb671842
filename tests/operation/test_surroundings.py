"""Processes where little is there, or something odd: no home, no name, nothing to write to, no
standard streams, no IPv4, a working directory of modules.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from embedfleet.runtime.process import interpreter
from tests.audit.every_command import ask, until_ready
from tests.ports import free_port
from tests.scenarios.test_stopping import Start

pytestmark = pytest.mark.slow
READ_ONLY = "mount -t tmpfs -o ro none /tmp && mount -t tmpfs -o ro none /var/tmp && cd /proc"
NOBODY = ["unshare", "--user", "--map-user=12345", "--map-group=12345", "env", "-u", "HOME"]
"""A user without an entry among the users, as OpenShift makes one up."""


def inside(script: str, *words: str) -> list[str]:
    mounted = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    return [*mounted, f'{script} && exec "$@"', "sh", *words]


def can(words: list[str]) -> bool:
    try:
        done = subprocess.run([*words, "true"], capture_output=True, check=False, timeout=30)
    except OSError:
        return False
    return done.returncode == 0


def test_it_serves_without_a_home_a_name_and_a_directory_that_can_be_written(
    tmp_path: Path,
) -> None:
    words = inside(READ_ONLY, *NOBODY)
    if not can(words) or sys.executable.startswith(("/tmp", "/var/tmp")):  # noqa: S108
        pytest.skip("such surroundings are not to be had here (unshare, mount)")
    start = Start(tmp_path, *words)
    start.says("embedfleet serves")
    url = start.log.read_text().partition("embedfleet serves builtin at ")[2].split("/v1")[0]
    ask(url, ["a", "b"])
    os.kill(start.process.pid, signal.SIGTERM)
    start.ends_quietly()
    assert "WARNING" not in start.log.read_text()


def test_it_serves_with_every_standard_stream_closed() -> None:
    """As some supervisors start what they start; what is written goes nowhere."""
    port = free_port()
    words = ["serve", "builtin", "--replicas", "1", "--port", str(port), "--admin-port", "0"]
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    process = subprocess.Popen([*closed, sys.executable, "-m", "embedfleet", *words])
    url = f"http://127.0.0.1:{port}"
    try:
        until_ready(url)
        for _ in range(5):
            ask(url, ["a", "b"])
        with urllib.request.urlopen(f"{url}/v1/models", timeout=20) as answer:  # noqa: S310
            assert answer.read().startswith(b"{")
    finally:
        process.terminate()
        assert process.wait(60) == 0


def test_modules_of_the_working_directory_are_not_imported(tmp_path: Path) -> None:
    """Those of users are called `types.py` and `queue.py`; replicas and the fleet of a bulk run
    are interpreters that start there.
    """
    for name in ("types", "queue", "inspect", "ctypes", "numpy", "embedfleet"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('somebody else')")
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n')
    words = ["bulk", "in.jsonl", "out", "--model", "builtin", "--replicas", "1"]
    done = subprocess.run(
        interpreter("-m", "embedfleet", *words),
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    assert (done.returncode, "somebody else" in done.stderr) == (0, False), done.stderr
