"""Servers that a benchmark of a GPU has running together."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmarks.gpu_servers import FIRST_PORT, Server, replica, running, scraped, sglang, vllm

from tests.ports import free_port

ANSWERING = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'embedfleet_replica_tokens_total 7.0\\nother{a="b"} 1\\nup NaN\\n')
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def server(name: str, script: str = ANSWERING) -> Server:
    port = free_port()
    return Server(name, port, [sys.executable, "-c", script, str(port)], "/health")


def test_a_server_that_does_not_start_is_left_out_and_the_others_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, rival = server("embedfleet bf16"), server("vllm bf16")
    broken = server("vllm fp8", "raise SystemExit('no such device')")
    with running([rival, broken, ours], tmp_path) as ready:
        assert list(ready) == [rival, ours]
        assert scraped(rival)["replica_tokens_total"] == 7
    assert "no such device" in capsys.readouterr().err
    assert not scraped(ours)


def test_a_server_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    slow = server("vllm bf16", "import time; time.sleep(600)")
    with running([slow], tmp_path, ready_s=0.1) as ready:
        assert not ready


def test_our_replica_is_told_to_be_deterministic_by_the_environment() -> None:
    made = replica(Path("4B"), "fp8-deterministic")
    assert made.environment == {"EMBEDFLEET_ENGINE_DETERMINISTIC": "true"}
    assert made.command[-4:] == ["--dtype", "fp8", "--port", str(FIRST_PORT)]


def test_vllm_reranks_by_the_overrides_of_its_documentation() -> None:
    made = vllm(Path("r"), "fp8", 1, prefix_caching=True, answers=("no", "yes"))
    overrides = json.loads(made.command[made.command.index("--hf-overrides") + 1])
    assert overrides["classifier_from_token"] == ["no", "yes"]
    assert {"--quantization", "--enable-prefix-caching"} <= set(made.command)
    assert "--no-enable-prefix-caching" in vllm(Path("r"), "bf16", 1).command


def test_sglang_keeps_no_keys_for_embeddings_and_is_found_where_its_variable_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SGLANG_SITE", "/opt/sglang")
    made = sglang(Path("models/0.6B"), "fp8", 7)
    assert made.environment["PYTHONPATH"] == "/opt/sglang"
    assert made.command[made.command.index("--served-model-name") + 1] == "0.6B"
    assert {"--is-embedding", "--prefill-only-disable-kv-cache"} <= set(made.command)
    assert made.command[-2:] == ["--quantization", "fp8"]
    assert "--quantization" not in sglang(Path("r"), "bf16", 7).command


def test_sglang_is_refused_as_a_reranker() -> None:
    with pytest.raises(ValueError, match="embeddings alone"):
        sglang(Path("r"), "bf16", 7, answers=("no", "yes"))
