"""`embedfleet cache`: what is printed, and what is asked of a gateway."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from embedfleet.cli.cache import AT_ONCE, read_texts, requested
from embedfleet.cli.command_line import app
from embedfleet.vocabulary import SetupError
from tests.ports import free_port
from tests.service import Service

STATS = {
    "memory": {
        "texts": 2000,
        "bytes": 2**21,
        "most_bytes": 2**28,
        "hits": 3,
        "misses": 1,
        "evicted": 5,
    },
    "redis": {
        "state": "closed",
        "hits": 0,
        "misses": 0,
        "rejected": 1,
        "unasked": 2,
        "written": 7,
        "refused": 0,
        "unwritten": 0,
        "queued_bytes": 0,
    },
    "in_flight": 0,
    "shared": 4,
}


class Gateway(BaseHTTPRequestHandler):
    """An admin address that notes what it is asked."""

    asked: list[tuple[str, dict[str, str], Any]]

    def do_GET(self) -> None:
        self._answer(STATS)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        given: Any = json.loads(body) if body else None
        self.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}, given))
        if self.path == "/cache/clear":
            self._answer({"memory": 3, "redis": None})
        else:
            texts = len(given["input"])
            self._answer({}, f"hit=1; miss={texts - 1}")

    def _answer(self, body: object, cache: str = "") -> None:
        raw = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(raw)))
        if cache:
            self.send_header("x-embedfleet-cache", cache)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def admin() -> Iterator[str]:
    Gateway.asked = []
    with HTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def run(*words: str) -> str:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["cache", *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_stats_say_what_is_held_and_how_much_was_known(admin: str) -> None:
    shown = run("stats", "--admin", admin)
    assert "2,000 texts, 2.0 MiB of 256.0 MiB" in shown
    assert "3 of 4 texts known (75.0%), 5 evicted" in shown
    assert "connected (breaker closed), 7 written, 0 of 0 texts known" in shown
    assert json.loads(run("stats", "--json", "--admin", admin)) == STATS


def test_clearing_says_what_went_and_what_could_not(admin: str) -> None:
    assert run("clear", "--admin", admin) == "memory: 3 texts; Redis: could not be cleared\n"
    told = json.loads(run("clear", "--json", "--admin", admin))
    assert told == {"memory": 3, "redis": None}


def test_warming_asks_as_traffic_would(admin: str, tmp_path: Path) -> None:
    """The same fields make the same keys; people who wait go first."""
    file = tmp_path / "texts"
    file.write_text("".join(f"text {n}\n" for n in range(AT_ONCE + 6)))
    (tmp_path / "key").write_text("secret\n")
    chosen = ["--input-type", "query", "--key-file", str(tmp_path / "key")]
    shown = run("warm", str(file), "--model", "m", "--admin", admin, *chosen)
    assert shown == "70 texts: 2 known, 68 computed\n"
    Gateway.asked.clear()
    told = json.loads(run("warm", str(file), "--model", "m", "--json", "--admin", admin, *chosen))
    assert told == {"texts": 70, "known": 2, "computed": 68}
    (path, headers, first), (_, _, second) = Gateway.asked
    assert path == "/cache/warm"
    assert headers["x-embedfleet-lane"] == "bulk"
    assert headers["authorization"] == "Bearer secret"
    assert (first["model"], first["input_type"], len(first["input"])) == ("m", "query", AT_ONCE)
    assert second["input"] == [f"text {n}" for n in range(AT_ONCE, AT_ONCE + 6)]


def test_lines_are_texts_or_json(tmp_path: Path) -> None:
    plain, lines = tmp_path / "plain", tmp_path / "lines"
    plain.write_text("one\n\n  two \n[three]\n", encoding="utf-8")
    lines.write_text('"one"\n[1, 2]\n{"text": "长城"}\n{"input": [3]}\n', encoding="utf-8")
    assert read_texts(plain) == ["one", "  two ", "[three]"]
    assert read_texts(lines) == ["one", [1, 2], "长城", [3]]
    assert list(requested(read_texts(lines))) == [["one", "长城"], [[1, 2], [3]]]


@pytest.mark.parametrize("line", ["{", '{"question": "x"}', "[]", "[1.5]", "[true]"])
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "lines"
    file.write_text(f'"one"\n{line}\n')
    with pytest.raises(SetupError, match="lines, line 2: "):
        read_texts(file)


def test_a_gateway_that_is_not_there_is_said_in_one_line() -> None:
    admin = f"http://127.0.0.1:{free_port()}"
    done = CliRunner().invoke(app, ["cache", "stats", "--admin", admin])
    assert done.exit_code == 2
    assert "--admin says where it is" in done.stderr


@pytest.mark.slow
def test_a_real_service_is_warmed_once(service: Service, tmp_path: Path) -> None:
    """What was computed for an operator is found by traffic."""
    file = tmp_path / "texts"
    file.write_text("A boat is warmed.\nTwo boats are warmed.\n")
    with urllib.request.urlopen(f"{service.base_url}/models", timeout=60) as answer:  # noqa: S310
        model = json.load(answer)["data"][0]["id"]
    words = ["warm", str(file), "--model", model, "--admin", service.admin]
    assert run(*words) == "2 texts: 0 known, 2 computed\n"
    assert run(*words) == "2 texts: 2 known, 0 computed\n"
    body = json.dumps({"model": model, "input": "Two boats are warmed."}).encode()
    asked = urllib.request.Request(  # noqa: S310
        f"{service.base_url}/embeddings", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310
        assert answer.headers["x-embedfleet-cache"] == "hit=1; miss=0"
    assert "texts known" in run("stats", "--admin", service.admin)
