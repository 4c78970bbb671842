"""What a process settles with the system: interpreters, files in memory, open files, orphans."""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from embedfleet.runtime.process import (
    TRIM_BYTES,
    connections_within,
    file_in_memory,
    interpreter,
    raise_descriptor_limit,
    reap_orphans,
    worth_trimming,
)
from tests.loops import running

MIB = 1 << 20


def test_an_interpreter_of_ours_takes_no_module_of_the_working_directory(tmp_path: Path) -> None:
    """Python's own names are those of many a script of a user."""
    for name in ("types", "queue", "json", "secrets", "embedfleet"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('somebody else')")
    program = "import embedfleet, json, queue, secrets, sys, types; print(*sys.argv[1:])"
    done = subprocess.run(
        [*interpreter("-c", program), "a", "b"], cwd=tmp_path, capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"a b\n", b"")


def test_a_file_in_memory_is_whole_and_of_its_user() -> None:
    content = bytes(range(256)) * 5000
    held = file_in_memory("a", content)
    try:
        assert os.pread(held, 2_000_000, 0) == content
        assert os.fstat(held).st_mode & 0o777 == 0o600
    finally:
        os.close(held)
    empty = file_in_memory("a", size=5000)
    try:
        assert os.pread(empty, 9999, 0) == bytes(5000)
    finally:
        os.close(empty)


@pytest.mark.parametrize("asked", ["b'x' * 5000", "size=5000"])
def test_a_file_in_memory_that_would_be_cut_short_is_an_error_with_its_name(asked: str) -> None:
    """`ulimit -f` holds for these files too, and cuts a write at the limit without an error."""
    program = (
        "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (1024, 1024)); "
        f"from embedfleet.runtime.process import file_in_memory; file_in_memory('ours', {asked})"
    )
    done = subprocess.run(interpreter("-c", program), capture_output=True, check=False)
    assert b"File too large: 'a file in memory (ours)'" in done.stderr


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


async def test_orphans_are_reaped_at_the_second_look(orphan: int) -> None:
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


def test_a_heap_is_trimmed_once_for_what_it_holds_and_again_when_that_has_changed() -> None:
    assert not worth_trimming(unexplained=90 * MIB, after_last=60 * MIB)
    assert worth_trimming(unexplained=60 * MIB + TRIM_BYTES, after_last=60 * MIB)
    assert worth_trimming(unexplained=60 * MIB, after_last=60 * MIB + TRIM_BYTES)
    assert not worth_trimming(unexplained=-5 * MIB, after_last=0)


def test_a_server_that_held_many_requests_at_once_shrinks_again() -> None:
    """Many pieces of requests, with something small behind all of them that stays."""
    program = """
import asyncio, psutil
from embedfleet.runtime.process import trim_heap, unexplained_bytes

async def main():
    trimming = asyncio.create_task(trim_heap(0.05))
    await asyncio.sleep(0)
    pieces = [bytes(10_000) for _ in range(20_000)]
    kept, high = bytes(700), psutil.Process().memory_info().rss
    del pieces
    if unexplained_bytes():
        while high - psutil.Process().memory_info().rss < 100 << 20:
            await asyncio.sleep(0.05)
    trimming.cancel()

asyncio.run(asyncio.wait_for(main(), 60))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
