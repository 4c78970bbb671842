"""What a person reads in the log: each line once a minute, with who says it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.runtime.settings import LogSettings
from embedfleet.runtime.telemetry.log_rate_limit import BURST, OnceAMinute, Repeats
from embedfleet.runtime.telemetry.logs import (
    CONTROLS,
    JsonFormatter,
    QueuedHandler,
    TextFormatter,
    configure_logging,
)

log = logging.getLogger("embedfleet.tests")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """The root logger as it was, afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)


class TestRepeats:
    def test_after_three_of_a_kind_one_is_written_a_minute_and_tells_of_the_rest(self) -> None:
        repeats = Repeats()
        assert [repeats.admit(("late",), 0.0) for _ in range(BURST)] == [0] * BURST
        assert [repeats.admit(("late",), float(n)) for n in range(1, 60)] == [None] * 59
        assert repeats.admit(("late",), 60.0) == 59
        assert [repeats.admit(("late",), float(n)) for n in range(61, 120)] == [None] * 59
        assert repeats.admit(("late",), 120.0) == 59

    def test_what_comes_now_and_then_is_written_each_time(self) -> None:
        repeats = Repeats()
        assert [repeats.admit(("ready",), 25.0 * n) for n in range(40)] == [0] * 40

    @given(
        st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=200),
    )
    def test_no_line_is_lost_from_the_count(self, steps: list[tuple[str, float]]) -> None:
        repeats, now, told = Repeats(), 0.0, 0
        written: list[tuple[str, float]] = []
        for kind, pause in steps:
            now += pause
            left_out = repeats.admit((kind,), now)
            if left_out is not None:
                told += 1 + left_out
                written.append((kind, now))
                recent = [each for each in written if each[0] == kind and now - each[1] < 60]
                assert len(recent) <= 2 * BURST
        assert told + repeats.left_out() == len(steps)

    @given(st.integers(1, 50), st.integers(1, 8))
    def test_memory_is_bounded_however_many_kinds_there_are(self, kinds: int, most: int) -> None:
        repeats = Repeats(most=most)
        assert all(repeats.admit((kind,), 0.0) == 0 for kind in range(kinds))
        assert len(repeats._kinds) <= most


class TestForeignText:
    @given(st.text(), st.text())
    def test_no_text_can_look_like_another_line(self, said: str, raised: str) -> None:
        error = (ValueError, ValueError(raised), None)
        record = log.makeRecord(log.name, logging.ERROR, "", 0, "told %s", (said,), error)
        first, *others = TextFormatter("%(asctime)s %(message)s").format(record).split("\n")
        assert "told " in first
        assert all(line.startswith("\t") for line in others)
        for line in (first, *(other[1:] for other in others)):
            assert line.splitlines() in ([], [line])
            assert not any(ord(each) < 32 or 127 <= ord(each) < 160 for each in line)


class TestLines:
    def test_numbers_may_differ_in_lines_of_one_kind_and_names_may_not(
        self, written: io.StringIO
    ) -> None:
        now = 0.0
        handler = logging.StreamHandler(written)
        handler.addFilter(OnceAMinute(lambda: now))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            for n in range(68):
                log.info("replica %s is late with %d texts", "local-1", n)
            log.info("replica %s is late with %d texts", "local-2", 1)
            now = 61.0
            log.info("replica %s is late with %d texts", "local-1", 7)
            for _ in range(2):
                log.error("something broke")
        finally:
            log.removeHandler(handler)
        assert written.getvalue().splitlines() == [
            "replica local-1 is late with 0 texts",
            "replica local-1 is late with 1 texts",
            "replica local-1 is late with 2 texts",
            "replica local-2 is late with 1 texts",
            "replica local-1 is late with 7 texts (and 65 more like it)",
            "something broke",
            "something broke",
        ]

    @given(st.text(max_size=20).map(lambda text: text + "".join(map(chr, CONTROLS))))
    def test_no_character_of_a_message_ends_its_line_or_moves_a_cursor(self, said: str) -> None:
        record = logging.LogRecord("any", logging.INFO, "", 0, "%s", (said,), None)
        as_json = JsonFormatter().format(record)
        for line in (as_json, TextFormatter().format(record)):
            assert not {ord(each) for each in line} & CONTROLS.keys()
        assert json.loads(as_json)["message"] == said

    @pytest.mark.parametrize("form", ["text", "json"])
    def test_each_line_names_the_process_that_writes_it(
        self, written: io.StringIO, capfd: pytest.CaptureFixture[str], form: str
    ) -> None:
        configure_logging(LogSettings(format=form), who="builtin/local-1")  # type: ignore[arg-type]
        log.warning("out of memory")
        for noisy in ("httpx", "httpx2", "huggingface_hub"):
            logging.getLogger(noisy).info("HTTP Request: HEAD http://hub/resolve/main/config.json")
        logging.getLogger("python_multipart.multipart").warning("Found 0-length header at 5")
        for handler in logging.getLogger().handlers:
            handler.flush()
            handler.close()
        (line,) = capfd.readouterr().err.splitlines()
        if form == "json":
            assert json.loads(line)["process_name"] == "builtin/local-1"
        else:
            assert re.fullmatch(r"\d\d:\d\d:\d\d WARNING builtin/local-1: out of memory", line), (
                line
            )


def test_a_stalled_reader_of_the_log_delays_nothing_and_dropped_lines_are_counted() -> None:
    """The pipe is full, the lines beyond some are dropped, and are told of when it reads again."""
    reading, writing = os.pipe()
    handler = QueuedHandler(writing, most_lines=100)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for _ in range(5000):
        handler.emit(logging.LogRecord("", logging.INFO, "", 0, "x" * 100, None, None))
    assert handler.dropped > 3000
    read = b""
    while b"log lines dropped" not in read:
        read += os.read(reading, 1 << 16)
        handler.emit(logging.LogRecord("", logging.INFO, "", 0, "more", None, None))
    handler.close()
    os.close(reading)
    os.close(writing)


def test_a_reader_of_a_pipe_that_does_not_block_misses_nothing() -> None:
    """Another process that shares the pipe made it so: a write fails where it would have waited."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    handler = QueuedHandler(writing)
    handler.setFormatter(logging.Formatter("%(message)s"))
    lines = [f"{n} {'x' * 100}" for n in range(5000)]
    for line in lines:
        handler.emit(logging.LogRecord("", logging.INFO, "", 0, line, None, None))
    read = b""
    while read.count(b"\n") < len(lines):
        read += os.read(reading, 1 << 12)
    handler.close()
    assert read.decode().splitlines() == lines
    assert handler.dropped == 0
    os.close(reading)
    os.close(writing)


SAYS = """
from embedfleet.runtime.telemetry.logs import open_standard_streams, say
open_standard_streams()
say("ready ✓\\n")
print("goes on", file=__import__("sys").stderr)
"""


@pytest.mark.parametrize("blocks", [True, False])
def test_a_full_pipe_as_standard_output_neither_holds_a_server_up_nor_keeps_it_from_ending(
    blocks: bool,
) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, blocks)
    ended = subprocess.run(
        [sys.executable, "-c", SAYS],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    assert ended.stderr.strip() == b"goes on"
    os.close(reading)
    os.close(writing)


OF_A_FULL_DISK = """
import logging, resource, time
from embedfleet.runtime.telemetry.logs import QueuedHandler
handler = QueuedHandler(most_lines=100)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
for n in range(10):
    handler.emit(logging.LogRecord("", logging.INFO, "", 0, f"line number {n}", None, None))
while handler.dropped < 9:
    time.sleep(0.01)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
handler.emit(logging.LogRecord("", logging.INFO, "", 0, "there is room again", None, None))
handler.close()
"""


def test_a_full_disk_costs_lines_that_are_counted_and_no_line_after_them(tmp_path: Path) -> None:
    """A limit to the size of files stands for the disk: it too takes a part of the line."""
    with (tmp_path / "log").open("wb") as file:
        subprocess.run([sys.executable, "-c", OF_A_FULL_DISK], stderr=file, check=True, timeout=60)
    assert (tmp_path / "log").read_text().splitlines() == [
        "line number 0",
        "line n",
        "there is room again",
        "9 log lines dropped: standard error did not take them in time",
    ]


@pytest.mark.slow
def test_streams_that_are_closed_are_opened_to_nowhere() -> None:
    """Else a socket would take their number."""
    program = (
        "from embedfleet.runtime.telemetry.logs import open_standard_streams as o; import os; o(); "
    )
    program += "r, w = os.pipe(); assert min(r, w) > 2; os.write(1, b'x'); os.write(2, b'x'); "
    program += "print('x')"
    command = f'exec {sys.executable} -c "{program}" <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0
