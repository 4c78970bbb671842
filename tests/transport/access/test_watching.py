"""A file that changes is read again; one that is broken changes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from embedfleet.transport.access.watching import Watch
from embedfleet.vocabulary import SettingError


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def put(path: Path, content: bytes) -> None:
    """Write it at once: what is opened for writing is empty for a moment, and may be read then."""
    beside = path.with_suffix(".new")
    beside.write_bytes(content)
    beside.replace(path)


async def test_a_file_that_is_replaced_rewritten_or_linked_elsewhere_is_read_again(
    tmp_path: Path,
) -> None:
    path, seen = tmp_path / "file", [""]
    path.write_text("one")

    def read() -> Callable[[], None]:
        text = path.read_text()
        return lambda: seen.append(text)

    watch = Watch([path], read)
    task = asyncio.create_task(watch.run(0.01))
    path.write_text("three")
    await until(lambda: seen[-1] == "three")
    beside = tmp_path / "beside"
    beside.write_text("seven")
    beside.replace(path)
    await until(lambda: seen[-1] == "seven")
    linked = tmp_path / "linked"
    linked.write_text("eight")
    path.unlink()
    path.symlink_to(linked)
    await until(lambda: seen[-1] == "eight")
    task.cancel()


async def test_a_broken_file_is_reported_once_and_the_next_good_one_is_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, taken = tmp_path / "file", ["good"]
    put(path, b"good")

    def read() -> Callable[[], None]:
        if not path.exists() or path.read_text() == "broken":
            raise SettingError("it is broken")
        text = path.read_text()
        return lambda: taken.append(text)

    watch = Watch([path], read)
    task = asyncio.create_task(watch.run(0.01))
    assert not watch.is_failing()
    with caplog.at_level(logging.ERROR):
        put(path, b"broken")
        await until(lambda: "it is broken" in caplog.text)
        await asyncio.sleep(0.05)
        assert len(caplog.records) == 1
        path.unlink()
        await until(lambda: len(caplog.records) == 2)
        assert watch.is_failing()
    assert taken == ["good"]
    put(path, b"better")
    await until(lambda: taken[-1] == "better")
    await until(lambda: not watch.is_failing())
    task.cancel()


async def test_a_file_that_can_be_read_later_without_another_change_is_read_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It came with permissions that were corrected, or a network file system was away."""
    path, taken, allowed = tmp_path / "file", ["good"], [False]
    put(path, b"good")

    def read() -> Callable[[], None]:
        text = path.read_text()
        if not allowed[0]:
            raise SettingError("permission denied")
        return lambda: taken.append(text)

    task = asyncio.create_task(Watch([path], read).run(0.01))
    with caplog.at_level(logging.ERROR):
        put(path, b"better")
        await until(lambda: "permission denied" in caplog.text)
        await asyncio.sleep(0.05)
        assert len(caplog.records) == 1
    allowed[0] = True
    await until(lambda: taken == ["good", "better"])
    await asyncio.sleep(0.05)
    assert taken == ["good", "better"]
    task.cancel()


async def test_no_error_ends_a_watch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Or a key that is revoked later would work on."""
    path, taken = tmp_path / "file", ["good"]
    put(path, b"good")

    def read() -> Callable[[], None]:
        text = path.read_bytes().decode()
        return lambda: taken.append(text)

    task = asyncio.create_task(Watch([path], read).run(0.01))
    with caplog.at_level(logging.ERROR):
        put(path, b"no UTF-8: \xff")
        await until(lambda: "its previous content stays in force" in caplog.text)
    put(path, b"better")
    await until(lambda: taken[-1] == "better")
    assert taken == ["good", "better"]
    task.cancel()
