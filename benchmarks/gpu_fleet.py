"""One replica per GPU behind the gateway: how much two GPUs do of what one does, twice.

    python -m benchmarks.gpu_fleet --size 4B --dtype bf16 --gpus 1 2 --out results.json
    python -m benchmarks.gpu_fleet --together 0.6B 4B  # two models on one GPU

Starts `embedfleet serve --replicas N` and sends it closed loops of requests, with twice as many
connections for twice as many GPUs. The gateway's cache is off: clients repeat themselves. Needs
GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.gpu_client import Load
from benchmarks.gpu_engine import (
    END_OF_TEXT,
    HERE,
    Workload,
    client,
    gpu_checkpoint_process,
    hardware,
    shares,
    summary,
)

from benchmarks import gpu_checkpoint

PORT: Final = 18_090
ADMIN_PORT: Final = 18_091
WARM_S: Final = 4.0
WORKLOADS: Final = (Workload(64, "128", 8), Workload(64, "32", 8), Workload(1, "32", 64))
"""Connections are those for one GPU."""


@contextmanager
def service(directories: list[Path], dtype: str, replicas: int, log: Path) -> Iterator[None]:
    """`embedfleet serve` with every replica of every model in traffic."""
    command = [sys.executable, "-m", "embedfleet", "serve", *map(str, directories)]
    command += ["--device", "cuda"]
    command += ["--dtype", dtype, "--replicas", str(replicas), "--port", str(PORT)]
    environment = os.environ | {
        "EMBEDFLEET_CACHE_MEMORY_MIB": "0",
        "EMBEDFLEET_GATEWAY_INPUT_IDS": "accept",
        "EMBEDFLEET_ADMIN_PORT": str(ADMIN_PORT),
    }
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        started = time.monotonic()
        while ready() < replicas * len(directories):
            if process.poll() is not None or time.monotonic() - started > 180:
                raise SystemExit(log.read_text()[-3000:])
            time.sleep(0.3)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)


def ready() -> int:
    """Replicas in traffic, as the gateway counts them."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN_PORT}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return 0
    state = 'state="ready"'
    rows = [line for line in lines if line.startswith("embedfleet_replica_state{")]
    return sum(1 for line in rows if state in line and line.endswith(" 1.0"))


def measure(workload: Workload, size: str, seconds: float) -> dict[str, Any]:
    begin_at = time.time() + WARM_S
    url, vocabulary = f"http://127.0.0.1:{PORT}/v1/embeddings", 150_000
    with tempfile.TemporaryDirectory() as folder:
        files, clients = [], []
        for seed, share in enumerate(shares(workload.connections)):
            load = Load(
                *(url, size, workload.texts, workload.tokens, share, seconds, seed, vocabulary),
                *(END_OF_TEXT, begin_at),
            )
            files.append(Path(folder) / f"{seed}.json")
            clients.append(client(load, files[-1]))
        for process in clients:
            process.wait(300)
        seen = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return summary(workload, seen, seconds)


def made(directory: Path) -> Path:
    """A model of the size that the directory is named for."""
    if not (directory / "model.safetensors").exists():
        gpu_checkpoint_process(directory.name, directory)
    return directory


def header() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "command": "python -m benchmarks.gpu_fleet " + " ".join(sys.argv[1:]),
    }


def memory_mib() -> int:
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.split()[0])


def together(given: argparse.Namespace) -> dict[str, Any]:
    """Models on one GPU: memory, rates of each alone and of all at once, and single queries of the
    first beside the others' load."""
    directories = [made(given.models / size) for size in given.together]
    load, query = Workload(64, "128", 8), Workload(1, "20", 1)
    found: dict[str, Any] = {}
    with (
        service(directories, given.dtype, 1, given.out.with_suffix(".log")),
        ThreadPoolExecutor() as threads,
    ):
        found["memory_ready_mib"] = memory_mib()
        for size in given.together:
            found[f"{size} alone"] = measure(load, size, given.seconds)
        found[f"{given.together[0]} query alone"] = measure(query, given.together[0], given.seconds)
        runs = {size: threads.submit(measure, load, size, given.seconds) for size in given.together}
        found |= {f"{size} at once": run.result() for size, run in runs.items()}
        others = [threads.submit(measure, load, size, given.seconds) for size in given.together[1:]]
        beside = measure(query, given.together[0], given.seconds)
        found[f"{given.together[0]} query beside the others"] = beside
        for other in others:
            other.result()
        found["memory_after_mib"] = memory_mib()
    for name, row in found.items():
        print(f"{name}: {row}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="4B", choices=gpu_checkpoint.GEOMETRIES)
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--gpus", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--together", nargs="+", help="these sizes on one GPU, instead")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--models", type=Path, default=Path("/dev/shm"))  # noqa: S108
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu_fleet.json")
    given = parser.parse_args()
    if given.together:
        report = header() | {"results": together(given)}
        given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        return
    directory = made(given.models / given.size)
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for gpus in given.gpus:
        with service([directory], given.dtype, gpus, given.out.with_suffix(".log")):
            for one in WORKLOADS:
                workload = Workload(one.texts, one.tokens, one.connections * gpus)
                row = measure(workload, given.size, given.seconds)
                results.setdefault(f"{one.texts}x{one.tokens}", {})[gpus] = row
                print(f"{gpus} GPUs {workload.name}: {row}", flush=True)
    report = header() | {"results": results}
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name, rows in results.items():
        first, last = (rows[gpus]["texts_s"] for gpus in (given.gpus[0], given.gpus[-1]))
        print(
            f"{name}: {last / first:.2f} times with {given.gpus[-1] / given.gpus[0]:g} times GPUs"
        )


if __name__ == "__main__":
    main()
