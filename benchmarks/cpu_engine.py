"""Speed, exactness, load time and memory of the CPU engine, beside transformers, in one run.

    python -m benchmarks.cpu_engine [--geometry small|0.6b] [--layers N] [--repetitions 5]
                                    [--rival-python PYTHON] [--model DIR]

Engines take turns on every workload, so that whatever else the machine does meets all of them.
Weights are random (seeded) unless `--model` names a directory: speed does not depend on them,
cosines do. transformers runs under `--rival-python`, and is left out where it is not installed.
Prints a table and writes `benchmarks/results/cpu_engine-….json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
from benchmarks.cpu_workloads import GEOMETRIES, WORKLOADS, Workload

from tests.checkpoints import random_weights, write_checkpoint

HERE = Path(__file__).parent

ENGINES: Final = (
    ("transformers", "float32"),
    ("transformers", "bfloat16"),
    ("embedfleet", "f32"),
    ("embedfleet", "int8"),
)
"""The first that is installed is what the others are compared with."""

CLOCKS: Final = {
    "seconds": "wall time",
    "processor_s": "processor time, which other work of the machine disturbs less",
}
Took = dict[str, float]
"""Seconds by clock."""


class Worker:
    """A process that computes workloads; see `cpu_worker.py`."""

    def __init__(self, python: str, arguments: list[str]) -> None:
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.cpu_worker", *arguments],
            cwd=HERE.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines = cast("IO[str]", self._process.stdin)
        self._answers = cast("IO[str]", self._process.stdout)

    def answer(self) -> dict[str, Any]:
        for line in self._answers:
            if line.startswith("{"):  # libraries print, too
                message: dict[str, Any] = json.loads(line)
                return message
        raise SystemExit("a worker ended early; see its message above")

    def ask(self, line: str) -> dict[str, Any]:
        self._lines.write(line + "\n")
        self._lines.flush()
        return self.answer()

    def stop(self) -> None:
        self._lines.close()
        self._process.wait()


@dataclass(slots=True)
class Contender:
    """One engine in its process, and what was measured of it."""

    name: str
    worker: Worker
    load_s: float
    took: dict[str, list[Took]] = field(default_factory=dict)
    cosine: float = float("nan")
    peak_mib: float = 0.0
    anonymous_mib: float = 0.0

    def run(self, workload: Workload, output: str = "") -> Took:
        answer = self.worker.ask(f"{workload.name}\t{output}")
        self.peak_mib, self.anonymous_mib = answer["peak_mib"], answer["anonymous_mib"]
        return {kind: answer[kind] for kind in CLOCKS}

    def tokens_per_s(self, workload: Workload, clock: str) -> float:
        return workload.tokens / statistics.median(took[clock] for took in self.took[workload.name])


def start(kind: str, dtype: str, directory: Path, options: argparse.Namespace) -> Contender | None:
    python = options.rival_python if kind == "transformers" else sys.executable
    worker = Worker(python, [kind, dtype, str(directory), str(options.threads)])
    ready = worker.answer()
    if "missing" in ready:
        print(f"{kind} {dtype}: left out: {ready['missing']} (--rival-python names another Python)")
        return None
    return Contender(f"{kind} {dtype}", worker, ready["load_s"])


def measure(contenders: list[Contender], repetitions: int) -> None:
    for workload in WORKLOADS:
        # Short ones are repeated more: one stolen millisecond is a large part of them.
        times = repetitions * (5 if workload.tokens < 1_000 else 1)
        for turn in range(times + 1):
            for contender in contenders:
                took = contender.run(workload)
                if turn:  # the first warms up
                    contender.took.setdefault(workload.name, []).append(took)


def compare(contenders: list[Contender], scratch: Path) -> None:
    """Mean cosine of the mixed texts to those of the first contender."""
    (mix,) = (workload for workload in WORKLOADS if workload.name == "mix")
    reference = None
    for contender in contenders:
        output = scratch / "vectors.npy"
        contender.run(mix, str(output))
        vectors = np.load(output).astype(np.float64)
        reference = vectors if reference is None else reference
        contender.cosine = float(np.mean(np.einsum("ij,ij->i", vectors, reference)))


def report(contenders: list[Contender]) -> None:
    for clock, meaning in CLOCKS.items():
        report_speed(contenders, clock, meaning)
    print(f"\n{'':22}{'load s':>10}{'peak MiB':>12}{'anonymous MiB':>16}{'mean cosine':>14}")
    for contender in contenders:
        print(
            f"{contender.name:22}{contender.load_s:>10.2f}{contender.peak_mib:>12,.0f}"
            f"{contender.anonymous_mib:>16,.0f}{contender.cosine:>14.6f}"
        )


def report_speed(contenders: list[Contender], clock: str, meaning: str) -> None:
    names = [workload.name for workload in WORKLOADS]
    print(
        f"\ntokens per second of {meaning}, median (milliseconds for single texts); ratio to first"
    )
    print(f"{'':22}" + "".join(f"{name:>18}" for name in names))
    first = contenders[0]
    for contender in contenders:
        cells = []
        for workload in WORKLOADS:
            rate = contender.tokens_per_s(workload, clock)
            ratio = rate / first.tokens_per_s(workload, clock)
            single = len(workload.lengths) == 1
            figure = f"{workload.tokens / rate * 1e3:.1f} ms" if single else f"{rate:,.0f}"
            cells.append(f"{figure:>10} {ratio:>6.2f}x")
        print(f"{contender.name:22}" + "".join(cells))


def save(contenders: list[Contender], options: argparse.Namespace, label: str) -> None:
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    path = results / f"cpu_engine-{label}-{options.threads}-threads.json"
    record = {
        "geometry": label,
        "threads": options.threads,
        "repetitions": options.repetitions,
        "processor": processor(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
        "contenders": [
            {
                "name": contender.name,
                "tokens_per_s": {
                    clock: {w.name: round(contender.tokens_per_s(w, clock), 1) for w in WORKLOADS}
                    for clock in CLOCKS
                },
                "load_s": round(contender.load_s, 2),
                "peak_mib": round(contender.peak_mib),
                "anonymous_mib": round(contender.anonymous_mib),
                "mean_cosine": contender.cosine,
                "took": contender.took,
            }
            for contender in contenders
        ],
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--geometry", choices=GEOMETRIES, default="small")
    parser.add_argument("--layers", type=int, help="fewer layers than the geometry has")
    parser.add_argument("--model", type=Path, help="a model directory instead of random weights")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rival-python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--skip", nargs="*", default=[], help="e.g. 'transformers bfloat16'")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        directory, label = options.model, options.model.name if options.model else ""
        if directory is None:
            geometry = GEOMETRIES[options.geometry]
            geometry = replace(geometry, layers=options.layers or geometry.layers)
            label = f"{options.geometry}-{geometry.layers}-layers"
            directory = write_checkpoint(scratch / "model", random_weights(geometry), geometry)
        started = [
            start(kind, dtype, directory, options)
            for kind, dtype in ENGINES
            if f"{kind} {dtype}" not in options.skip
        ]
        contenders = [contender for contender in started if contender is not None]
        measure(contenders, options.repetitions)
        compare(contenders, scratch)
        report(contenders)
        save(contenders, options, label)
        for contender in contenders:
            contender.worker.stop()


if __name__ == "__main__":
    main()
