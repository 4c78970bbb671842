"""What it saves that texts of a batch share their first tokens, on a processor.

    python -m benchmarks.shared_prefix [--layers 6] [--threads 2] [--rounds 5]

Random weights of the 0.6B's geometry, on our own kernels, with sharing and without in turns: a
query and its documents as a reranker has them, and queries behind an instruction. What is predicted
is the ratio of the tokens that are computed. Prints a table; writes JSON into
`benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.engines.native import engine as native
from embedfleet.engines.passes import SharingPass, sharing_passes
from embedfleet.engines.protocol import Engine
from embedfleet.vocabulary import Encoding
from tests.checkpoints import LARGE, Layout, random_weights, write_checkpoint

RESULTS: Final = Path(__file__).parent / "results"
VOCABULARY: Final = 2_000
"""Rows of the embedding table; they are looked up and cost nothing."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Texts that begin with the same tokens."""

    name: str
    texts: int
    shared: int
    own: int

    def batch(self, seed: int, vocabulary: int) -> list[Encoding]:
        rng = np.random.default_rng(seed)
        first = rng.integers(1, vocabulary, self.shared, np.int32)
        rest = rng.integers(1, vocabulary, (self.texts, self.own), np.int32)
        return [np.concatenate((first, each)) for each in rest]


WORKLOADS: Final = (
    Workload("100 documents of 128 tokens behind a query of 64", 100, 64, 128),
    Workload("100 queries of 12 tokens behind an instruction of 40", 100, 40, 12),
    Workload("4 queries of 12 tokens behind an instruction of 40", 4, 40, 12),
    Workload("32 texts of 128 tokens that share nothing", 32, 0, 128),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one workload by one precision; seconds are medians."""

    workload: str
    precision: str
    predicted: float
    gain: float
    """Median of the rounds' ratios."""
    shared_s: float
    alone_s: float


def apart(
    batch: Sequence[Encoding], batch_tokens: int, block: int, **_: Any
) -> Iterator[SharingPass]:
    """Passes of texts that share nothing."""
    return sharing_passes(batch, batch_tokens, block, causal=False)


def seconds(engine: Engine, batch: Sequence[Encoding], *, share: bool) -> float:
    native.sharing_passes = sharing_passes if share else apart  # type: ignore[attr-defined]
    started = time.perf_counter()
    engine.prepare(batch)()
    return time.perf_counter() - started


def measure(engine: Engine, workload: Workload, rounds: int) -> Measured:
    batch = workload.batch(0, VOCABULARY)
    info = engine.info
    found = list(sharing_passes(batch, info.batch_tokens, 16, causal=True))
    pairs = [
        (seconds(engine, batch, share=True), seconds(engine, batch, share=False))
        for _ in range(rounds + 1)
    ][1:]
    return Measured(
        workload.name,
        info.precision,
        sum(map(len, batch)) / sum(each.tokens for each in found),
        statistics.median(slow / quick for quick, slow in pairs),
        *(statistics.median(each) for each in zip(*pairs, strict=True)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-tokens", type=int, default=2_048)
    arguments = parser.parse_args()
    geometry = replace(LARGE, layers=arguments.layers, vocabulary=VOCABULARY)
    results: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder:
        weights = random_weights(geometry)
        directory = write_checkpoint(Path(folder), weights, geometry, Layout("F32"))
        for dtype in ("f32", "int8"):
            options = EngineOptions(
                dtype=dtype,
                kernels="native",
                threads=arguments.threads,
                batch_tokens=arguments.batch_tokens,
            )
            engine = load_engine(directory, options)
            results += [measure(engine, each, arguments.rounds) for each in WORKLOADS]
            engine.close()
    table = Table("workload", "precision", "predicted", "gain", "shared, s", "alone, s")
    for one in results:
        table.add_row(
            one.workload,
            one.precision,
            f"{one.predicted:.2f}",
            f"{one.gain:.2f}",
            f"{one.shared_s:.3f}",
            f"{one.alone_s:.3f}",
        )
    Console(width=110).print(table)
    RESULTS.mkdir(exist_ok=True)
    content = {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "layers": arguments.layers,
        "threads": arguments.threads,
        "batch_tokens": arguments.batch_tokens,
        "measured": [asdict(one) for one in results],
    }
    path = RESULTS / "shared_prefix.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
