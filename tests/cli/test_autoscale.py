"""`embedfleet autoscale`: what a person reads, and what goes to the gateway."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import SEEK_END, FileIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from embedfleet.autoscaling import recording
from embedfleet.cli.command_line import app
from embedfleet.cli.recorder import Pool, Recorder
from embedfleet.vocabulary import SetupError

DECISION = {
    "at": "2026-11-23T09:00:05.123+00:00",
    "times": 3,
    "mode": "automatic",
    "ordered": 5,
    "trouble": "",
    "seen": {"ready": 2, "starting": 0},
    "decision": {
        "winner": "reserve",
        "reason": "2 -> 5: reserve asks for 5 (30,000 tokens/s at 60% of ability)",
        "terms": [
            {"name": "traffic", "replicas": 4, "why": "30,000 tokens/s arrive"},
            {"name": "reserve", "replicas": 5, "why": "30,000 tokens/s at 60% of ability"},
        ],
    },
}
POOL: dict[str, Any] = {
    "name": "m",
    "mode": "automatic",
    "pinned": None,
    "min_replicas": 1,
    "max_replicas": 8,
    "standby": 0,
    "decisions": [DECISION],
}


class StandIn(ThreadingHTTPServer):
    """A gateway's admin address that answers what the test says, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.answer: tuple[int, Any] = (200, {"pools": [POOL]})
        self.asked: list[tuple[str, str, Any, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answering(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        said = json.loads(body) if body else None
        self.server.asked.append((self.command, self.path, said, self.headers["authorization"]))
        status, answer = self.server.answer
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815  the library's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def gateway() -> Iterator[StandIn]:
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def typed(words: str, gateway: StandIn) -> Result:
    return CliRunner().invoke(app, ["autoscale", *words.split(), "--admin", gateway.url])


def test_explaining_shows_every_term_the_winner_and_the_reason(gateway: StandIn) -> None:
    """One row for each different decision."""
    told = typed("explain", gateway).output.splitlines()
    assert told[0] == "m: automatic, 1 to 8 replicas, 0 on standby"
    assert told[1].split() == [
        *("at", "times", "ready", "starting", "traffic", "reserve", "winner", "order"),
    ]
    assert told[2].split() == ["09:00:05", "3", "2", "0", "4", "5", "reserve", "2", "->", "5"]
    assert told[3] == ("09:00:05  2 -> 5: reserve asks for 5 (30,000 tokens/s at 60% of ability)")


def test_manual_orders_and_failed_ones_are_shown_as_such(gateway: StandIn) -> None:
    """Else nobody would know why nothing happens."""
    entry = DECISION | {"mode": "pinned", "trouble": "the API server says 409"}
    pinned = POOL | {"mode": "pinned", "pinned": 5, "decisions": [entry]}
    gateway.answer = (200, {"pools": [pinned]})
    told = typed("explain", gateway).output
    assert "m: pinned at 5," in told
    assert "[pinned] 2 -> 5" in told
    assert "(not carried out: the API server says 409)" in told


def test_only_the_last_decisions_are_shown_unless_more_are_asked_for(gateway: StandIn) -> None:
    """As JSON all that are kept."""
    gateway.answer = (200, {"pools": [POOL | {"decisions": [DECISION] * 40}]})
    assert typed("explain", gateway).output.count("reserve asks") == 10
    assert typed("explain --last 30", gateway).output.count("reserve asks") == 30
    assert len(json.loads(typed("explain --json", gateway).output)[0]["decisions"]) == 40


def test_a_missing_decision_is_shown_as_such(gateway: StandIn) -> None:
    """In the first seconds."""
    gateway.answer = (200, {"pools": [POOL | {"decisions": []}]})
    assert "no decision yet" in typed("explain", gateway).output


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("pause", ("/autoscaling/pause", {"pool": None})),
        ("resume --pool m", ("/autoscaling/resume", {"pool": "m"})),
        ("scale 3", ("/autoscaling/scale", {"pool": None, "replicas": 3})),
    ],
)
def test_orders_go_to_the_gateway_and_its_answer_is_printed(
    gateway: StandIn, words: str, asked: tuple[str, Any]
) -> None:
    """What holds now."""
    gateway.answer = (200, POOL | {"mode": "pinned", "pinned": 3})
    assert json.loads(typed(f"{words} --json", gateway).output)["pinned"] == 3
    gateway.asked.clear()
    assert typed(words, gateway).output == "m: pinned at 3\n"
    ((verb, path, said, _),) = gateway.asked
    assert (verb, path, said) == ("POST", *asked)


def test_a_key_is_read_from_its_file(gateway: StandIn, tmp_path: Path) -> None:
    """It stands in no process list."""
    file = tmp_path / "key"
    file.write_text("secret\n")
    typed(f"explain --key-file {file}", gateway)
    assert gateway.asked[0][3] == "Bearer secret"
    missing = typed(f"explain --key-file {tmp_path / 'none'}", gateway)
    assert (missing.exit_code, "can't be read" in missing.output) == (2, True)


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (400, {"error": {"message": "name one of a, b"}}, "name one of a, b"),
        (502, b"<html>", "status 502"),
        (200, b"<html>", "no gateway answers at"),
        (200, {"pools": []}, "no pool is autoscaled there; enable it"),
    ],
)
def test_what_goes_wrong_is_one_line_and_exit_code_2(
    gateway: StandIn, status: int, answer: Any, said: str
) -> None:
    """With the gateway's own words where it has some."""
    gateway.answer = (status, answer)
    found = typed("explain", gateway)
    assert (found.exit_code, said in found.output) == (2, True)


def test_an_unreachable_or_invalid_address_is_named_in_the_error() -> None:
    """And how to give another."""
    for admin in ("http://127.0.0.1:1", "file:///etc/passwd"):
        found = CliRunner().invoke(app, ["autoscale", "explain", "--admin", admin])
        assert (found.exit_code, "--admin" in found.output) == (2, True)


class TestRecording:
    """`autoscale record`."""

    @pytest.fixture
    def recorded(self, gateway: StandIn) -> StandIn:
        """A gateway that remembers three observations."""
        settings = {
            "min_replicas": 1,
            "max_replicas": 4,
            "tick_s": 5.0,
            "slo_s": 0.5,
            "fast_window_s": 10.0,
        }
        observations = [
            {
                "at": f"2026-11-23T09:00:{second:02}+00:00",
                "mode": "automatic",
                "planned": 2,
                "standby": 0,
                "seen": {"now": float(second), "ready": 2, "arriving_fast": None},
                "run": "first",
            }
            for second in (5, 10, 15)
        ]
        pool = {"name": "m", "settings": settings, "observations": observations}
        gateway.answer = 200, {"pools": [pool]}
        return gateway

    def test_what_the_gateway_remembers_is_kept_once(
        self, recorded: StandIn, tmp_path: Path
    ) -> None:
        """And can be read again; however often it is asked."""
        file = tmp_path / "day.jsonl"
        done = typed(f"record {file} --hours 0.0004 --every 1", recorded)
        assert done.exit_code == 0, done.output
        assert done.output.strip().endswith("3 observations of m")
        assert len(recorded.asked) > 1
        found = recording.read(file)
        assert [each.seen.now for each in found.lines] == [5.0, 10.0, 15.0]
        assert found.settings.max_replicas == 4

    def test_it_ends_at_its_size_with_whole_lines(self, recorded: StandIn, tmp_path: Path) -> None:
        """Not one byte more."""
        file = tmp_path / "day.jsonl"
        observations = recorded.answer[1]["pools"][0]["observations"]
        for place in range(200):
            at = f"2026-11-23T10:{place // 60:02}:{place % 60:02}+00:00"
            seen = {"now": 100.0 + place, "ready": 2}
            observations.append(observations[2] | {"at": at, "seen": seen})
        done = typed(f"record {file} --most-mb 0.01", recorded)
        assert done.exit_code == 0, done.output
        assert "as large as --most-mb 0.01 lets it be" in done.output
        assert 9_000 < file.stat().st_size <= 10_000
        assert len(recording.read(file).lines) > 3

    def test_restarts_and_clocks_that_are_set_lose_nothing(
        self, recorded: StandIn, tmp_path: Path
    ) -> None:
        """Each autumn the clock goes back for an hour; a new host counts its seconds anew."""
        file = tmp_path / "day.jsonl"
        told = recorded.answer[1]["pools"][0]
        first = told["observations"][-1]
        back = [
            first | {"at": "2026-11-23T08:00:00+00:00", "seen": {"now": now, "ready": 2}}
            for now in (20.0, 25.0)
        ]
        again = [
            first | {"run": "second", "seen": {"now": now, "ready": 2}} for now in (1.0, 6.0, 11.0)
        ]
        pool = Pool("m", msgspec.convert(told["settings"], recording.Settings), [])
        with Recorder(file, 100_000, pool) as kept:
            for seen in (told["observations"], [first, *back], back, again, again):
                kept.keep(msgspec.structs.replace(pool, observations=seen))
        found = recording.read(file)
        assert [each.seen.now for each in found.lines] == [5, 10, 15, 20, 25, 1, 6, 11]
        assert [each.begins for each in found.lines].count(True) == 2

    @pytest.mark.parametrize("ends", ["full", "interrupted"])
    def test_a_write_that_fails_leaves_whole_lines(
        self, recorded: StandIn, tmp_path: Path, ends: str
    ) -> None:
        """And one line says why, and how many there are."""
        file = tmp_path / "day.jsonl"
        told = recorded.answer[1]["pools"][0]
        pool = msgspec.convert(told, Pool)
        later = [
            told["observations"][-1] | {"seen": {"now": 20.0 + place, "ready": 2}}
            for place in range(50)
        ]
        with Recorder(file, 100_000, pool) as kept:
            kept.keep(pool)
            whole = file.read_bytes()
            kept.output.close()
            kept.output = Failing(file, ends)
            more = msgspec.structs.replace(pool, observations=later)
            if ends == "full":
                with pytest.raises(SetupError, match=r"No space left .*; 3 observations are kept"):
                    kept.keep(more)
            else:
                with pytest.raises(KeyboardInterrupt):
                    kept.keep(more)
        assert file.read_bytes() == whole

    @pytest.mark.parametrize(
        "answer", [[], {}, {"pools": {}}, {"pools": [{"name": "m"}]}, {"pools": [None]}]
    )
    def test_an_answer_of_another_service_is_reported_as_such(
        self, recorded: StandIn, answer: Any, tmp_path: Path
    ) -> None:
        recorded.answer = 200, answer
        done = typed(f"record {tmp_path / 'f'}", recorded)
        assert (done.exit_code, "answers with no observations" in done.output) == (2, True)
        assert not (tmp_path / "f").exists()

    def test_observations_that_could_not_be_read_again_are_refused(
        self, recorded: StandIn, tmp_path: Path
    ) -> None:
        """Of a gateway of another release, before a file is made."""
        recorded.answer[1]["pools"][0]["observations"][1]["seen"]["ready"] = "2"
        done = typed(f"record {tmp_path / 'f'}", recorded)
        assert (done.exit_code, (tmp_path / "f").exists()) == (2, False)
        assert "no observation: Expected `int`, got `str`" in done.output

    def test_what_can_not_be_recorded_is_refused_before_a_file_is_made(
        self, recorded: StandIn, tmp_path: Path
    ) -> None:
        """No pool, an unknown one, a file that is there."""
        file = tmp_path / "day.jsonl"
        done = typed(f"record {file} --pool other", recorded)
        assert (done.exit_code, file.exists()) == (2, False)
        assert "no pool other is autoscaled there; --pool names one of m" in done.output
        recorded.answer = 200, {"pools": []}
        assert "no pool is autoscaled there" in typed(f"record {file}", recorded).output
        file.write_text("mine", encoding="utf-8")
        recorded.answer = 200, {"pools": [{"name": "m", "settings": {}, "observations": []}]}
        assert typed(f"record {file} --hours 0", recorded).exit_code == 2
        assert file.read_text(encoding="utf-8") == "mine"


class Failing(FileIO):
    """A file whose disk is full after some bytes, or whose writer is interrupted."""

    def __init__(self, file: Path, ends: str) -> None:
        super().__init__(file, "r+")
        self.seek(0, SEEK_END)
        self._ends, self._left = ends, 100

    def write(self, data: Any) -> int:
        if not self._left:
            if self._ends == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise KeyboardInterrupt
        self._left, many = 0, self._left
        return super().write(bytes(data)[:many])


def test_explain_shows_what_other_ways_of_scaling_would_have_cost(gateway: StandIn) -> None:
    """In numbers, the one that is followed marked."""
    kept = {"utilisation": 0.75, "delay_s": 1800.0, "season": "", "replicas": 14.2, "late": 0.018}
    quick = {"utilisation": 0.95, "delay_s": 60.0, "season": "day", "replicas": 9.8, "late": 0.31}
    quick["promise_s"], kept["promise_s"] = 0.0, 3600.0
    told = [quick | {"followed": False}, kept | {"followed": True}]
    gateway.answer = (200, {"pools": [POOL | {"alternatives": told}]})
    lines = typed("explain", gateway).output.splitlines()
    first, second = (line.split() for line in lines[-2:])
    assert first == ["95%", "60", "s", "day", "9.80", "31.00%"]
    assert second == ["*", "75%", "1,800", "s", "3,600", "s", "14.20", "1.80%"]
    alike = [each | {"replicas": 1.0, "late": 0.0} for each in told]
    gateway.answer = (200, {"pools": [POOL | {"alternatives": alike}]})
    last = typed("explain", gateway).output.splitlines()[-1]
    assert last == "So far all 2 ways of scaling would have cost and served the same."
