"""What a process settles with the system: open files, and orphans as process 1."""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import subprocess
import sys

import psutil
import pytest

from embedfleet.runtime.process import connections_within, raise_descriptor_limit, reap_orphans
from tests.loops import running


def test_the_soft_limit_of_open_files_becomes_the_hard_one() -> None:
    program = (
        "import resource as r; "
        "from embedfleet.runtime.process import raise_descriptor_limit as up; "
        "r.setrlimit(r.RLIMIT_NOFILE, (64, 512)); print(up(), *r.getrlimit(r.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.split() == [b"512", b"512", b"512"]


def test_no_limit_is_as_many_as_anybody_needs() -> None:
    assert raise_descriptor_limit() >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0


def test_fewer_open_files_than_a_process_needs_for_itself_are_an_error() -> None:
    program = (
        "import resource as r; "
        "from embedfleet.runtime.process import raise_descriptor_limit as up; "
        "r.setrlimit(r.RLIMIT_NOFILE, (20, 40)); up()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert b"SetupError: the limit of open files is 40, and at least 64 are needed" in done.stderr


@pytest.mark.parametrize(
    ("most", "descriptors", "room"),
    [(8192, 1 << 20, 8192), (8192, 10_000, 8192), (8192, 1024, 896), (100, 1024, 100), (8, 64, 1)],
)
def test_there_are_no_more_connections_than_files_and_it_is_said(
    most: int, descriptors: int, room: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert connections_within(most, descriptors) == room
    told = "".join(caplog.messages)
    if room < most:
        assert f"limit of {descriptors} open files" in told
        assert f"{room} connections instead of {most} (gateway.max_connections)" in told
    else:
        assert told == ""


@pytest.fixture
def orphan() -> int:
    """A child that no event loop knows."""
    return os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)


async def test_orphans_that_nobody_else_collects_are_collected_the_second_time(orphan: int) -> None:
    """Children of our own are the event loop's, which collects them at once: by a thread that a
    busy machine may hold up, though not for a second.
    """
    async with running(reap_orphans(1.0)), asyncio.timeout(60):
        own = await asyncio.create_subprocess_exec(sys.executable, "-c", "raise SystemExit(7)")
        assert await own.wait() == 7
        while psutil.pid_exists(orphan):
            await asyncio.sleep(0.02)


def test_freed_memory_goes_back_to_the_system() -> None:
    """Of small objects that lie scattered between others; without glibc nothing is asked."""
    program = (
        "import psutil; from embedfleet.runtime.process import shrink_heap; "
        "rows = [bytes(600 + i % 300) for i in range(200_000)]; kept = rows[::100]; del rows; "
        "before = psutil.Process().memory_info().rss; shrink_heap(); "
        "print((before - psutil.Process().memory_info().rss) >> 20)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(done.stdout) > 50 or platform.libc_ver()[0] != "glibc"
