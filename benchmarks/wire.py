"""What OpenAI's wire format costs: the microseconds of one core per request and answer.

Run it pinned to one core: `taskset -c 0 python benchmarks/wire.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from embedfleet.api.formats.openai import RequestLimits, derive, parse_request, render_response
from embedfleet.api.formats.vector_forms import FLOATS, Form

SECONDS = 0.2
REPEATS = 5


def best(work: Callable[[], object]) -> float:
    """Microseconds of one call, the best of several repeats."""
    times = []
    for _ in range(REPEATS):
        calls, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < SECONDS:
            for _ in range(10):
                work()
            calls += 10
        times.append(elapsed / calls * 1e6)
    return min(times)


def report(name: str, work: Callable[[], object]) -> None:
    print(f"{name:44s} {best(work):10.1f} µs")


def requests() -> None:
    limits = RequestLimits()
    forms: dict[str, object] = {
        "parse: one text": "How many people live in the capital of France?",
        "parse: 64 texts of 500 characters": ["x" * 500] * 64,
        "parse: 64 texts of 128 token ids": [list(range(100_000, 100_128))] * 64,
    }
    for name, given in forms.items():
        body = json.dumps({"model": "m", "input": given, "encoding_format": "base64"}).encode()
        report(name, partial(parse_request, body, limits))


def answers(texts: int, width: int) -> None:
    rows = np.random.default_rng(0).standard_normal((texts, width), dtype=np.float32)
    full = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    size = f"{texts} x {width}"
    report(f"derive: 512 dimensions of {size}", lambda: derive(full, 512))
    report(
        f"render: base64, {size}",
        lambda: render_response(full, form=Form(layout="base64"), model="m", prompt_tokens=8),
    )
    report(
        f"render: JSON numbers, {size}",
        lambda: render_response(full, form=FLOATS, model="m", prompt_tokens=8),
    )


if __name__ == "__main__":
    requests()
    for width in (1024, 2560):
        for texts in (1, 64):
            answers(texts, width)
