"""The CUDA engine over its replica's HTTP server, beside the limit and what vLLM did.

    python -m benchmarks.gpu_engine --sizes 4B --dtypes bf16 fp8 --out results.json
    python -m benchmarks.gpu_engine --rivals vllm   # and vLLM itself, where it is installed

Makes a model of the geometry with random weights, measures the sustained limit of its linear
layers, starts `embedfleet replica`, and sends it the workloads of the recording one after another:
token ids in, base64 out, clients in processes of their own on the same machine. Needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.gpu_client import Load

from benchmarks import gpu_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE: Final = Path(__file__).parent
PORT: Final = 18_080
WARM_S: Final = 2.0
"""From the start of the clients to the start of counting: bodies are made, connections opened."""
PROCESSES: Final = 4
END_OF_TEXT: Final = 0
"""Of the built-in model's tokenizer, which the random models have."""


@dataclass(frozen=True, slots=True)
class Workload:
    texts: int
    """In a request."""
    tokens: str
    connections: int
    beside_tokens: int = 0
    """Of a text that is always in flight beside it, on a connection of its own."""

    @property
    def name(self) -> str:
        beside = f" beside {self.beside_tokens}" if self.beside_tokens else ""
        return f"{self.texts}x{self.tokens}, {self.connections}{beside}"


WORKLOADS: Final = (
    Workload(1, "32", 64),
    Workload(1, "32", 256),
    Workload(64, "32", 8),
    Workload(256, "32", 4),
    Workload(64, "128", 8),
    Workload(16, "512", 8),
    Workload(4, "2048", 8),
    Workload(32, "mixed", 8),
    Workload(1, "16", 1),
    Workload(1, "32768", 1),
    Workload(1, "20", 1, beside_tokens=32_768),
)


def measure(workload: Workload, model: str, vocabulary: int, seconds: float) -> dict[str, Any]:
    """Run a workload; what its clients saw, and what the replica says of that time."""
    begin_at = time.time() + WARM_S
    loads = [
        _load(workload.texts, workload.tokens, share, model, vocabulary, seconds, begin_at, seed)
        for seed, share in enumerate(shares(workload.connections))
    ]
    if workload.beside_tokens:
        length = str(workload.beside_tokens)
        loads.append(_load(1, length, 1, model, vocabulary, seconds, begin_at, 99))
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.json" for number in range(len(loads))]
        clients = [client(load, file) for load, file in zip(loads, files, strict=True)]
        time.sleep(max(0.0, begin_at - time.time()))
        before = scraped()
        time.sleep(seconds / 2)
        state = scraped()
        time.sleep(max(0.0, begin_at + seconds - time.time()))
        after = scraped()
        for process in clients:
            process.wait(300)
        seen = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    if workload.beside_tokens:
        seen.pop()
    return summary(workload, seen, seconds) | _of_replica(before, state, after)


def client(load: Load, result: Path) -> subprocess.Popen[bytes]:
    arguments = [json.dumps(asdict(load)), str(result)]
    return subprocess.Popen([sys.executable, "-m", "benchmarks.gpu_client", *arguments])


def _load(
    texts: int,
    tokens: str,
    connections: int,
    model: str,
    vocabulary: int,
    seconds: float,
    begin_at: float,
    seed: int,
) -> Load:
    url = f"http://127.0.0.1:{PORT}/v1/embeddings"
    return Load(
        *(url, model, texts, tokens, connections, seconds, seed, vocabulary, END_OF_TEXT, begin_at)
    )


def shares(connections: int) -> list[int]:
    count = min(PROCESSES, connections)
    return [connections // count + (number < connections % count) for number in range(count)]


def summary(workload: Workload, seen: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    latencies = sorted(each * 1e3 for one in seen for each in one["latencies_s"])
    if not latencies:
        return {"texts_s": 0.0, "tokens_s": 0.0, "failed": sum(one["failed"] for one in seen)}
    # Requests that take a good part of the time are counted by how long they took.
    rate = (
        len(latencies) / seconds
        if len(latencies) > 20 * workload.connections
        else workload.connections * len(latencies) / (sum(latencies) / 1e3)
    )
    tokens = sum(one["tokens"] for one in seen) / len(latencies)
    return {
        "requests": len(latencies),
        "texts_s": rate * workload.texts,
        "tokens_s": rate * tokens,
        "p50_ms": latencies[len(latencies) // 2],
        "p99_ms": latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))],
        "failed": sum(one["failed"] for one in seen),
    }


def _of_replica(
    before: dict[str, float], state: dict[str, float], after: dict[str, float]
) -> dict[str, Any]:
    gained = {name: after[name] - before.get(name, 0.0) for name in after}
    batches = gained.get("replica_batch_tokens_count", 0.0) or 1.0
    texts = gained.get("replica_queue_seconds_count", 0.0) or 1.0
    return {
        "batch_texts": gained.get("replica_batch_texts_sum", 0.0) / batches,
        "batch_tokens": gained.get("replica_batch_tokens_sum", 0.0) / batches,
        "padding_share": gained.get("replica_padding_tokens_total", 0.0)
        / (gained.get("replica_tokens_total", 0.0) or 1.0),
        "queue_ms": 1e3 * gained.get("replica_queue_seconds_sum", 0.0) / texts,
        "prepare_ms": 1e3 * gained.get("replica_prepare_seconds_sum", 0.0) / batches,
        "compute_ms": 1e3 * gained.get("replica_compute_seconds_sum", 0.0) / batches,
        "processor_share": gained.get("process_cpu_seconds_total", 0.0),
    } | of_gpu(state)


def of_gpu(state: dict[str, float]) -> dict[str, float | None]:
    """What the driver told; None where it told nothing, as NaN is no JSON."""
    busy = state.get("replica_gpu_busy_ratio", nan)
    power = state.get("replica_gpu_power_watts", nan)
    memory = state.get("replica_gpu_memory_used_bytes", nan) / 1e9
    told = {"gpu_busy": busy, "gpu_power_w": power, "gpu_memory_gb": memory}
    return {name: None if isnan(value) else value for name, value in told.items()}


def scraped() -> dict[str, float]:
    """The replica's figures without labels, by name without our prefix."""
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    rows = re.findall(r"^([a-z_]+) ([0-9.e+-]+|NaN)$", text, re.MULTILINE)
    return {name.removeprefix("embedfleet_"): float(value) for name, value in rows}


def replica(directory: Path, dtype: str, log: Path) -> AbstractContextManager[float]:
    """A replica that is ready; gives the seconds that took."""
    command = [sys.executable, "-m", "embedfleet", "replica", str(directory)]
    command += ["--device", "cuda", "--dtype", dtype.partition("-")[0], "--port", str(PORT)]
    environment = {}
    if dtype.endswith("-deterministic"):
        environment["EMBEDFLEET_ENGINE_DETERMINISTIC"] = "true"
    return serving(command, environment, "/health/ready", log)


def vllm(directory: Path, dtype: str, log: Path) -> AbstractContextManager[float]:
    """The rival with its fastest settings for these loads; vLLM must be installed here."""
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(directory)]
    command += ["--served-model-name", directory.name, "--port", str(PORT)]
    command += ["--runner", "pooling", "--dtype", "bfloat16", "--attention-backend", "FLASH_ATTN"]
    command += ["--max-model-len", "32768", "--max-num-batched-tokens", "32768"]
    command += ["--max-num-seqs", "1024", "--no-enable-prefix-caching", "--api-server-count", "4"]
    if dtype == "fp8":
        command += ["--quantization", "fp8"]
    return serving(command, {"VLLM_USE_FLASHINFER_SAMPLER": "0"}, "/health", log)


SERVERS: Final = {"embedfleet": replica, "vllm": vllm}


@contextmanager
def serving(
    command: list[str], environment: dict[str, str], ready: str, log: Path
) -> Iterator[float]:
    """A server on PORT whose path `ready` answers; gives the seconds that took."""
    started = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | environment
        )
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{ready}", timeout=5):
                    break
            except OSError:
                if process.poll() is not None or time.monotonic() - started > 180:
                    raise SystemExit(log.read_text()[-2000:]) from None
                time.sleep(0.2)
        yield time.monotonic() - started
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def limit(size: str, dtype: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_limit", size, dtype.partition("-")[0]],
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


HEADINGS: Final = (
    f"{'texts x tokens, connections':30} {'texts/s':>8} {'tok/s':>9} {'p50 ms':>8} {'p99 ms':>8} "
    f"{'limit':>6} {'vLLM':>7} {'batch':>6} {'pad':>5} {'cpu':>5} {'W':>4}"
)


def shown(size: str, dtype: str, result: dict[str, Any], rivals: dict[str, Any]) -> str:
    best = max(result["limit_tokens_s"].values())
    lines = [
        f"{size} {dtype}: ready after {result['ready_s']:.1f} s; linear layers alone "
        + ", ".join(f"{int(n):,}: {v:,.0f}" for n, v in result["limit_tokens_s"].items())
        + " tok/s",
        HEADINGS,
    ]
    for name, row in result["workloads"].items():
        rival = rivals.get(dtype, {}).get(name, {}) if size == "4B" else {}
        ratio = f"{row['tokens_s'] / rival['tokens_s']:.2f}x" if "tokens_s" in rival else ""
        lines.append(
            f"{name:30} {row['texts_s']:8,.1f} {row['tokens_s']:9,.0f} {row.get('p50_ms', 0):8.1f} "
            f"{row.get('p99_ms', 0):8.1f} {row['tokens_s'] / best:6.0%} {ratio:>7} "
            f"{row['batch_tokens']:6.0f} {row['padding_share']:5.0%} "
            f"{row['processor_share'] / result['seconds']:5.2f} {watts(row['gpu_power_w']):>4}"
            + (f"  FAILED {row['failed']}" if row["failed"] else "")
        )
    return "\n".join(lines)


def watts(power_w: float | None) -> str:
    return "-" if power_w is None else f"{power_w:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["4B"], choices=gpu_checkpoint.GEOMETRIES)
    parser.add_argument("--dtypes", nargs="+", default=["bf16", "fp8"])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--only", nargs="*", help="names of workloads, for instance '64x32, 8'")
    parser.add_argument("--rivals", nargs="*", default=[], choices=["vllm"])
    parser.add_argument("--models", type=Path, default=Path("/dev/shm"))  # noqa: S108
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu_engine.json")
    given = parser.parse_args()
    rivals = json.loads((HERE / "gpu_vllm.json").read_text(encoding="utf-8"))
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "command": "python -m benchmarks.gpu_engine " + " ".join(sys.argv[1:]),
        "rival": rivals,
        "results": {},
    }
    for size in given.sizes:
        geometry, directory = gpu_checkpoint.GEOMETRIES[size], given.models / size
        if not (directory / "model.safetensors").exists():
            gpu_checkpoint_process(size, directory)
        for dtype in given.dtypes:
            limits = limit(size, dtype)
            for server in ("embedfleet", *given.rivals):
                result: dict[str, Any] = {"limit_tokens_s": limits, "workloads": {}}
                result["seconds"] = given.seconds
                log = given.out.with_suffix(".log")
                with SERVERS[server](directory, dtype, log) as ready_s:
                    result["ready_s"] = ready_s
                    for workload in WORKLOADS:
                        if not given.only or workload.name in given.only:
                            row = measure(workload, size, geometry.vocabulary, given.seconds)
                            result["workloads"][workload.name] = row
                name = f"{size} {dtype}" + f" {server}" * (server != "embedfleet")
                report["results"][name] = result
                given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
                print(server, shown(size, dtype, result, rivals), flush=True)


def gpu_checkpoint_process(size: str, directory: Path) -> None:
    """In a process of its own, which gives the GPU back."""
    command = [sys.executable, "-m", "benchmarks.gpu_checkpoint", size, str(directory)]
    subprocess.run(command, check=True)


def hardware() -> str:
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    gpus = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode().strip()
    return f"{gpus.replace(chr(10), '; ')}; {os.cpu_count()} processors; Python {sys.version[:6]}"


if __name__ == "__main__":
    main()
