"""The servers that the benchmarks of a GPU compare: their commands, and having them run together.

Several fit on one GPU. They start at the same time and are measured in turns, so that whatever else
the machine does meets all of them; those that are not measured are idle.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

OURS: Final = "embedfleet"
FIRST_PORT: Final = 18_080
READY_S: Final = 280.0
"""Until a server must answer: vLLM compiles its graphs first."""
RIVAL_CACHE_GIB: Final = 10
"""Of keys and values: two passes of 32,768 tokens of the 4B or 8B, and what one of these leaves."""
VLLM_SCORES: Final = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "is_original_qwen3_reranker": True,
}
"""What vLLM's documentation wants overridden in the config of Qwen3-Reranker."""


@dataclass(frozen=True, slots=True, eq=False)
class Server:
    """One to start."""

    name: str
    """As it is called in tables, for instance `vllm fp8`."""
    port: int
    command: Sequence[str]
    ready_path: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def replica(directory: Path, dtype: str, port: int = FIRST_PORT) -> Server:
    """Our own; `dtype` may end with `-deterministic`."""
    command = [sys.executable, "-m", "embedfleet", "replica", str(directory)]
    command += ["--device", "cuda", "--dtype", dtype.partition("-")[0], "--port", str(port)]
    environment = {}
    if dtype.endswith("-deterministic"):
        environment["EMBEDFLEET_ENGINE_DETERMINISTIC"] = "true"
    return Server(f"{OURS} {dtype}", port, command, "/health/ready", environment)


def vllm(
    directory: Path,
    dtype: str,
    port: int,
    *,
    prefix_caching: bool = False,
    answers: tuple[str, str] | None = None,
) -> Server:
    """The rival vLLM with its fastest settings for these loads.

    It must be installed here, or in the folder that `VLLM_SITE` names.
    With `answers`, the tokens of "no" and "yes", it reranks. Its memory is told in bytes: measuring
    what is free, as it does otherwise, fails beside servers that start at the same time.
    """
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(directory)]
    command += ["--served-model-name", directory.name, "--port", str(port)]
    command += ["--runner", "pooling", "--dtype", "bfloat16", "--attention-backend", "FLASH_ATTN"]
    command += ["--max-model-len", "32768", "--max-num-batched-tokens", "32768"]
    command += ["--max-num-seqs", "1024", "--api-server-count", "4"]
    command += ["--gpu-memory-utilization", "0.1"]
    command += ["--kv-cache-memory-bytes", str(RIVAL_CACHE_GIB << 30)]
    command += [f"--{'' if prefix_caching else 'no-'}enable-prefix-caching"]
    if dtype == "fp8":
        command += ["--quantization", "fp8"]
    if answers is not None:
        overrides = VLLM_SCORES | {"classifier_from_token": list(answers)}
        command += ["--hf-overrides", json.dumps(overrides)]
    environment = {"VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_NO_USAGE_STATS": "1"}
    if "VLLM_SITE" in os.environ:
        environment["PYTHONPATH"] = os.environ["VLLM_SITE"]
    name = f"vllm {dtype}" + " prefix-caching" * prefix_caching
    return Server(name, port, command, "/health", environment)


def sglang(
    directory: Path,
    dtype: str,
    port: int,
    *,
    prefix_caching: bool = False,
    answers: tuple[str, str] | None = None,
) -> Server:
    """The rival SGLang with its fastest settings for embeddings.

    It must be installed here, or in the folder that `SGLANG_SITE` names. Texts are computed whole
    and no keys or values are stored, which its documentation recommends for embeddings; passes of
    up to 4,096 tokens are CUDA graphs. One process tokenises: with `--tokenizer-worker-num 4`,
    0.5.17 ends at its first embedding, as a batch of embeddings has no `retraction_counts`.

    Raises:
        ValueError: For a reranker, or with a prefix cache: embeddings alone are compared.
    """
    if prefix_caching or answers is not None:
        raise ValueError("SGLang is compared for embeddings alone, without its prefix cache")
    command = [sys.executable, "-m", "sglang.launch_server", "--model-path", str(directory)]
    command += ["--served-model-name", directory.name, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--is-embedding", "--dtype", "bfloat16", "--attention-backend", "fa3"]
    command += ["--disable-radix-cache", "--chunked-prefill-size", "-1"]
    command += ["--prefill-only-disable-kv-cache", "--mem-fraction-static", "0.2"]
    # A text must be shorter than the context, which is that of the 0.6B otherwise.
    command += ["--context-length", "33024", "--max-prefill-tokens", "33024"]
    command += ["--max-running-requests", "1024"]
    command += ["--cuda-graph-backend-decode", "disabled", "--cuda-graph-max-bs-prefill", "4096"]
    command += ["--mm-feature-transport", "cpu"]
    if dtype == "fp8":
        command += ["--quantization", "fp8"]
    environment = {"SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN": "1"}
    if "SGLANG_SITE" in os.environ:
        environment["PYTHONPATH"] = os.environ["SGLANG_SITE"]
    return Server(f"sglang {dtype}", port, command, "/health", environment)


RIVALS: Final = {"vllm": vllm, "sglang": sglang}
RERANKING_RIVALS: Final = {"vllm": vllm}


@contextmanager
def running(
    servers: Sequence[Server], logs: Path, *, ready_s: float = READY_S
) -> Iterator[dict[Server, float]]:
    """Those that got ready, and the seconds each took; all are stopped at the end.

    Our own start first, each alone; the others start together after them, which costs them some
    seconds. One that fails is reported and left out. Logs go to files in `logs`.
    """
    logs.mkdir(parents=True, exist_ok=True)
    alone = [each for each in servers if each.name.startswith(OURS)]
    together = [each for each in servers if each not in alone]
    processes: dict[Server, subprocess.Popen[bytes]] = {}
    ready: dict[Server, float] = {}
    try:
        for group in (*[[each] for each in alone], together):
            for server in group:
                processes[server] = _started(server, logs)
            ready |= _ready({each: processes[each] for each in group}, logs, ready_s)
        yield {each: ready[each] for each in servers if each in ready}
    finally:
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        for process in processes.values():
            _ended(process)


def _log(server: Server, logs: Path) -> Path:
    return logs / f"{server.name.replace(' ', '-')}-{server.port}.log"


def _started(server: Server, logs: Path) -> subprocess.Popen[bytes]:
    with _log(server, logs).open("ab") as output:
        return subprocess.Popen(
            server.command,
            stdout=output,
            stderr=output,
            env=os.environ | server.environment,
            start_new_session=True,
        )


def _ready(
    processes: dict[Server, subprocess.Popen[bytes]], logs: Path, ready_s: float
) -> dict[Server, float]:
    started = time.monotonic()
    waiting, ready = dict(processes), {}
    while waiting:
        for server, process in list(waiting.items()):
            after_s = time.monotonic() - started
            if _answers(server):
                ready[server] = after_s
            elif process.poll() is None and after_s < ready_s:
                continue
            else:
                tail = _log(server, logs).read_text(errors="replace")[-3000:]
                print(f"{server.name} did not start in {after_s:.0f} s:\n{tail}", file=sys.stderr)
            del waiting[server]
        time.sleep(0.1)
    return ready


def _answers(server: Server) -> bool:
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{server.port}{server.ready_path}", timeout=2
        ):
            return True
    except OSError:
        return False


def _ended(process: subprocess.Popen[bytes]) -> None:
    """Wait for it; its group is killed when it takes long, or leaves processes behind."""
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def scraped(server: Server) -> dict[str, float]:
    """A server's figures without labels, by name without our prefix; none of one that has none."""
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{server.port}/metrics", timeout=30
        ) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    rows = re.findall(r"^([a-z_]+) ([0-9.e+-]+|NaN)$", text, re.MULTILINE)
    return {name.removeprefix("embedfleet_"): float(value) for name, value in rows}
