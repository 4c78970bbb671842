"""What a text of a bulk job costs each process on its way: processor time, version beside version.

    python -m benchmarks.bulk_path [--checkout NAME=DIRECTORY …] [--texts 40000] [--rounds 5]
                                   [--engine at-once|builtin] [--workers N] [--name bulk-path]

Each version is a replica, a gateway in front of it and `embedfleet bulk`, from a file of JSON lines
to files of NumPy, each in a process of its own, over real sockets. Processor time (user and system)
is what the kernel says that a process took between the job's start and its end; the job's own is
less what one of 64 texts takes, which is its start. Versions take turns in every round; reported
are the medians of the rounds, and of the ratios to the first version: such times move less than
others on a machine that has other work, and still some.

`--engine at-once` answers every text with one vector of the model's width as soon as it is asked,
so that only the way is measured. `--engine builtin` computes with the built-in model; what of that
time is the engine's is measured beside it, alone in a process, in batches of 64 texts of like
length.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil
from benchmarks.bulk import texts_of
from benchmarks.request_cost import commit_of

HERE = Path(__file__).resolve().parent
FEW = 64
SERVED: Final = re.compile(r"listening on (http://[\d.]+:\d+)")

AT_ONCE = """
import sys
import numpy as np
from embedfleet.engines.loading import load_engine
from embedfleet.engines.protocol import Computation
from embedfleet.server.replica import process

class AtOnce:
    def __init__(self, engine):
        self.info = engine.info
        shape = 4096, self.info.width
        self._vectors = np.random.default_rng(0).standard_normal(shape, np.float32)
        self._vectors /= np.linalg.norm(self._vectors, axis=1, keepdims=True)
        self._engine, self.close, self._trusted, self._at = engine, engine.close, False, 0

    def prepare(self, batch):
        self._trusted = self._trusted or len(batch) > 64
        if not self._trusted:  # the gateway still looks whether it gives golden vectors
            return self._engine.prepare(batch)
        begin = self._at
        self._at = (begin + len(batch)) % 2048  # a gateway notices vectors that come again
        vectors = self._vectors[begin : begin + len(batch)]
        return Computation(lambda: vectors)

process.load_engine = lambda *given: AtOnce(load_engine(*given))
from embedfleet.__main__ import main
sys.argv = ["embedfleet", *sys.argv[1:]]
main()
"""
"""A replica whose engine knows the answer to everything, once it has had a batch of many texts."""


@contextmanager
def started(words: list[str], environment: dict[str, str], log: Path) -> Iterator[tuple[int, str]]:
    """A process that says where it listens; yields its id and the address."""
    with log.open("w") as written:
        process = subprocess.Popen(words, stdout=written, stderr=written, env=environment)
    try:
        deadline = time.monotonic() + 60
        while (address := SERVED.search(log.read_text())) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{words} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield process.pid, address[1]
    finally:
        process.terminate()
        process.wait()


def spent_s(pid: int) -> float:
    """Processor time of a process and of those that it started, in seconds."""
    first = psutil.Process(pid)
    total = 0.0
    for process in (first, *first.children(recursive=True)):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


class Version:
    """A service of one checkout, and its `embedfleet bulk`."""

    def __init__(self, checkout: Path, place: Path, engine: str, workers: int) -> None:
        self._place, self._engine, self._workers = place, engine, workers
        place.mkdir(parents=True)
        self._environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
        self._command = [sys.executable, "-m", "embedfleet"]
        self._runs = 0
        self.pids: dict[str, int] = {}

    def start(self, stack: ExitStack) -> None:
        (self._place / "replica.toml").write_text("[engine]\nthreads = 1\n")
        config = self._place / "gateway.toml"
        config.write_text(
            f'[gateway]\nworkers = {self._workers}\n[admin]\nport = "off"\n'
            "[fleet]\nverify_interval_s = 3600\n"
        )
        stand_in = [sys.executable, "-c", AT_ONCE]
        replica = stand_in if self._engine == "at-once" else self._command
        self.pids["replica"], url = stack.enter_context(
            started(
                [*replica, "replica", "builtin", "--config", str(self._place / "replica.toml")],
                self._environment,
                self._place / "replica.log",
            )
        )
        asked = ["gateway", "--replica", url, "--port", "0", "--config", str(config)]
        self.pids["gateway"], self._url = stack.enter_context(
            started([*self._command, *asked], self._environment, self._place / "gateway.log")
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"{self._url}/health/ready"):  # noqa: S310
                self._ask([f"{n}" for n in range(512)])
                return
            time.sleep(0.1)
        raise SystemExit(f"not ready: {(self._place / 'gateway.log').read_text()[-2000:]}")

    def _ask(self, texts: list[str]) -> None:
        body = json.dumps(
            {"model": "builtin", "input": texts, "encoding_format": "base64"}
        ).encode()
        headers = {"content-type": "application/json", "x-embedfleet-lane": "bulk"}
        request = urllib.request.Request(f"{self._url}/v1/embeddings", body, headers)  # noqa: S310
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            answer.read()

    def run(self, source: Path, texts: int) -> dict[str, float]:
        """Microseconds of processor time of a text in each process, and texts a second."""
        self._runs += 1
        folder = self._place / f"out-{self._runs}"
        before = {name: spent_s(pid) for name, pid in self.pids.items()}
        began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [*self._command, "bulk", str(source), str(folder), "--url", self._url, "--json"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._environment,
        )
        took, now = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        found = {name: spent_s(pid) - before[name] for name, pid in self.pids.items()}
        found["bulk"] = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        return {name: seconds / texts * 1e6 for name, seconds in found.items()} | {
            "texts/s": texts / took
        }


def source_of(place: Path, texts: list[str]) -> Path:
    path = place / f"{time.monotonic_ns()}.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


ENGINE = """
import sys, time, json
from benchmarks.bulk import engine_rate, texts_of
texts = texts_of(int(sys.argv[1]), int(sys.argv[2]))
import embedfleet.engines.loading as loading
load = loading.load_engine
began = []
def timed(*given):
    engine = load(*given)
    prepare = engine.prepare
    def first(batch):
        found = prepare(batch)
        if not began:
            found()
            began.append(time.process_time())
        return found
    class Timed:
        close = staticmethod(engine.close)
        prepare = staticmethod(first)
    return Timed()
loading.load_engine = timed
engine_rate(texts, 1)
print((time.process_time() - began[0]) / len(texts) * 1e6)
"""


def engine_us(run: int, texts: int) -> float:
    """Processor time of a text in the engine alone."""
    asked = [sys.executable, "-c", ENGINE, str(run), str(texts)]
    return float(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)


def measured(versions: dict[str, Path], chosen: argparse.Namespace) -> dict[str, Any]:
    """What was found in each round, by version and process."""
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in versions}
    alone: list[float] = []
    with tempfile.TemporaryDirectory(prefix="bulk-path-") as scratch, ExitStack() as stack:
        place, seed = Path(scratch), int(time.time())
        running = {}
        for name, checkout in versions.items():
            running[name] = Version(checkout, place / name, chosen.engine, chosen.workers)
            running[name].start(stack)
            running[name].run(source_of(place, texts_of(seed, 4000)), 4000)  # warm
        for at in range(chosen.rounds):
            order = list(versions) if at % 2 == 0 else list(versions)[::-1]
            seed += 1
            source, few = (source_of(place, texts_of(seed, n)) for n in (chosen.texts, FEW))
            for name in order:
                begin = running[name].run(few, chosen.texts)["bulk"]
                found = running[name].run(source, chosen.texts)
                found["bulk"] -= begin
                found["all"] = sum(found[each] for each in ("bulk", "gateway", "replica"))
                rounds[name].append(found)
                print(name, {key: round(value, 1) for key, value in found.items()}, flush=True)
            if chosen.engine == "builtin":
                alone.append(engine_us(seed, min(chosen.texts, 4000)))
    first = rounds[next(iter(versions))]
    report: dict[str, Any] = {
        name: {
            each: {
                "us a text" if each != "texts/s" else "median": round(
                    statistics.median(one[each] for one in every), 1
                ),
                "ratio": round(
                    statistics.median(
                        one[each] / other[each] for one, other in zip(every, first, strict=True)
                    ),
                    3,
                ),
                "rounds": [round(one[each], 1) for one in every],
            }
            for each in every[0]
        }
        for name, every in rounds.items()
    }
    if alone:
        report["the engine alone, us a text"] = [round(each, 1) for each in alone]
    return report


def main() -> None:
    """Measure, print, and write where a name is given."""
    parser = argparse.ArgumentParser(description="what a text of a bulk job costs each process")
    parser.add_argument("--checkout", action="append", default=[], metavar="NAME=DIRECTORY")
    parser.add_argument("--texts", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", choices=["at-once", "builtin"], default="at-once")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--name", help="of the file of results; none is written without one")
    chosen = parser.parse_args()
    versions = {
        name: Path(where) for name, _, where in (each.partition("=") for each in chosen.checkout)
    }
    versions["this"] = HERE.parent
    load = os.getloadavg()[0]
    found = measured(versions, chosen)
    for name in versions:
        told = found[name]
        print(name, {key: (next(iter(each.values())), each["ratio"]) for key, each in told.items()})
    if chosen.name:
        from benchmarks.gateway import machine  # noqa: PLC0415

        report = {
            "date": datetime.now(UTC).date().isoformat(),
            "command": " ".join(["python -m benchmarks.bulk_path", *sys.argv[1:]]),
            "checkouts": {name: commit_of(where) for name, where in versions.items()},
            "machine": machine() | {"load before and after": [load, os.getloadavg()[0]]},
            "found": found,
        }
        path = HERE / "results" / f"{chosen.name}.json"
        path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
