"""One contender in a process of its own, driven line by line; `cpu_engine.py` starts it.

    python -m benchmarks.cpu_worker prepare|load KIND DTYPE CHECKPOINT PREPARED THREADS

`prepare` writes the model in the contender's own format and ends. `load` answers with a line of
JSON when it is ready, and then to each line that it reads: a workload's name, `every` how many
texts to take one, and a file for the vectors, divided by tabs; or `gemm LIBRARY DTYPE` for the rate
of matrix products. Its memory is its own, and so is its Python: rivals run in other environments.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from benchmarks.cpu_gemm import Product, products, rate
from benchmarks.cpu_rivals.contract import Embed, Rival
from benchmarks.cpu_workloads import WORKLOADS

MODULES: Final = {
    "transformers": "torch_rival",
    "onnxruntime": "onnx_rival",
    "sentence-transformers": "openvino_rival",
    "llama.cpp": "llama_rival",
}


OURS: Final = {
    "embedfleet": ("auto", "auto"),
    "embedfleet with avx2": ("native", "avx2"),
    "embedfleet on OpenVINO": ("openvino", "auto"),
}
"""Whose kernels compute, and with which instructions; `auto` is what everybody gets."""


def embedfleet(dtype: str, kernels: str, instructions: str) -> Rival:
    """Ours in the shape of a rival."""

    def prepare(checkpoint: Path, target: Path) -> None:
        """Nothing: the engine reads the checkpoint."""

    def load(checkpoint: Path, target: Path, threads: int) -> Embed:  # noqa: ARG001
        from embedfleet.engines.loading import EngineOptions, load_engine  # noqa: PLC0415

        options = EngineOptions(
            dtype=dtype, threads=threads, kernels=kernels, instructions=instructions
        )
        engine = load_engine(checkpoint, options)
        return lambda texts: engine.prepare(texts)()

    return SimpleNamespace(prepare=prepare, load=load)


def rival(kind: str, dtype: str) -> Rival:
    if kind in OURS:
        return embedfleet(dtype, *OURS[kind])
    module: Any = importlib.import_module(f"benchmarks.cpu_rivals.{MODULES[kind]}")
    return module


def main() -> None:
    action, kind, dtype, checkpoint, prepared, threads = sys.argv[1:]
    chosen = rival(kind, dtype)
    if action == "prepare":
        chosen.prepare(Path(checkpoint), Path(prepared))
        return
    started = time.perf_counter()
    embed = chosen.load(Path(checkpoint), Path(prepared), int(threads))
    embed([np.array([1, 2, 3], np.int32)])
    answer({"load_s": time.perf_counter() - started} | memory())
    Session(embed, Path(checkpoint), int(threads)).serve()


class Session:
    """Answers lines."""

    def __init__(self, embed: Embed, checkpoint: Path, threads: int) -> None:
        self._embed, self._threads = embed, threads
        settings = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        self._vocabulary = settings["vocab_size"]
        self._workloads = {workload.name: workload for workload in WORKLOADS}
        self._products: dict[str, list[Product]] = {}

    def serve(self) -> None:
        for line in sys.stdin:
            words = line.rstrip("\n").split("\t")
            answer(self._gemm(*words) if words[0].startswith("gemm ") else self._run(*words))

    def _run(self, name: str, every: str = "1", output: str = "") -> dict[str, float]:
        texts = self._workloads[name].texts(self._vocabulary, int(every))
        started, used = time.perf_counter(), time.process_time()
        vectors = self._embed(texts)
        took = {
            "seconds": time.perf_counter() - started,
            "processor_s": time.process_time() - used,
        }
        if output:
            np.save(output, vectors)
        return took | memory()

    def _gemm(self, name: str) -> dict[str, float]:
        if name not in self._products:
            _, library, dtype = name.split()
            self._products[name] = products(library, dtype, self._threads)
            rate(self._products[name])
        return {"gops": rate(self._products[name])}


def memory() -> dict[str, float]:
    """The kernel's figures in MiB: the peak, and what no mapped weights explain.

    Not `getrusage`: its peak begins with that of the process which started this one.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = dict(line.split(":", 1) for line in status.splitlines())
    fields = {"peak_mib": "VmHWM", "anonymous_mib": "RssAnon"}
    return {name: int(found[field].split()[0]) / 1024 for name, field in fields.items()}


def answer(message: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
