"""Texts a second of one service: `embedfleet bulk`, its client, openai-python, Baseten's client.

    python -m benchmarks.bulk --texts 20000 --rounds 3
    python -m benchmarks.bulk --texts 100000 --rounds 3 --stand-in

All ask the same running service, one after the other in each round, in another order each time,
and go from a file of JSON lines to a file of vectors; texts are new in every run, so that no cache
helps. `--only` chooses some of them. The limit is the engine in this process: the
texts of a run, tokenised before, in batches of like length on two threads. With `--stand-in` the
service answers every text with one vector at once: what is measured is what each of them can do
at most, and the processor time that it takes.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import openai

from benchmarks import bulk_memory
from embedfleet import Client
from embedfleet.bulk.private_fleet import private_fleet

WORDS = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").split()


def texts_of(run: int, count: int) -> list[str]:
    """New texts of 8 to 40 words."""
    rng = np.random.default_rng(run)
    sizes = rng.integers(8, 40, count)
    return [
        f"{run} {n} " + " ".join(WORDS[at] for at in rng.integers(0, len(WORDS), size))
        for n, size in enumerate(sizes)
    ]


def read(source: Path) -> list[str]:
    """The texts of a file of JSON lines."""
    with source.open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def by_bulk(url: str, source: Path, folder: Path) -> None:
    """The command, to NumPy's files."""
    words = [str(source), str(folder / "out"), "--url", url]
    subprocess.run(
        [sys.executable, "-m", "embedfleet", "bulk", *words, "--json"],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def by_client(url: str, source: Path, folder: Path) -> None:
    """`embedfleet.Client`, to one file."""
    with Client(url, lane="bulk") as client:
        np.save(folder / "out.npy", client.embed(read(source)))


def by_openai(url: str, source: Path, folder: Path) -> None:
    """openai-python in a loop over 64 texts a request, with 8 threads, to one file."""
    texts = read(source)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        model = client.models.list().data[0].id

        def embed(start: int) -> list[list[float]]:
            answer = client.embeddings.create(model=model, input=texts[start : start + 64])
            return [each.embedding for each in answer.data]

        with ThreadPoolExecutor(8) as threads:
            parts = list(threads.map(embed, range(0, len(texts), 64)))
    np.save(folder / "out.npy", np.array([row for part in parts for row in part], np.float32))


def by_baseten(url: str, source: Path, folder: Path) -> None:
    """baseten-performance-client with 64 texts a request and up to 32 at once, to one file."""
    from baseten_performance_client import (  # noqa: PLC0415
        PerformanceClient,
        RequestProcessingPreference,
    )

    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        model = client.models.list().data[0].id
    performance = PerformanceClient(base_url=url, api_key="none")
    chosen = RequestProcessingPreference(batch_size=64, max_concurrent_requests=32)
    answer = performance.embed(input=read(source), model=model, preference=chosen)
    np.save(folder / "out.npy", answer.numpy().astype(np.float32))


CONTENDERS: dict[str, Callable[[str, Path, Path], None]] = {
    "embedfleet bulk": by_bulk,
    "embedfleet.Client": by_client,
    "openai-python, 8 threads": by_openai,
    "baseten-performance-client": by_baseten,
}


def engine_rate(texts: list[str], threads: int) -> float:
    """Texts a second of the engine alone: batches of 64 texts of like length, ids made before."""
    from embedfleet.engines.loading import EngineOptions, load_engine  # noqa: PLC0415
    from embedfleet.models.description import describe  # noqa: PLC0415
    from embedfleet.models.encoding.encoder import Encoder  # noqa: PLC0415
    from embedfleet.models.source import resolve  # noqa: PLC0415
    from embedfleet.vocabulary import Truncation  # noqa: PLC0415

    directory = resolve("builtin", progress=False).directory
    encoder = Encoder(describe(directory))
    every = [
        one.ids
        for one in encoder.encode(texts, prompt="", truncate=Truncation.NONE)
        if not isinstance(one, Exception)
    ]
    every.sort(key=len)
    engine = load_engine(directory, EngineOptions(threads=threads))
    try:
        engine.prepare(every[:64])()
        began = time.monotonic()
        for start in range(0, len(every), 64):
            engine.prepare(every[start : start + 64])()
        return len(every) / (time.monotonic() - began)
    finally:
        engine.close()


def replica_rate(url: str, texts: list[str]) -> float:
    """Texts a second of the service when bodies are made before and answers are thrown away."""
    pieces = [texts[start : start + 256] for start in range(0, len(texts), 256)]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        model = client.models.list().data[0].id
    fields = {"model": model, "encoding_format": "base64"}
    bodies = [json.dumps({**fields, "input": piece}).encode() for piece in pieces]
    headers = {"content-type": "application/json", "x-embedfleet-lane": "bulk"}

    def ask(body: bytes) -> None:
        request = urllib.request.Request(f"{url}/v1/embeddings", body, headers)  # noqa: S310
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            answer.read()

    began = time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, bodies))
    return len(texts) / (time.monotonic() - began)


@contextmanager
def stand_in() -> Iterator[str]:
    """The address of a service that computes nothing."""
    port = 20_000 + os.getpid() % 10_000
    command = [sys.executable, bulk_memory.__file__, "serve", str(port)]
    service = subprocess.Popen(command)
    try:
        time.sleep(3)
        yield f"http://127.0.0.1:{port}"
    finally:
        service.terminate()
        service.wait()


BULK = "embedfleet bulk"
LIMIT = "the engine alone, 2 threads"
READY = "the service, asked with ready bodies"


def rounds(url: str, count: int, number: int, names: list[str]) -> Iterator[dict[str, float]]:
    """Texts a second of each contender, round by round."""
    run = int(time.time())
    for at in range(number):
        found: dict[str, float] = {}
        for name in names[at % len(names) :] + names[: at % len(names)]:
            run += 1
            texts = texts_of(run, count)
            if name == LIMIT:
                found[name] = engine_rate(texts, 2)
            elif name == READY:
                found[name] = replica_rate(url, texts)
            else:
                found |= contender_rate(name, url, texts)
        print(json.dumps({name: round(rate, 1) for name, rate in found.items()}), flush=True)
        yield found


def contender_rate(name: str, url: str, texts: list[str]) -> dict[str, float]:
    """Nothing where it is not installed, or can't read what the service answers."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.jsonl"
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        began, before = time.monotonic(), processor_s()
        try:
            CONTENDERS[name](url, source, Path(folder))
        except (ImportError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return {}
        took, busy = time.monotonic() - began, processor_s() - before
        return {name: len(texts) / took, f"{name}{MICROSECONDS}": 1e6 * busy / len(texts)}


MICROSECONDS = ", processor time in µs a text"


def processor_s() -> float:
    """Of this process and of children that have ended, in seconds."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def main() -> None:
    """Run the rounds against a service that is started for them; print and write the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--only", nargs="+", choices=[*CONTENDERS, LIMIT, READY])
    parser.add_argument("--output", type=Path, default=None)
    chosen = parser.parse_args()
    if chosen.stand_in:
        with stand_in() as url:
            every = list(rounds(url, chosen.texts, chosen.rounds, chosen.only or list(CONTENDERS)))
    else:
        with private_fleet("builtin", 2, keyed=False) as (url, _):
            several = chosen.only or [*CONTENDERS, LIMIT, READY]
            every = list(rounds(url, chosen.texts, chosen.rounds, several))
    names = list(dict.fromkeys(name for found in every for name in found))
    report = {
        "command": shlex.join(["python", "-m", "benchmarks.bulk", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "processors": os.cpu_count(),
        "load_average_at_the_end": os.getloadavg()[0],
        "each_round": {name: [round(found[name], 1) for found in every] for name in names},
        "medians": {
            name: round(statistics.median(found[name] for found in every), 1) for name in names
        },
        "median_of_ratios_of_bulk": {
            name: round(statistics.median(found[BULK] / found[name] for found in every), 3)
            for name in names
            if not name.endswith(MICROSECONDS)
        },
    }
    text = json.dumps(report, indent=1) + "\n"
    print(text, end="")
    if chosen.output is not None:
        chosen.output.write_text(text)


if __name__ == "__main__":
    main()
