"""What it saves that texts of a batch share their first tokens, on a GPU.

    python -m benchmarks.gpu_shared_prefix --model /dev/shm/4B --dtypes bf16 fp8

The same engine with sharing and without in turns, two batches in flight as the batcher has them: a
query and its documents as a reranker has them, and queries behind an instruction. What is predicted
is the ratio of the rows that are computed, padding included. `--deterministic` also compares the
bits of texts that share with those of each alone. Needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmarks.gpu_direct import timed
from benchmarks.gpu_engine import HERE, hardware
from benchmarks.shared_prefix import Workload, apart

from embedfleet.engines.cuda import engine as cuda
from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.engines.passes import sharing_passes
from embedfleet.engines.protocol import Engine
from embedfleet.vocabulary import Encoding

WORKLOADS: Final = (
    Workload("100 documents of 128 tokens behind 64", 100, 64, 128),
    Workload("25 documents of 512 tokens behind 64", 25, 64, 512),
    Workload("1 document of 128 tokens behind 64", 1, 64, 128),
    Workload("4 queries of 12 tokens behind 40", 4, 40, 12),
    Workload("32 queries of 12 tokens behind 40", 32, 40, 12),
    Workload("150 queries of 12 tokens behind 40", 150, 40, 12),
    Workload("150 texts of 52 tokens that share nothing", 150, 0, 52),
    Workload("64 texts of 128 tokens that share nothing", 64, 0, 128),
)


def rate(
    engine: Engine, batches: Sequence[list[Encoding]], seconds: float, *, share: bool
) -> float:
    """Texts/s with two batches in flight, for about `seconds`."""
    cuda.sharing_passes = sharing_passes if share else apart  # type: ignore[attr-defined]

    def once(number: int) -> None:
        engine.prepare(batches[number % len(batches)])()

    once(0)
    count = max(4, int(seconds / timed(lambda: once(1))))
    with ThreadPoolExecutor(2) as threads:
        taken = timed(lambda: list(threads.map(once, range(count))))
    return len(batches[0]) * count / taken


def rows(engine: Engine, batch: list[Encoding], *, share: bool) -> int:
    """That are computed, padding included."""
    cuda.sharing_passes = cut = sharing_passes if share else apart  # type: ignore[attr-defined]
    kit = engine._kit  # type: ignore[attr-defined]  # noqa: SLF001
    plans = cut(batch, engine.info.batch_tokens, kit.tile_tokens, longest=kit.alone_from - 1)
    return engine.prepare(batch).padding_tokens + sum(plan.tokens for plan in plans)


def measure(engine: Engine, workload: Workload, rounds: int, seconds: float) -> dict[str, Any]:
    batches = [workload.batch(seed, engine.info.vocabulary) for seed in range(4)]
    pairs = [
        (rate(engine, batches, seconds, share=True), rate(engine, batches, seconds, share=False))
        for _ in range(rounds)
    ]
    return {
        **asdict(workload),
        "predicted": rows(engine, batches[0], share=False) / rows(engine, batches[0], share=True),
        "gain": statistics.median(quick / slow for quick, slow in pairs),
        "shared_texts_s": statistics.median(quick for quick, _ in pairs),
        "apart_texts_s": statistics.median(slow for _, slow in pairs),
    }


def same_bits(engine: Engine) -> bool:
    """Whether texts that share have the bits that each has alone."""
    cuda.sharing_passes = sharing_passes  # type: ignore[attr-defined]
    same = True
    for workload in (Workload("", 12, 64, 128), Workload("", 9, 40, 12), Workload("", 5, 700, 33)):
        batch = workload.batch(7, engine.info.vocabulary)
        alone = np.concatenate([engine.prepare([text])() for text in batch])
        same = same and bool(np.array_equal(engine.prepare(batch)(), alone))
    return same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtypes", nargs="+", default=["bf16", "fp8"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu_shared_prefix.json")
    given = parser.parse_args()
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "command": "python -m benchmarks.gpu_shared_prefix " + " ".join(sys.argv[1:]),
        "results": {},
    }
    for dtype in given.dtypes:
        engine = load_engine(given.model, EngineOptions(device="cuda", dtype=dtype))
        measured = []
        for workload in WORKLOADS:
            measured.append(measure(engine, workload, given.rounds, given.seconds))
            one = measured[-1]
            print(
                f"{given.model.name} {dtype} {one['name']:44} predicted {one['predicted']:.2f} "
                f"gain {one['gain']:.2f} {one['shared_texts_s']:9,.0f} against "
                f"{one['apart_texts_s']:9,.0f} texts/s",
                flush=True,
            )
        engine.close()
        result: dict[str, Any] = {"workloads": measured}
        if given.deterministic:
            options = EngineOptions(device="cuda", dtype=dtype, deterministic=True)
            engine = load_engine(given.model, options)
            result["same_bits_as_alone"] = same_bits(engine)
            print(given.model.name, dtype, "same bits as alone:", result["same_bits_as_alone"])
            engine.close()
        report["results"][f"{given.model.name} {dtype}"] = result
        given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
