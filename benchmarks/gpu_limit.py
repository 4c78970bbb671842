"""The limit of a GPU for a geometry: its linear layers alone, sustained, and nothing else.

    python -m benchmarks.gpu_limit 4B bf16 [TOKENS ...]

Prints a line of JSON: tokens/s by the number of tokens at once. A short product runs faster than
what a GPU can hold against its power limit, so each is repeated for a second before it is timed.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence

import torch
from benchmarks.gpu_checkpoint import GEOMETRIES, Geometry

TOKENS = (2_048, 8_192, 16_384)
SECONDS = 1.0


def tokens_per_second(
    geometry: Geometry, counts: Sequence[int] = TOKENS, *, fp8: bool
) -> dict[int, float]:
    """Through all layers once per pass; random numbers, as zeros run faster."""
    weights = []
    for _ in range(geometry.layers):
        for rows, columns in geometry.linear_shapes:
            weight = torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16)
            weight /= math.sqrt(columns)
            weights.append(weight.to(torch.float8_e4m3fn) if fp8 else weight)
    found = {}
    for tokens in counts:
        inputs = {}
        for _, columns in geometry.linear_shapes:
            values = torch.randn(tokens, columns, device="cuda", dtype=torch.bfloat16)
            inputs[columns] = values.to(torch.float8_e4m3fn) if fp8 else values
        multiply = by_fp8(tokens, weights) if fp8 else by_bf16

        def once(
            multiply: Callable[..., torch.Tensor] = multiply,
            inputs: dict[int, torch.Tensor] = inputs,
        ) -> None:
            for weight in weights:
                multiply(inputs[weight.shape[1]], weight)

        found[tokens] = tokens / seconds_of(once)
    return found


def by_bf16(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x @ weight.t()


def by_fp8(
    tokens: int, weights: list[torch.Tensor]
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """With scales that are made here, once: filling them is no part of the limit."""
    ones = torch.ones(tokens, 1, device="cuda")
    scales = {rows: torch.ones(1, rows, device="cuda") for rows in {len(each) for each in weights}}

    def multiply(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch._scaled_mm(  # noqa: SLF001
            x,
            weight.t(),
            scale_a=ones,
            scale_b=scales[len(weight)],
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )

    return multiply


def seconds_of(once: Callable[[], None]) -> float:
    """Median of passes, after a second of them."""
    times: list[float] = []
    started = time.perf_counter()
    while time.perf_counter() - started < 2 * SECONDS or len(times) < 3:
        begun = time.perf_counter()
        once()
        torch.cuda.synchronize()
        if begun - started > SECONDS:
            times.append(time.perf_counter() - begun)
    return sorted(times)[len(times) // 2]


if __name__ == "__main__":
    counts = [int(each) for each in sys.argv[3:]] or TOKENS
    print(json.dumps(tokens_per_second(GEOMETRIES[sys.argv[1]], counts, fp8=sys.argv[2] == "fp8")))
