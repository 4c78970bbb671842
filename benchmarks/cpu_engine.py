"""The CPU engine beside its rivals: speed, exactness, load time, memory and size, in one run.

    python -m benchmarks.cpu_engine [--layers N] [--rounds 5] [--threads N] [--skip NAME...]
                                    [--folder build/cpu-rivals]

Qwen3-Embedding-0.6B's geometry with random weights (seeded): speed does not depend on them, cosines
do. Each contender is a process with an environment of its own (`python -m benchmarks.cpu_rivals`
makes them all); those whose environment is missing are left out with a message. The checkpoint,
and what rivals convert it to, are kept under the folder. Contenders take turns on every workload,
so that whatever else the machine does meets all of them; where texts are of one length, slow ones
compute a part of them (`every`), which leaves rates as they are. Prints tables, writes JSON and a
plot to `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmarks.cpu_gemm import PROCESSOR
from benchmarks.cpu_processes import Clocks, Worker, prepare
from benchmarks.cpu_report import Measured, Rates, record_of, report, save
from benchmarks.cpu_rivals.environments import DEFAULT_FOLDER, python, ready, size_mib
from benchmarks.cpu_workloads import GEOMETRIES, WORKLOADS

from embedfleet.runtime.machine import processor_flags
from tests.checkpoints import random_weights, write_checkpoint


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine in one precision."""

    kind: str
    dtype: str
    environment: str
    every: int = 1
    """Of how many texts of one length it computes one."""

    @property
    def name(self) -> str:
        return f"{self.kind} {self.dtype}"


CONTENDERS: Final = (
    Contender("transformers", "float32", "transformers", every=4),
    Contender("embedfleet", "f32", "embedfleet"),
    Contender("embedfleet", "int8", "embedfleet"),
    Contender("embedfleet with avx2", "f32", "embedfleet"),
    Contender("embedfleet with avx2", "int8", "embedfleet"),
    Contender("embedfleet on OpenVINO", "int8", "openvino"),
    Contender("onnxruntime", "int8", "onnxruntime"),
    Contender("sentence-transformers", "int8", "openvino"),
    Contender("llama.cpp", "q8_0", "llamacpp", every=8),
)
"""The first is what the vectors of the others are compared with."""

LIMITS: Final = (
    ("f32", "embedfleet f32", PROCESSOR),
    ("f32", "transformers float32", "torch"),
    ("f32", "embedfleet on OpenVINO int8", "openvino"),
    ("f32", "onnxruntime int8", "onnxruntime"),
    ("int8", "embedfleet int8", PROCESSOR),
    ("int8", "transformers float32", "torch"),
    ("int8", "embedfleet on OpenVINO int8", "openvino"),
    ("int8", "onnxruntime int8", "onnxruntime"),
)
"""Matrix products of a precision, in whose process, by which library."""

SINGLES_PER_ROUND: Final = 5
COMPARED: Final = 2
"""Of how many mixed texts one is compared."""


def start(contenders: list[Contender], options: argparse.Namespace) -> list[Measured]:
    """Load all, one after another; nothing else of this benchmark runs meanwhile."""
    started = []
    label = f"{options.geometry}-{options.layers}-layers"
    checkpoint = checkpoint_of(options, label)
    for contender in contenders:
        interpreter = python(options.folder, contender.environment)
        prepared = options.folder / "models" / label / contender.kind
        prepare(interpreter, contender.kind, contender.dtype, checkpoint, prepared)
        worker = Worker(
            interpreter, [contender.kind, contender.dtype, checkpoint, prepared, options.threads]
        )
        loaded = worker.answer()
        size = size_mib(options.folder, contender.environment)
        started.append(Measured(contender.name, contender.every, worker, loaded["load_s"], size))
        print(f"{contender.name}: loaded in {loaded['load_s']:.1f} s", flush=True)
    return started


def checkpoint_of(options: argparse.Namespace, label: str) -> Path:
    directory: Path = options.folder / "models" / label / "checkpoint"
    if not (directory / "done").is_file():
        print(f"writing {directory}", flush=True)
        geometry = replace(GEOMETRIES[options.geometry], layers=options.layers)
        write_checkpoint(directory, random_weights(geometry), geometry)
        (directory / "done").touch()
    return directory


def one_round(measured: list[Measured], number: int) -> list[Rates]:
    """Every workload by every contender, who take turns; the rates of matrix products after each.

    Round 0 only warms up, and is spared slow contenders whose passes are many.
    """
    rates = []
    order = measured[number % len(measured) :] + measured[: number % len(measured)]
    for workload in WORKLOADS:
        for contender in order:
            if not number and contender.every > 1 and not workload.single:
                continue
            for _ in range(SINGLES_PER_ROUND if workload.single and number else 1):
                took = contender.run(workload)
                if number:
                    contender.took.setdefault(workload.name, []).append(took)
        rates.append(limits(measured))
    return rates


def limits(measured: list[Measured]) -> Rates:
    """Gop/s of matrix products by precision and library."""
    found: Rates = {}
    for dtype, name, library in LIMITS:
        # What asks the processor alone is written for AVX-512.
        if library == PROCESSOR and not (shutil.which("cc") and "avx512_vnni" in processor_flags()):
            continue
        for contender in measured:
            if contender.name == name:
                rate = contender.worker.ask("gemm " + library + " " + dtype)["gops"]
                found.setdefault(dtype, {})[library] = rate
    return found


def compare(measured: list[Measured]) -> None:
    """Cosines of the mixed texts to those of the first contender."""
    (mix,) = (workload for workload in WORKLOADS if workload.name == "mix")
    reference = None
    with tempfile.TemporaryDirectory() as folder:
        for contender in measured:
            output = Path(folder) / "vectors.npy"
            contender.run(mix, every=COMPARED, output=str(output))
            vectors = np.load(output).astype(np.float64)
            reference = vectors if reference is None else reference
            contender.cosines = np.einsum("ij,ij->i", vectors, reference)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--geometry", choices=GEOMETRIES, default="0.6b")
    parser.add_argument("--layers", type=int, help="fewer layers than the geometry has")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--skip", nargs="*", default=[], help="names, e.g. 'llama.cpp q8_0'")
    options = parser.parse_args()
    options.layers = options.layers or GEOMETRIES[options.geometry].layers
    options.folder = options.folder.resolve()
    return options


def main() -> None:
    options = arguments()
    began = time.perf_counter()
    taking_part = []
    for contender in CONTENDERS:
        if contender.name in options.skip:
            continue
        if contender.kind == "embedfleet with avx2" and "avx2" not in processor_flags():
            continue
        if ready(options.folder, contender.environment):
            taking_part.append(contender)
        else:
            print(
                f"{contender.name} is left out: make its environment with "
                f"`python -m benchmarks.cpu_rivals --folder {options.folder} "
                f"{contender.environment}`"
            )
    clocks = Clocks()
    measured = start(taking_part, options)
    rates: list[Rates] = []
    record: dict[str, Any] = {}
    for number in range(options.rounds + 1):
        found = one_round(measured, number)
        print(f"round {number} after {time.perf_counter() - began:.0f} s", flush=True)
        if number == 0:
            compare(measured)
            continue
        rates += found
        record = record_of(measured, rates, options.geometry, options.layers)
        record["rounds"] = number
        save(record, options)  # whoever stops the benchmark keeps the rounds so far
    for each in measured:
        each.worker.stop()
    report(measured, record)
    record["seconds"] = round(time.perf_counter() - began)
    record["foreign_share_of_a_processor"] = round(clocks.foreign_share(), 3)
    print(f"\nwritten to {save(record, options)}")


if __name__ == "__main__":
    main()
