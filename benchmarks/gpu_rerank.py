"""Pairs/s of a reranker on one GPU over its replica's HTTP server, and of vLLM beside it.

    python -m benchmarks.gpu_rerank --size 4B --dtypes bf16 fp8 [--rivals vllm]

A closed loop of `/score` requests, text in: a query and 100 documents of about 128 tokens behind 64
that all pairs of a request share. Weights are random, in the geometry of Qwen3-Reranker; the
tokenizer is the built-in model's. No query and no document comes twice.

vLLM runs twice, with its cache of prefixes and without, and gets each pair's template already in
its texts: it has nothing to render, and computes the same tokens and the end-of-text token that it
appends. All servers run at the same time and are measured in turns. The logits of one request are
compared with ours (random weights drive scores to 0 and 1, where any two servers agree). Needs a
GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
from benchmarks.gpu_engine import HERE, gpu_checkpoint_process, hardware
from benchmarks.gpu_servers import FIRST_PORT, OURS, RERANKING_RIVALS, Server, replica, running
from benchmarks.gpu_service import words

DOCUMENTS: Final = 100
QUERY_TOKENS: Final = 65
DOCUMENT_TOKENS: Final = 128
WARM_S: Final = 1.5
TRUE_ID, FALSE_ID = 7, 11
"""Tokens whose logits are the score."""
BEFORE_DOCUMENT, AFTER_DOCUMENT = " ", " is"
"""The template around a document; the query stands before it."""


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
    answers = {"true_token_id": TRUE_ID, "false_token_id": FALSE_ID}
    (made / "1_LogitScore" / "config.json").write_text(json.dumps(answers), encoding="utf-8")
    template = {"before": "", "pair": "{query}" + BEFORE_DOCUMENT, "after": AFTER_DOCUMENT}
    template["instruction"] = ""
    (made / "reranker.json").write_text(json.dumps(template), encoding="utf-8")
    return made


def answer_tokens(directory: Path) -> tuple[str, str]:
    """The tokens of "no" and "yes" as the tokenizer writes them."""
    vocabulary = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = {number: token for token, number in vocabulary.items()}
    return tokens[FALSE_ID], tokens[TRUE_ID]


def body(model: str, dice: random.Random, *, templated: bool, logits: bool = False) -> bytes:
    """One request; `templated` for a server that joins the two texts as they are."""
    documents = [words(dice, DOCUMENT_TOKENS) for _ in range(DOCUMENTS)]
    query = words(dice, QUERY_TOKENS)
    if templated:
        query += BEFORE_DOCUMENT
        documents = [document + AFTER_DOCUMENT for document in documents]
    request: dict[str, Any] = {"model": model, "text_1": query, "text_2": documents}
    if logits:
        request |= {"use_activation": False} if templated else {"raw_scores": True}
    return json.dumps(request).encode()


class FailedError(Exception):
    """A server did not answer with scores."""


def is_ours(server: Server) -> bool:
    return server.name.startswith(OURS)


async def answered(
    session: aiohttp.ClientSession, server: Server, request: bytes
) -> dict[str, Any]:
    headers = {"content-type": "application/json"}
    async with session.post(f"{server.url}/score", data=request, headers=headers) as answer:
        found: dict[str, Any] = await answer.json()
    if answer.status != 200 or len(found["data"]) != DOCUMENTS:
        raise FailedError(f"{server.name}: {answer.status}: {str(found)[:300]}")
    return found


async def logits(server: Server, model: str) -> list[float]:
    """Of one request, the same for every server."""
    request = body(model, random.Random(-1), templated=not is_ours(server), logits=True)
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        found = await answered(session, server, request)
    return [one["score"] for one in sorted(found["data"], key=lambda one: int(one["index"]))]


async def pairs(
    server: Server, model: str, connections: int, seconds: float, seed: int
) -> dict[str, Any]:
    """Pairs/s over some seconds after a time to warm up, and the tokens of a pair."""
    dice = random.Random(seed)
    fresh = (body(model, dice, templated=not is_ours(server)) for _ in itertools.count())
    ready = [next(fresh) for _ in range(4 * connections)]
    begin = time.perf_counter() + WARM_S
    latencies: list[float] = []
    tokens = 0

    async def connection() -> None:
        nonlocal tokens
        while time.perf_counter() < begin + seconds:
            request = ready.pop() if ready else next(fresh)
            started = time.perf_counter()
            found = await answered(session, server, request)
            if begin <= time.perf_counter() < begin + seconds:
                latencies.append(time.perf_counter() - started)
                tokens += found["usage"]["prompt_tokens"]

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*[connection() for _ in range(connections)])
    # Requests take a good part of the time: they are counted by how long they took.
    rate = connections * len(latencies) / sum(latencies)
    return {
        "pairs_s": rate * DOCUMENTS,
        "tokens_of_a_pair": tokens / len(latencies) / DOCUMENTS,
        "p50_ms": 1e3 * sorted(latencies)[len(latencies) // 2],
        "requests": len(latencies),
    }


def _servers(given: argparse.Namespace, directory: Path) -> Iterator[Server]:
    """All of them, each on a port of its own."""
    ports = itertools.count(FIRST_PORT)
    for dtype in given.dtypes:
        yield replica(directory, dtype, next(ports))
        for rival, caching in itertools.product(given.rivals, (True, False)):
            yield RERANKING_RIVALS[rival](
                directory,
                dtype,
                next(ports),
                prefix_caching=caching,
                answers=answer_tokens(directory),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="4B")
    parser.add_argument("--dtypes", nargs="+", default=["bf16", "fp8"])
    parser.add_argument("--connections", nargs="+", type=int, default=[4])
    parser.add_argument("--rivals", nargs="*", default=[], choices=list(RERANKING_RIVALS))
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
        "results": {},
    }
    with running(list(_servers(given, directory)), given.out.with_suffix("")) as ready:
        report["commands"] = {server.name: list(server.command) for server in ready}
        ours: list[float] = []
        for server, ready_s in list(ready.items()):
            try:
                found = asyncio.run(logits(server, directory.name))
            except (FailedError, aiohttp.ClientError, TimeoutError) as error:
                print(error, file=sys.stderr)
                del ready[server]
                continue
            ours = found if is_ours(server) else ours
            apart = max((abs(a - b) for a, b in zip(ours, found, strict=False)), default=None)
            report["results"][f"{given.size} {server.name}"] = {
                "ready_s": ready_s,
                "logits": [min(found), max(found)],
                "greatest_difference_of_logits_to_ours": apart,
                "connections": {},
            }
        seeds = itertools.count()
        for connections in given.connections:
            for server in ready:
                row = asyncio.run(
                    pairs(server, directory.name, connections, given.seconds, next(seeds))
                )
                name = f"{given.size} {server.name}"
                report["results"][name]["connections"][connections] = row
                print(name, connections, json.dumps(row), flush=True)
                given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
