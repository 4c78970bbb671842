"""The whole service on one GPU: text in, tokenised and encoded by the gateway's workers.

    python -m benchmarks.gpu_service --size 0.6B --dtypes bf16 fp8 --workers 1 4 6 --out FILE

Starts `embedfleet serve` with one replica and sends it what applications send: texts of 32 tokens,
one in a request and 64, and single queries beside large requests. wrk is the load, with thousands
of different bodies; the cache is off. With `--bulk ROWS`, `embedfleet bulk` embeds a file of so
many other texts into another file afterwards. Needs a GPU, and wrk.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.gateway_load import RESULT_LUA
from benchmarks.gpu_engine import HERE, gpu_checkpoint_process, hardware

from benchmarks import gpu_checkpoint

PORT: Final = 18_100
ADMIN_PORT: Final = 18_101
TOKENS: Final = 32
BODIES: Final = 4096
"""Different requests; equal texts in flight would be computed once."""

SCRIPT: Final = """local bodies = {}
for line in io.lines("%s") do bodies[#bodies + 1] = line end
local number = 0
local threads = 0
function setup(thread)
  thread:set("begin", threads * 977)
  threads = threads + 1
end
function init(args)
  number = begin
end
function request()
  number = number + 1
  local headers = {["Content-Type"] = "application/json", ["x-embedfleet-lane"] = "%s"}
  return wrk.format("POST", "%s", headers,
    bodies[number %% #bodies + 1])
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """One closed loop."""

    texts: int
    connections: int
    threads: int = 4
    form: str = "base64"
    lane: str = "interactive"


@dataclass(frozen=True, slots=True)
class Seen:
    texts_s: float
    p50_ms: float
    p99_ms: float
    failed: int


def words(dice: random.Random, count: int) -> str:
    """A text of `count` tokens for the built-in model's tokenizer, the end token included."""
    return " ".join(dice.choices(WORDS, k=count - 1))


WORDS: Final = (
    *("the", "of", "and", "to", "in", "is", "that", "for", "was", "on", "with", "he", "it", "as"),
    *("at", "by", "from", "his", "an", "were", "are", "which", "this", "also", "be", "had", "or"),
    *("has", "first", "their", "one", "its", "new", "after", "but", "who", "not", "they", "have"),
)


def bodies(load: Load, place: Path) -> Path:
    path = place / f"{load.texts}-{load.form}.jsonl"
    if not path.exists():
        dice = random.Random(load.texts)
        count = max(64, BODIES // load.texts)
        lines = []
        for _ in range(count):
            texts = [words(dice, TOKENS) for _ in range(load.texts)]
            body = {"model": "bench", "input": texts, "encoding_format": load.form}
            lines.append(json.dumps(body))
        path.write_text("\n".join(lines) + "\n")
    return path


def started(load: Load, place: Path, seconds: float) -> subprocess.Popen[str]:
    script = place / f"{load.texts}-{load.form}-{load.connections}-{load.lane}.lua"
    script.write_text(
        SCRIPT % (bodies(load, place), load.lane, "/v1/embeddings") + RESULT_LUA.replace("%%", "%")
    )
    command = ["wrk", f"-t{min(load.threads, load.connections)}", f"-c{load.connections}"]
    command += [f"-d{seconds:g}s", "--timeout", "60s", "-s", str(script)]
    return subprocess.Popen(
        [*command, f"http://127.0.0.1:{PORT}"], stdout=subprocess.PIPE, text=True
    )


def result(process: subprocess.Popen[str], load: Load) -> Seen:
    output = process.communicate()[0]
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", output)
    if found is None:
        raise RuntimeError(output)
    requests, micros, p50, p99, errors = map(int, found.groups())
    return Seen(requests * load.texts / (micros / 1e6), p50 / 1e3, p99 / 1e3, errors)


@contextmanager
def service(directory: Path, dtype: str, workers: int, log: Path) -> Iterator[float]:
    """`embedfleet serve` whose replica is in traffic; gives the seconds that took."""
    command = [sys.executable, "-m", "embedfleet", "serve", str(directory), "--device", "cuda"]
    command += ["--dtype", dtype, "--replicas", "1", "--port", str(PORT), "--served-name", "bench"]
    environment = os.environ | {
        "EMBEDFLEET_CACHE_MEMORY_MIB": "0",
        "EMBEDFLEET_ADMIN_PORT": str(ADMIN_PORT),
        "EMBEDFLEET_GATEWAY_WORKERS": str(workers),
    }
    begun = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        while not ready():
            if process.poll() is not None or time.monotonic() - begun > 180:
                raise SystemExit(log.read_text()[-3000:])
            time.sleep(0.2)
        yield time.monotonic() - begun
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)


def ready() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health/ready", timeout=5):
            return True
    except OSError:
        return False


def processor_s() -> dict[str, float]:
    """Seconds of processor time of our processes, by what they are."""
    found: dict[str, float] = {}
    ticks = os.sysconf("SC_CLK_TCK")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if "embedfleet" in line:
            kind = next((kind for kind in ("replica", "worker") if kind in line), "gateway")
            name = f"{kind} {folder.name}"
            found[name] = (int(fields[11]) + int(fields[12])) / ticks
    return found


def measure(load: Load, place: Path, seconds: float) -> dict[str, Any]:
    warm = started(load, place, 2)  # wrk takes whole seconds
    warm.communicate()
    before = processor_s()
    seen = result(started(load, place, seconds), load)
    cores = {
        name: round((used - before.get(name, 0.0)) / seconds, 2)
        for name, used in processor_s().items()
        if used - before.get(name, 0.0) > 0.02 * seconds
    }
    return {
        "texts_s": round(seen.texts_s),
        "p50_ms": seen.p50_ms,
        "p99_ms": seen.p99_ms,
        "failed": seen.failed,
        "cores": cores,
    }


def beside(place: Path, seconds: float) -> dict[str, Any]:
    """Single queries alone, and beside requests of 64 in their own lane and in the bulk lane."""
    query = Load(1, 1, 1)
    alone = result(started(query, place, seconds), query)
    rows: dict[str, Any] = {"alone_p50_ms": alone.p50_ms, "alone_p99_ms": alone.p99_ms}
    for lane in ("interactive", "bulk"):
        large = Load(64, 16, lane=lane)
        crowd = started(large, place, seconds + 2)
        time.sleep(1)
        busy = result(started(query, place, seconds), query)
        others = result(crowd, large)
        rows[f"beside_{lane}"] = {
            "p50_ms": busy.p50_ms,
            "p99_ms": busy.p99_ms,
            "others_texts_s": round(others.texts_s),
        }
    return rows


def bulk(place: Path, rows: int, url: str) -> dict[str, Any]:
    """What `embedfleet bulk` does from a file of JSON lines to NumPy's files."""
    dice = random.Random(rows)
    source = place / "corpus.jsonl"
    with source.open("w") as file:
        for number in range(rows):
            file.write(json.dumps({"text": f"{number} {words(dice, TOKENS - 6)}"}) + "\n")
    began = time.monotonic()
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "embedfleet",
        "bulk",
        source,
        place / "vectors",
    ]
    done = subprocess.run(
        [*command, "--url", url, "--json"], check=False, capture_output=True, text=True
    )
    took = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    told = json.loads(done.stdout)
    return {"rows": rows, "texts_s_with_start": round(rows / took), "told": told}


LOADS: Final = (Load(1, 256), Load(64, 16), Load(64, 32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="0.6B", choices=gpu_checkpoint.GEOMETRIES)
    parser.add_argument("--dtypes", nargs="+", default=["bf16", "fp8"])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 4, 6])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--bulk", type=int, default=0, metavar="ROWS")
    parser.add_argument("--profile", type=Path, help="py-spy's folder for the replica's profile")
    parser.add_argument("--models", type=Path, default=Path("/dev/shm"))  # noqa: S108
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu_service.json")
    given = parser.parse_args()
    directory = given.models / given.size
    if not (directory / "model.safetensors").exists():
        gpu_checkpoint_process(given.size, directory)
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "command": "python -m benchmarks.gpu_service " + " ".join(sys.argv[1:]),
        "results": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        for dtype in given.dtypes:
            for workers in given.workers:
                log = given.out.with_suffix(".log")
                with service(directory, dtype, workers, log) as ready_s:
                    rows: dict[str, Any] = {"ready_s": round(ready_s, 1)}
                    for load in LOADS:
                        name = f"{load.texts}x{TOKENS}, {load.connections}"
                        rows[name] = measure(load, place, given.seconds)
                        print(dtype, workers, name, rows[name], flush=True)
                    rows["queries"] = beside(place, given.seconds)
                    print(dtype, workers, rows["queries"], flush=True)
                    if given.bulk:
                        rows["bulk"] = bulk(place, given.bulk, f"http://127.0.0.1:{PORT}")
                        print(dtype, workers, rows["bulk"], flush=True)
                    if given.profile is not None:
                        profile(given.profile, place, f"{dtype}-{workers}")
                report["results"][f"{given.size} {dtype}, {workers} workers"] = rows
                given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def profile(folder: Path, place: Path, name: str) -> None:
    """What the replica's and one worker's Python does under both loads."""
    processes = {each.split()[0]: each.split()[1] for each in processor_s()}
    for load in LOADS[:2]:
        crowd = started(load, place, 6)
        for kind, process in processes.items():
            target = folder / f"{name}-{kind}-{load.texts}.txt"
            command = ["py-spy", "record", "-p", process, "-d", "4", "-r", "200", "-f", "raw"]
            subprocess.Popen(
                [*command, "--threads", "-o", str(target)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        crowd.communicate()
        time.sleep(1)


if __name__ == "__main__":
    main()
