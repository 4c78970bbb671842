"""What tests rely on when they look at other processes, which may end at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from uuid import uuid4

import psutil
import pytest

from tests.processes import (
    in_environment,
    is_alive,
    living_children,
    outliving,
    with_descendants,
)

SLEEPS = "import time; print(flush=True); time.sleep(600)"
MARK = "MARK_OF_A_SLEEPER"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A child of ours with a command line and an environment of its own."""
    mark = uuid4().hex
    command = [sys.executable, "-c", SLEEPS, mark]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env=os.environ | {MARK: mark}
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def left_as_a_zombie(process: subprocess.Popen[bytes]) -> None:
    """End it, and wait until it has ended, without collecting it."""
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def test_a_living_child_is_found_by_all_of_its_words(sleeper: subprocess.Popen[bytes]) -> None:
    mark = str(sleeper.args[-1])  # type: ignore[index]
    (found,) = living_children(os.getpid(), "-c import time", mark)
    assert found.pid == sleeper.pid
    assert living_children(os.getpid(), mark, "no such word") == []
    assert [each.pid for each in in_environment(MARK, mark)] == [sleeper.pid]
    assert sleeper.pid in {each.pid for each in with_descendants(os.getpid())}
    assert outliving([found], patience_s=0) == [found]


def test_a_zombie_is_not_alive(sleeper: subprocess.Popen[bytes]) -> None:
    mark = str(sleeper.args[-1])  # type: ignore[index]
    process = psutil.Process(sleeper.pid)
    left_as_a_zombie(sleeper)
    assert process.status() == psutil.STATUS_ZOMBIE
    assert not is_alive(process)
    assert living_children(os.getpid(), mark) == []
    assert in_environment(MARK, mark) == []
    assert outliving([process]) == []


def test_one_that_is_gone_is_not_alive(sleeper: subprocess.Popen[bytes]) -> None:
    process = psutil.Process(sleeper.pid)
    sleeper.send_signal(signal.SIGKILL)
    sleeper.wait()
    assert not is_alive(process)
    assert outliving([process]) == []
    assert living_children(sleeper.pid) == []
