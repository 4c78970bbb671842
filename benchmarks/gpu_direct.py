"""The CUDA engine without HTTP: its own rate, what determinism costs, and how far vectors move.

    python -m benchmarks.gpu_direct --model /dev/shm/4B --modes f32 bf16 fp8 bf16-deterministic

Two threads prepare and compute, as the batcher's do. Cosines are to the first mode named, which is
f32 where that is to mean something; texts are fresh random ids. Needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmarks.gpu_engine import HERE, hardware

from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.engines.protocol import Engine
from embedfleet.vocabulary import Encoding, Vectors

WORKLOADS: Final = {
    "1x16": [16],
    "32x16": [16] * 32,
    "64x32": [32] * 64,
    "256x32": [32] * 256,
    "64x128": [128] * 64,
    "16x512": [512] * 16,
    "4x2048": [2048] * 4,
    "1x8192": [8192],
    "1x32768": [32_768],
}
SECONDS: Final = 1.5
"""That a rate is measured for, about."""
COMPARED: Final = (1, 5, 16, 20, 32, 33, 64, 100, 128, 300, 512, 700, 1100, 2048, 2500, 4000)
"""Lengths of the texts whose cosines are told."""


def texts_of(lengths: list[int], vocabulary: int, seed: int) -> list[Encoding]:
    dice = np.random.default_rng(seed)
    return [dice.integers(0, vocabulary, length).astype(np.int32) for length in lengths]


def rate(engine: Engine, lengths: list[int]) -> dict[str, float]:
    """Median time of one batch alone, and tokens/s with two in flight."""
    batches = [texts_of(lengths, engine.info.vocabulary, seed) for seed in range(4)]
    tokens = sum(lengths)

    def once(number: int) -> None:
        engine.prepare(batches[number % len(batches)])()

    once(0)
    alone = sorted(timed(lambda number=number: once(number)) for number in range(7))  # type: ignore[misc]
    count = max(3, int(SECONDS / alone[3]))
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(once, range(2)))
        seconds = timed(lambda: list(threads.map(once, range(count))))
    return {"alone_ms": 1e3 * alone[3], "tokens_s": tokens * count / seconds}


def timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def same_bits(engine: Engine) -> bool:
    """Whether texts have the same bits alone and together."""
    texts = texts_of([1, 5, 20, 33, 64, 300, 700, 1100, 2500], engine.info.vocabulary, 1)
    together = engine.prepare(texts)()
    alone = np.concatenate([engine.prepare([text])() for text in texts])
    return bool(np.array_equal(together, alone))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--modes", nargs="+", default=["bf16", "fp8"])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu_direct.json")
    given = parser.parse_args()
    results: dict[str, Any] = {}
    reference: Vectors | None = None
    for mode in given.modes:
        dtype, _, deterministic = mode.partition("-")
        options = EngineOptions(
            device="cuda", dtype=dtype, max_tokens=32_768, deterministic=bool(deterministic)
        )
        started = time.perf_counter()
        engine = load_engine(given.model, options)
        row: dict[str, Any] = {"load_s": time.perf_counter() - started}
        vectors = engine.prepare(texts_of(list(COMPARED), engine.info.vocabulary, 2))()
        reference = vectors if reference is None else reference
        cosines = np.einsum("ij,ij->i", vectors, reference)
        row |= {"least_cosine": float(cosines.min()), "mean_cosine": float(cosines.mean())}
        row["same_bits_alone_and_together"] = same_bits(engine)
        if dtype != "f32":  # ten times slower, and nobody serves it
            row["workloads"] = {name: rate(engine, one) for name, one in WORKLOADS.items()}
        engine.close()
        results[mode] = row
        print(mode, json.dumps(row), flush=True)
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "command": "python -m benchmarks.gpu_direct " + " ".join(sys.argv[1:]),
        "results": results,
    }
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
