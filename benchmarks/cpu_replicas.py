"""How processors are best shared out: one replica with all threads, or several with fewer.

    python -m benchmarks.cpu_replicas [--rounds 7] [--processors N] [--dtype int8] [--model DIR...]

Every arrangement computes the same texts as often in total: N processes of one thread each work
side by side, one process of N threads works alone, and N processes of N threads get in each other's
way. Single texts are given to one process, the others idle. Models are the built-in one and four
layers of the 0.6B geometry. Writes `benchmarks/results/cpu_replicas.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.cpu_engine import checkpoint_of
from benchmarks.cpu_processes import Clocks, Worker
from benchmarks.cpu_report import RESULTS, processor
from benchmarks.cpu_rivals.environments import DEFAULT_FOLDER
from benchmarks.cpu_workloads import WORKLOADS, Workload

import embedfleet

BUILTIN = Path(embedfleet.__file__).parent / "models" / "builtin"


@dataclass(slots=True)
class Arrangement:
    """Some processes of some threads each, started and ready."""

    processes: int
    threads: int
    workers: list[Worker]
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.processes} x {self.threads} threads"

    def run(self, workload: Workload, times: int) -> float:
        """Seconds for `times` computations of a workload, shared out evenly."""
        started = time.perf_counter()
        if workload.single:
            self.workers[0].ask(workload.name)
        else:
            for _ in range(times // self.processes):
                for worker in self.workers:
                    worker.send(workload.name)
                for worker in self.workers:
                    worker.answer()
        return time.perf_counter() - started


def arrange(model: Path, processes: int, threads: int, dtype: str) -> Arrangement:
    workers = []
    for _ in range(processes):
        words = ["embedfleet", dtype, model, model, threads]
        workers.append(Worker(Path(sys.executable), words))
        workers[-1].answer()
    return Arrangement(processes, threads, workers)


def measure(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    count = options.processors
    arrangements = [
        arrange(model, processes, threads, options.dtype)
        for processes, threads in ((1, count), (count, 1), (count, count))
    ]
    for number in range(options.rounds + 1):
        for workload in WORKLOADS:
            for arrangement in arrangements:
                took = arrangement.run(workload, count)
                if number:  # the first warms up
                    arrangement.seconds.setdefault(workload.name, []).append(took)
    for arrangement in arrangements:
        for worker in arrangement.workers:
            worker.stop()
    return {one.name: figures(one, count) for one in arrangements}


def figures(arrangement: Arrangement, count: int) -> dict[str, float]:
    """Tokens per second, and milliseconds of single texts."""
    found = {}
    for workload in WORKLOADS:
        seconds = statistics.median(arrangement.seconds[workload.name])
        rate = count * workload.tokens() / seconds
        found[workload.name] = round(seconds * 1e3, 2) if workload.single else round(rate, 1)
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--processors", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", choices=["f32", "int8"], default="int8")
    parser.add_argument("--model", type=Path, nargs="*", help="instead of the two")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    options.geometry, options.layers = "0.6b", 4
    models = options.model or [BUILTIN, checkpoint_of(options, "0.6b-4-layers")]
    clocks, found = Clocks(), {}
    for model in models:
        name = "builtin" if model == BUILTIN else model.parent.name
        found[name] = measure(model, options)
        print(f"\n{name}: tokens per second (milliseconds for single texts)")
        print(f"{'':20}" + "".join(f"{w.name:>12}" for w in WORKLOADS))
        for arrangement, rates in found[name].items():
            print(f"{arrangement:20}" + "".join(f"{rates[w.name]:>12,.1f}" for w in WORKLOADS))
    record = {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "command": " ".join(["python", "-m", "benchmarks.cpu_replicas", *sys.argv[1:]]),
        "processor": processor(),
        "processors": options.processors,
        "dtype": options.dtype,
        "rounds": options.rounds,
        "foreign_share_of_a_processor": round(clocks.foreign_share(), 2),
        "models": found,
    }
    path = RESULTS / "cpu_replicas.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
