"""Where the time of a pass goes on a GPU, kernel by kernel, and how far that is from the limit.

    python -m benchmarks.gpu_profile --model /dev/shm/4B --dtypes bf16 fp8

Passes of 64 texts of 128 tokens and 4 of 2,048 are repeated until the GPU meets its power limit,
then ten are recorded by torch's profiler. A kernel is brought up while the one before it runs, so
what counts is the time from the end of one kernel to the end of the next; these times add up to the
pass. The limit is that of the linear layers (gpu_limit.py, the same minute) and of attention's
multiplications at the rate of bf16 products. Needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
from benchmarks.gpu_checkpoint import GEOMETRIES, Geometry
from benchmarks.gpu_direct import texts_of
from benchmarks.gpu_engine import HERE, hardware, limit

from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.engines.protocol import Engine

PASSES: Final = {"64x128": [128] * 64, "16x512": [512] * 16, "4x2048": [2048] * 4}
KINDS: Final = {
    "attention": r"attention_kernel|cudnn|flash|fmha|sdpa",
    "norm": r"norm_kernel",
    "SwiGLU": r"gate",
    "quantisation of what attention found": r"quantise_kernel",
    "RoPE of keys": r"rotate",
    "products": r"nvjet|gemm|cutlass|sm90|few_rows|splitk|cublas",
}
REPEATED: Final = 10


def kind_of(name: str) -> str:
    for kind, pattern in KINDS.items():
        if re.search(pattern, name, re.IGNORECASE):
            return kind
    return "other"


def recorded(engine: Engine, lengths: list[int]) -> dict[str, Any]:
    """Microseconds of a pass by kind of kernel, the largest kernels, and the time by the clock."""
    computations = [
        engine.prepare(texts_of(lengths, engine.info.vocabulary, seed)) for seed in range(4)
    ]
    begun, number = time.perf_counter(), 0
    while time.perf_counter() - begun < 1.0:
        computations[number % 4]()
        number += 1
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        begun = time.perf_counter()
        for again in range(REPEATED):
            computations[again % 4]()
        wall = (time.perf_counter() - begun) / REPEATED
    kernels = sorted(
        (event.time_range.end, event.time_range.start, event.name)
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    kinds: dict[str, float] = defaultdict(float)
    names: dict[str, list[float]] = defaultdict(list)
    before = kernels[0][1]
    for end, start, name in kernels:
        kinds["between kernels"] += max(0.0, start - before) / REPEATED
        spent = max(0.0, end - max(start, before))
        kinds[kind_of(name)] += spent / REPEATED
        names[name].append(spent)
        before = max(before, end)
    most = sorted(names.items(), key=lambda item: -sum(item[1]))[:14]
    return {
        "wall_us": 1e6 * wall,
        "kinds_us": {kind: round(us, 1) for kind, us in sorted(kinds.items(), key=lambda k: -k[1])},
        "kernels": [
            {"name": name[:90], "us": round(sum(us) / REPEATED, 1), "count": len(us) // REPEATED}
            for name, us in most
        ],
    }


def attention_flops(geometry: Geometry, lengths: list[int]) -> float:
    """Of scores and of what they weigh, below the diagonal alone."""
    pairs = sum(length * (length + 1) / 2 for length in lengths)
    return 4 * pairs * geometry.heads * geometry.head_dim * geometry.layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtypes", nargs="+", default=["bf16", "fp8"])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu_profile.json")
    given = parser.parse_args()
    size = given.model.name
    geometry = GEOMETRIES[size]
    weights = geometry.layers * sum(rows * columns for rows, columns in geometry.linear_shapes)
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "command": "python -m benchmarks.gpu_profile " + " ".join(sys.argv[1:]),
        "results": {},
    }
    limits = {dtype: max(limit(size, dtype).values()) for dtype in {"bf16", *given.dtypes}}
    bf16_flops = limits["bf16"] * 2 * weights
    for dtype in given.dtypes:
        tokens_s = limits[dtype]
        begun = time.perf_counter()
        engine = load_engine(given.model, EngineOptions(device="cuda", dtype=dtype))
        result: dict[str, Any] = {
            "load_s": time.perf_counter() - begun,
            "linear_tokens_s": tokens_s,
            "passes": {},
        }
        for name, lengths in PASSES.items():
            one = recorded(engine, lengths)
            linear = 1e6 * sum(lengths) / tokens_s
            attention = 1e6 * attention_flops(geometry, lengths) / bf16_flops
            one["limit_us"] = {"linear layers": linear, "attention": attention}
            one["of_limit"] = (linear + attention) / one["wall_us"]
            result["passes"][name] = one
            print(size, dtype, name, json.dumps(one["kinds_us"]), flush=True)
            print(
                f"  {one['wall_us']:,.0f} us by the clock; limit {linear:,.0f} + {attention:,.0f}: "
                f"{one['of_limit']:.0%}",
                flush=True,
            )
        engine.close()
        report["results"][f"{size} {dtype}"] = result
        given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
