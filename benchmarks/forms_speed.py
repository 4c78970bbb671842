"""Texts a second of each layout as a client sees it, vectors out of the cache, side by side.

    python -m benchmarks.forms_speed [--width 2560] [--texts 256] [--rounds 15]

One process serves an endpoint over loopback with vectors of `--width` dimensions that are all
cached; another asks for `--texts` of them at once until they lie in NumPy: JSON numbers and base64
by OpenAI's client, bytes by the
standard library's. Layouts take turns in every round; ratios are medians over the
rounds, so that whatever else the machine does meets all of them. Writes
`benchmarks/results/forms-speed.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import openai

from embedfleet.api.endpoint import Endpoint
from embedfleet.api.formats.embedding_request import RequestLimits
from embedfleet.api.routes import contract_routes, meant
from embedfleet.api.served_model import ModelVersion, ServedModel
from embedfleet.cache.memory import MemoryTier
from embedfleet.cache.tiers import VectorCache
from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.transport.asgi import Router
from embedfleet.transport.serving import Listener, bind, serving
from embedfleet.vocabulary import Precision

RESULTS = Path(__file__).parent / "results"
MODEL = "wide"


async def serve(width: int) -> None:
    """Serve until the process is ended; says its address."""
    from tests.contract.computed_in_place import BagOfTokens  # noqa: PLC0415  the server alone
    from tests.small_tokenizer import write_model  # noqa: PLC0415

    class Wide(BagOfTokens):
        def __init__(self, vocabulary: int) -> None:
            rows = np.random.default_rng(0).standard_normal((vocabulary, width))
            self._table = rows.astype(np.float32)

    with tempfile.TemporaryDirectory() as place:
        directory = write_model(Path(place) / "model")
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | {"hidden_size": width}))
        described = describe(directory, name=MODEL)
        backend, version = Wide(described.identity.vocabulary), ModelVersion("r", Precision.F32)
        model = ServedModel(
            described.identity, (MODEL,), Encoder(described), backend, 0, lambda: version
        )
        endpoint = Endpoint(
            lambda: {MODEL: model},
            limits=RequestLimits(),
            max_body_bytes=2**26,
            max_held_bytes=2**28,
            timeout_s=60,
            tokenizer_threads=1,
            answered=lambda _: None,
            cache=VectorCache(MemoryTier(2**28)),
        )
        exact, prefixes = contract_routes(endpoint, lambda route: route, lambda route, _: route)
        listener = Listener(Router(exact, prefixes, meant=meant), bind("127.0.0.1", 0))
        async with serving([listener], stop_timeout_s=1):
            print(f"http://{listener.address}/v1", flush=True)
            await asyncio.Event().wait()


def layouts(url: str, texts: list[str]) -> dict[str, Callable[[], Any]]:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    address = urlsplit(url)
    plain = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)

    def listed(layout: str) -> Any:
        given: dict[str, Any] = (
            {} if layout == "base64" else {"encoding_format": layout}
        )  # the client's default
        answer = client.embeddings.create(model=MODEL, input=texts, **given)
        return np.array([each.embedding for each in answer.data], np.float32)

    def raw(**fields: str) -> Any:
        asked = {"model": MODEL, "input": texts, "encoding_format": "bytes_only"} | fields
        plain.request("POST", f"{address.path}/embeddings", json.dumps(asked))
        answer = plain.getresponse()
        kind = {"float32": "<f4", "int8": "i1"}[answer.headers["x-embedfleet-dtype"]]
        return np.frombuffer(answer.read(), kind).reshape(len(texts), -1)

    return {
        "float JSON": lambda: listed("float"),
        "base64": lambda: listed("base64"),
        "bytes": raw,
        "bytes, int8": lambda: raw(output_dtype="int8"),
    }


def measure(url: str, texts: int, rounds: int) -> dict[str, list[float]]:
    asked = layouts(url, [f"text {number} of a batch" for number in range(texts)])
    for ask in asked.values():
        ask()
    found: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(rounds):
        for name, ask in asked.items():
            begun = time.perf_counter()
            ask()
            found[name].append(texts / (time.perf_counter() - begun))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=2560)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--serve", action="store_true")
    chosen = parser.parse_args()
    if chosen.serve:
        asyncio.run(serve(chosen.width))
        return
    command = [sys.executable, "-m", "benchmarks.forms_speed", "--serve", "--width"]
    server = subprocess.Popen([*command, str(chosen.width)], stdout=subprocess.PIPE, text=True)
    try:
        url = (server.stdout or sys.stdin).readline().strip()
        found = measure(url, chosen.texts, chosen.rounds)
    finally:
        server.terminate()
        server.wait()
    told = {
        "date": datetime.now(UTC).date().isoformat(),
        "width": chosen.width,
        "texts a request": chosen.texts,
        "rounds": chosen.rounds,
        "texts/s, median": {name: round(statistics.median(each)) for name, each in found.items()},
        "bytes over, median of ratios": {
            name: round(
                statistics.median(a / b for a, b in zip(found["bytes"], each, strict=True)), 2
            )
            for name, each in found.items()
            if name != "bytes"
        },
    }
    (RESULTS / "forms-speed.json").write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
