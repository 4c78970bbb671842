"""One text of 32,768 tokens on the full 0.6B geometry: its time, and the memory of the process.

    python -m benchmarks.cpu_long [--tokens 32768] [--dtype int8] [--threads N] [--layers N]
                                  [--memory-mib N] [--kernels auto] [--folder build/cpu-rivals]

Random weights in the checkpoint of `cpu_engine.py`. Our own kernels take the text in one pass;
OpenVINO's layer by layer and in chunks (see `engines/cpu/long.py`). Attention grows with the square
of the tokens and takes most of the time.
Writes `benchmarks/results/cpu_long-….json`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.cpu_engine import checkpoint_of
from benchmarks.cpu_processes import Clocks
from benchmarks.cpu_report import RESULTS, processor
from benchmarks.cpu_rivals.environments import DEFAULT_FOLDER
from benchmarks.cpu_worker import memory
from benchmarks.cpu_workloads import GEOMETRIES

from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.engines.native.choice import KERNELS
from embedfleet.engines.protocol import Engine

GEOMETRY = "0.6b"


def measure(engine: Engine, tokens: int) -> dict[str, Any]:
    """Compute one text; seconds, and the most anonymous memory at any moment."""
    ids = np.random.default_rng(5).integers(0, engine.info.vocabulary, tokens).astype(np.int32)
    most, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            most[0] = max(most[0], memory()["anonymous_mib"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, used = time.perf_counter(), time.process_time()
    vectors = engine.prepare([ids])()
    seconds, processor_s = time.perf_counter() - started, time.process_time() - used
    stop.set()
    watcher.join()
    if not np.isfinite(vectors).all():
        raise SystemExit("the vector is not finite")
    return {
        "seconds": round(seconds, 1),
        "processor_s": round(processor_s, 1),
        "peak_anonymous_mib": round(most[0]),
        "peak_resident_mib": round(memory()["peak_mib"]),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--dtype", choices=["f32", "int8"], default="int8")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--layers", type=int, default=GEOMETRIES[GEOMETRY].layers)
    parser.add_argument("--memory-mib", type=int, help="working memory beside the weights")
    parser.add_argument("--kernels", choices=KERNELS, default="auto", help="whose compute")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    options.geometry = GEOMETRY
    label = f"{GEOMETRY}-{options.layers}-layers"
    checkpoint = checkpoint_of(options, label)
    clocks, began = Clocks(), time.perf_counter()
    engine = load_engine(
        checkpoint,
        EngineOptions(
            dtype=options.dtype,
            threads=options.threads,
            memory_mib=options.memory_mib,
            kernels=options.kernels,
        ),
    )
    load_s = time.perf_counter() - began
    found = measure(engine, options.tokens)
    engine.close()
    record = {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "command": " ".join(["python", "-m", "benchmarks.cpu_long", *sys.argv[1:]]),
        "processor": processor(),
        "threads": options.threads,
        "geometry": label,
        "dtype": options.dtype,
        "kernels": engine.info.kernels,
        "tokens": options.tokens,
        "load_s": round(load_s, 1),
        "foreign_share_of_a_processor": round(clocks.foreign_share(), 2),
        **found,
    }
    print(json.dumps(record, indent=1))
    name = f"cpu_long-{label}-{options.dtype}-{options.tokens}-tokens.json"
    (RESULTS / name).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
