"""Pairs/s of a reranker on one GPU over its replica's HTTP server.

    python -m benchmarks.gpu_rerank --size 4B --dtypes bf16 fp8

A closed loop of `/score` requests, text in: a query and 100 documents of about 128 tokens behind 64
that all pairs of a request share. Weights are random, in the geometry of Qwen3-Reranker; the
tokenizer is the built-in model's. Needs a GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
from benchmarks.gpu_engine import HERE, PORT, gpu_checkpoint_process, hardware, replica
from benchmarks.gpu_service import words

DOCUMENTS: Final = 100
QUERY_TOKENS: Final = 65
DOCUMENT_TOKENS: Final = 128
CONNECTIONS: Final = 4
WARM_S: Final = 2.0


def reranker(size: str, models: Path) -> Path:
    """The directory of a reranker; its weights are those of the embedding model's directory."""
    source, made = models / size, models / f"{size}-reranker"
    if not (source / "model.safetensors").exists():
        gpu_checkpoint_process(size, source)
    made.mkdir(exist_ok=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, made / name)
    (made / "model.safetensors").unlink(missing_ok=True)
    (made / "model.safetensors").hardlink_to(source / "model.safetensors")
    (made / "1_LogitScore").mkdir(exist_ok=True)
    answers = {"true_token_id": 7, "false_token_id": 11}
    (made / "1_LogitScore" / "config.json").write_text(json.dumps(answers), encoding="utf-8")
    template = {"before": "", "pair": "{query} ", "after": " is", "instruction": ""}
    (made / "reranker.json").write_text(json.dumps(template), encoding="utf-8")
    return made


def body(model: str, dice: random.Random) -> bytes:
    documents = [words(dice, DOCUMENT_TOKENS) for _ in range(DOCUMENTS)]
    query = words(dice, QUERY_TOKENS)
    return json.dumps({"model": model, "text_1": query, "text_2": documents}).encode()


async def pairs(model: str, seconds: float) -> dict[str, Any]:
    """Pairs/s over some seconds after a time to warm up, and the tokens of a pair."""
    dice = random.Random(0)
    bodies = [body(model, dice) for _ in range(4 * CONNECTIONS)]
    begin = time.perf_counter() + WARM_S
    latencies: list[float] = []
    tokens = 0

    async def connection(number: int) -> None:
        nonlocal tokens
        while time.perf_counter() < begin + seconds:
            started, number = time.perf_counter(), number + 1
            async with session.post(
                f"http://127.0.0.1:{PORT}/score",
                data=bodies[number % len(bodies)],
                headers={"content-type": "application/json"},
            ) as answer:
                found = await answer.json()
            if answer.status != 200 or len(found["data"]) != DOCUMENTS:
                raise SystemExit(f"{answer.status}: {str(found)[:300]}")
            if begin <= time.perf_counter() < begin + seconds:
                latencies.append(time.perf_counter() - started)
                tokens += found["usage"]["prompt_tokens"]

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*[connection(4 * number) for number in range(CONNECTIONS)])
    # Requests take a good part of the time: they are counted by how long they took.
    rate = CONNECTIONS * len(latencies) / sum(latencies)
    return {
        "pairs_s": rate * DOCUMENTS,
        "tokens_of_a_pair": tokens / len(latencies) / DOCUMENTS,
        "p50_ms": 1e3 * sorted(latencies)[len(latencies) // 2],
        "requests": len(latencies),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="4B")
    parser.add_argument("--dtypes", nargs="+", default=["bf16", "fp8"])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--models", type=Path, default=Path("/dev/shm"))  # noqa: S108
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu_rerank.json")
    given = parser.parse_args()
    directory = reranker(given.size, given.models)
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "command": "python -m benchmarks.gpu_rerank " + " ".join(sys.argv[1:]),
        "documents": DOCUMENTS,
        "connections": CONNECTIONS,
        "results": {},
    }
    for dtype in given.dtypes:
        with replica(directory, dtype, given.out.with_suffix(".log")) as ready_s:
            row = asyncio.run(pairs(directory.name, given.seconds))
        report["results"][f"{given.size} {dtype}"] = {"ready_s": ready_s, **row}
        print(given.size, dtype, f"ready after {ready_s:.1f} s", json.dumps(row), flush=True)
        given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
