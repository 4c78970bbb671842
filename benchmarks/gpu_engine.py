"""The CUDA engine over its replica's HTTP server, beside the limit and its rivals.

    python -m benchmarks.gpu_engine --sizes 4B --dtypes bf16 fp8 --out results.json
    python -m benchmarks.gpu_engine --rivals vllm sglang  # and rivals, where they are installed

Makes a model of the geometry with random weights, measures the sustained limit of its linear
layers, starts `embedfleet replica`, one for each type of numbers, and the rivals beside them, and
sends each workload to each in turn: token ids in, base64 out, clients in processes of their own on
the same machine. Without rivals the table shows what `gpu_vllm.json` recorded. Needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import isnan, nan
from pathlib import Path
from typing import Any, Final

from benchmarks.gpu_client import Load
from benchmarks.gpu_servers import FIRST_PORT, RIVALS, Server, replica, running, scraped

from benchmarks import gpu_checkpoint

HERE: Final = Path(__file__).parent
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


def measure(
    server: Server, workload: Workload, model: str, vocabulary: int, seconds: float
) -> dict[str, Any]:
    """Run a workload; what its clients saw, and what the server says of that time."""
    url = f"{server.url}/v1/embeddings"
    begin_at = time.time() + WARM_S
    loads = [
        _load(
            url, workload.texts, workload.tokens, share, model, vocabulary, seconds, begin_at, seed
        )
        for seed, share in enumerate(shares(workload.connections))
    ]
    if workload.beside_tokens:
        length = str(workload.beside_tokens)
        loads.append(_load(url, 1, length, 1, model, vocabulary, seconds, begin_at, 99))
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.json" for number in range(len(loads))]
        clients = [client(load, file) for load, file in zip(loads, files, strict=True)]
        time.sleep(max(0.0, begin_at - time.time()))
        before = scraped(server)
        time.sleep(seconds / 2)
        state = scraped(server)
        time.sleep(max(0.0, begin_at + seconds - time.time()))
        after = scraped(server)
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
    url: str,
    texts: int,
    tokens: str,
    connections: int,
    model: str,
    vocabulary: int,
    seconds: float,
    begin_at: float,
    seed: int,
) -> Load:
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


def limit(size: str, dtype: str, tokens: Sequence[str] = ()) -> dict[str, float]:
    """Tokens/s of the linear layers alone, by the number of tokens at once."""
    command = [sys.executable, "-m", "benchmarks.gpu_limit", size, dtype.partition("-")[0]]
    done = subprocess.run([*command, *tokens], stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


HEADINGS: Final = (
    f"{'texts x tokens, connections':30} {'texts/s':>8} {'tok/s':>9} {'p50 ms':>8} {'p99 ms':>8} "
    f"{'limit':>6} {'vLLM':>7} {'batch':>6} {'pad':>5} {'cpu':>5} {'W':>4}"
)


def shown(size: str, name: str, result: dict[str, Any], rivals: dict[str, Any]) -> str:
    """The table of one server, beside the rival's rows where there are some."""
    best = max(result["limit_tokens_s"].values(), default=nan)
    lines = [
        f"{size} {name}: ready after {result['ready_s']:.1f} s; linear layers alone "
        + ", ".join(f"{int(n):,}: {v:,.0f}" for n, v in result["limit_tokens_s"].items())
        + " tok/s",
        HEADINGS,
    ]
    for workload, row in result["workloads"].items():
        rival = rivals.get(workload, {})
        ratio = f"{row['tokens_s'] / rival['tokens_s']:.2f}x" if rival.get("tokens_s") else ""
        lines.append(
            f"{workload:30} {row['texts_s']:8,.1f} {row['tokens_s']:9,.0f} "
            f"{row.get('p50_ms', 0):8.1f} "
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
    parser.add_argument("--rivals", nargs="*", default=[], choices=list(RIVALS))
    parser.add_argument("--limit-tokens", nargs="*", default=["2048", "8192", "16384"])
    parser.add_argument("--models", type=Path, default=Path("/dev/shm"))  # noqa: S108
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu_engine.json")
    given = parser.parse_args()
    recorded = json.loads((HERE / "gpu_vllm.json").read_text(encoding="utf-8"))
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "command": "python -m benchmarks.gpu_engine " + " ".join(sys.argv[1:]),
        "results": {},
    }
    if not given.rivals:
        report["rival"] = recorded
    for size in given.sizes:
        directory = given.models / size
        if not (directory / "model.safetensors").exists():
            gpu_checkpoint_process(size, directory)
        limits = {dtype: limit(size, dtype, given.limit_tokens) for dtype in given.dtypes}
        servers = {
            server: dtype for dtype in given.dtypes for server in _servers(given, directory, dtype)
        }
        with running(list(servers), given.out.with_suffix("")) as ready:
            report["commands"] = {server.name: list(server.command) for server in ready}
            results = {
                server: {
                    "ready_s": ready_s,
                    "seconds": given.seconds,
                    "limit_tokens_s": limits[servers[server]],
                    "workloads": {},
                }
                for server, ready_s in ready.items()
            }
            report["results"] |= {f"{size} {each.name}": found for each, found in results.items()}
            for workload in WORKLOADS:
                if given.only and workload.name not in given.only:
                    continue
                for server, result in results.items():
                    row = measure(
                        *(server, workload, size),
                        gpu_checkpoint.GEOMETRIES[size].vocabulary,
                        given.seconds,
                    )
                    result["workloads"][workload.name] = row
                    print(size, server.name, workload.name, json.dumps(row), flush=True)
                given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        for server, result in results.items():
            dtype = servers[server]
            rival = next(
                (found for each, found in results.items() if each.name == f"vllm {dtype}"), None
            )
            rows = rival["workloads"] if rival else recorded.get(dtype, {}) if size == "4B" else {}
            print(shown(size, server.name, result, rows), flush=True)


def _servers(given: argparse.Namespace, directory: Path, dtype: str) -> Iterator[Server]:
    """Ours and the rivals of one type of numbers, each on a port of its own."""
    first = FIRST_PORT + given.dtypes.index(dtype) * (1 + len(RIVALS))
    yield replica(directory, dtype, first)
    for number, rival in enumerate(given.rivals, 1):
        yield RIVALS[rival](directory, dtype, first + number)


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
