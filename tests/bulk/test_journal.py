"""Vectors on disk between two runs."""

from __future__ import annotations

import contextlib
import resource
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.journal import FragmentLog, Journal, read_log
from tests.bulk.making import IN_MEMORY, tree

KEYS = [number.to_bytes(16, "big") for number in range(1, 401)]
ROWS = np.arange(400 * 3, dtype=np.float32).reshape(400, 3)


def opened(folder: Path, columns: int = 3) -> Journal:
    return Journal(folder / "journal.sqlite", np.dtype(np.float32), columns)


def test_what_was_put_outlives_the_process_and_the_first_value_stays(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.put(KEYS, ROWS)
    journal.put(KEYS[:1], ROWS[1:2])
    journal.close()
    journal = opened(tmp_path)
    found = journal.get([*KEYS, b"unknown"])
    assert found.keys() == set(KEYS)
    assert all(np.array_equal(found[key], row) for key, row in zip(KEYS, ROWS, strict=True))
    journal.remove()
    assert tree(tmp_path) == {}


def test_a_log_that_was_left_is_looked_up_by_the_next_run_and_one_that_was_removed_is_not(
    tmp_path: Path,
) -> None:
    journal = opened(tmp_path)
    left, whole = journal.log(), journal.log()
    left.append(KEYS[:3], ROWS[:3])
    whole.append(KEYS[3:5], ROWS[3:5])
    left.append(KEYS[5:6], ROWS[5:6])
    journal.remove_log(whole)
    assert journal.get(KEYS) == {}
    journal.close()
    journal = opened(tmp_path)
    found = journal.get(KEYS)
    assert found.keys() == {*KEYS[:3], KEYS[5]}
    assert all(np.array_equal(row, ROWS[KEYS.index(key)]) for key, row in found.items())
    journal.log().append(KEYS[:1], ROWS[:1])
    journal.remove()
    assert tree(tmp_path) == {}


@given(st.lists(st.integers(0, 5), max_size=6), st.floats(0, 1), st.none() | st.integers(0, 255))
def test_of_a_log_that_is_cut_or_changed_anywhere_whole_entries_before_it_are_read(
    sizes: list[int], place: float, byte: int | None
) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        path = Path(folder) / "log"
        log, ends = FragmentLog(path), [0]
        for size in sizes:
            log.append(KEYS[:size], ROWS[:size])
            ends.append(path.stat().st_size)
        log.close()
        content = bytearray(path.read_bytes())
        at = min(int(place * len(content)), max(0, len(content) - 1))
        hurt = bool(content) and (byte is None or content[at] != byte)
        if content and byte is None:
            del content[at:]
        elif content:
            content[at] = byte or 0
        path.write_bytes(content)
        whole = sum(end <= at for end in ends[1:]) if hurt else len(sizes)
        found = list(read_log(path, ROWS[0].nbytes))
        assert [keys for keys, _ in found] == [KEYS[:size] for size in sizes[:whole]]
        for size, (_, vectors) in zip(sizes, found, strict=False):
            assert vectors == [row.tobytes() for row in ROWS[:size]]


def test_a_write_without_room_adds_nothing_and_the_log_stays_whole(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    log = FragmentLog(tmp_path / "log")
    log.append(KEYS[:2], ROWS[:2])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(BulkError, match="completed work is kept"):
            log.append(KEYS, ROWS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    log.append(KEYS[2:3], ROWS[2:3])
    log.close()
    assert [keys for keys, _ in read_log(tmp_path / "log", 12)] == [KEYS[:2], KEYS[2:3]]


def test_a_file_that_is_closed_under_a_thread_is_an_error_of_that_thread(tmp_path: Path) -> None:
    """And no crash of the process: a run that is cut off leaves threads behind."""
    for _ in range(30):
        journal = opened(tmp_path)
        journal.put(KEYS, ROWS)
        log = journal.log()
        begun = threading.Event()

        def use(
            journal: Journal = journal, log: FragmentLog = log, begun: threading.Event = begun
        ) -> None:
            begun.set()
            with contextlib.suppress(BulkError):
                while True:
                    journal.get(KEYS)
                    log.append(KEYS, ROWS)

        threads = [threading.Thread(target=use) for _ in range(2)]
        for thread in threads:
            thread.start()
        begun.wait(60)
        journal.close()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "another file": lambda _: b"no database at all" * 100,
    "cut off": lambda whole: whole[: len(whole) // 2],
    "pages of zeros": lambda whole: whole[:4096] + bytes(len(whole) - 4096),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_begun_anew_as_losing_it_costs_only_time(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A run goes on, and says so; what lies in logs is still used."""
    journal, path = opened(tmp_path), tmp_path / "journal.sqlite"
    many = [bytes([number]) * 16 for number in range(200)]
    journal.put(many, np.ones((200, 3), np.float32))
    journal.close()
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    journal = opened(tmp_path)
    assert journal.get(many) == {}
    assert "is damaged and started anew" in caplog.text
    journal.put(KEYS, ROWS)
    journal.close()
    journal = opened(tmp_path)
    assert set(journal.get(KEYS)) == set(KEYS)
    journal.close()
