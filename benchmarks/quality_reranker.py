"""MRR@10 of the built-in model's best fifty, reordered by a reranker, beside BM25.

    python -m benchmarks.quality_reranker [--reranker DIR] [--queries 500] [--sets squad …]

Everything is computed by embedfleet's own engine. Of each set a random sample of the queries is
taken, the same every time, over all of its documents. "BM25 alone" ranks all documents; "BM25 on
the fifty" reorders what the vectors found. Prints a table and writes JSON into
`benchmarks/results/`. The data is what training/corpora.py reads; EMBEDFLEET_DATA says where it
lies.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
from benchmarks.quality import RETRIEVAL, ModelEmbedder
from benchmarks.quality_ranking import BM25Scores, Floats
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.encoding.prompts import prompt_for
from embedfleet.models.source import BUILTIN_DIRECTORY, RERANKER_DIRECTORY
from embedfleet.vocabulary import SCORE_WIDTH, Truncation
from training import corpora

RESULTS: Final = Path(__file__).parent / "results" / "quality-builtin-reranker.json"
SETS: Final = ("squad", "cmrc", "scifact", "xquad-zh-en")
DEPTH: Final = 50
CUTOFF: Final = 10
SEED: Final = 7
RESAMPLINGS: Final = 2000

Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Measured:
    """MRR@10 of one set, by what ordered it."""

    title: str
    queries: int
    of_queries: int
    documents: int
    vectors: float
    bm25: float
    """Alone, over all documents."""
    bm25_on_fifty: float
    reranker: float
    attainable: float
    """Share of queries with a right document among the fifty."""
    gain: float
    """Of the reranker over the vectors."""
    gain_interval: tuple[float, float]
    """95 %, by resampling queries."""
    pairs: int
    pair_tokens: int
    seconds: float
    """Of reranking."""


class PairScorer:
    """Queries with documents to scores, as the service computes them."""

    def __init__(self, directory: Path, dtype: str) -> None:
        self._model = describe(directory)
        self._encoder = Encoder(self._model)
        self._engine = load_engine(directory, EngineOptions(dtype=dtype))
        self.tokens = 0

    def __call__(self, query: str, documents: Sequence[str]) -> Floats:
        prompt = prompt_for(self._model.identity, None, None, query)
        encoded = self._encoder.encode(list(documents), prompt=prompt, truncate=Truncation.END)
        ids = [one.ids for one in encoded]
        self.tokens += sum(map(len, ids))
        rows = np.empty((len(ids), SCORE_WIDTH), np.float32)
        at = 0
        while at < len(ids):
            stop, room = at, self._engine.info.batch_tokens
            while stop < len(ids) and (stop == at or len(ids[stop]) <= room):
                room -= len(ids[stop])
                stop += 1
            rows[at:stop] = self._engine.prepare(ids[at:stop])()
            at = stop
        # √p tells scores near 0 apart, √(1-p) those near 1: what orders both is their ratio.
        logits: Floats = np.log(rows[:, 1]) - np.log(rows[:, 0])
        return logits

    def close(self) -> None:
        self._engine.close()


def reciprocal_ranks(ranking: Indices, relevant: Sequence[set[int]]) -> NDArray[np.float64]:
    """Of the first right document within the cutoff, 0 where there is none; one per query."""
    found = np.zeros(len(relevant))
    for query, (row, right) in enumerate(zip(ranking, relevant, strict=True)):
        places = [place for place, document in enumerate(row[:CUTOFF]) if int(document) in right]
        found[query] = 1 / (places[0] + 1) if places else 0.0
    return found


def reordered(candidates: Indices, scores: Floats) -> Indices:
    """Each row's candidates by falling score; of equal scores the earlier candidate comes first."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(candidates, order, axis=1)


def interval(gains: NDArray[np.float64]) -> tuple[float, float]:
    rng = np.random.default_rng(SEED)
    picked = rng.integers(len(gains), size=(RESAMPLINGS, len(gains)))
    low, high = np.percentile(gains[picked].mean(axis=1), (2.5, 97.5))
    return round(float(low), 4), round(float(high), 4)


def measure(
    name: str, most: int, embed: ModelEmbedder, prompt: str, score: PairScorer, progress: Progress
) -> Measured:
    title, load = RETRIEVAL[name]
    data = load()
    every = len(data.queries)
    sample = sorted(Random(SEED).sample(range(every), min(most, every)))
    queries = [data.queries[place] for place in sample]
    relevant = [data.relevant[place] for place in sample]
    similarity = embed(queries, prompt) @ embed(data.documents, "").T
    candidates = np.argsort(-similarity, axis=1, kind="stable")[:, :DEPTH]
    lexical = BM25Scores(queries, data.documents)(0, len(queries))
    task = progress.add_task(title, total=len(queries))
    scores = np.empty(candidates.shape, np.float32)
    begin, tokens = time.monotonic(), score.tokens
    for row, query in enumerate(queries):
        scores[row] = score(query, [data.documents[place] for place in candidates[row]])
        progress.advance(task)
    seconds = time.monotonic() - begin
    vectors = reciprocal_ranks(candidates, relevant)
    reranked = reciprocal_ranks(reordered(candidates, scores), relevant)
    alone = reciprocal_ranks(np.argsort(-lexical, axis=1, kind="stable")[:, :CUTOFF], relevant)
    fifty = np.take_along_axis(lexical, candidates, axis=1)
    on_fifty = reciprocal_ranks(reordered(candidates, fifty), relevant)
    inside = [
        bool(right & set(map(int, row))) for row, right in zip(candidates, relevant, strict=True)
    ]
    return Measured(
        title=title,
        queries=len(queries),
        of_queries=every,
        documents=len(data.documents),
        vectors=round(float(vectors.mean()), 4),
        bm25=round(float(alone.mean()), 4),
        bm25_on_fifty=round(float(on_fifty.mean()), 4),
        reranker=round(float(reranked.mean()), 4),
        attainable=round(float(np.mean(inside)), 4),
        gain=round(float((reranked - vectors).mean()), 4),
        gain_interval=interval(reranked - vectors),
        pairs=candidates.size,
        pair_tokens=score.tokens - tokens,
        seconds=round(seconds, 1),
    )


def show(results: Sequence[Measured], console: Console) -> None:
    table = Table("MRR@10", "queries", "vectors", "BM25", "BM25 on 50", "reranker", "gain", "in 50")
    for one in results:
        low, high = one.gain_interval
        table.add_row(
            *(one.title, f"{one.queries} of {one.of_queries}"),
            *(f"{value:.3f}" for value in (one.vectors, one.bm25, one.bm25_on_fifty)),
            *(f"{one.reranker:.3f}", f"{one.gain:+.3f} ({low:+.3f} to {high:+.3f})"),
            f"{one.attainable:.3f}",
        )
    console.print(table)


def save(results: Sequence[Measured], dtype: str, path: Path) -> None:
    means = {
        key: round(float(np.mean([getattr(one, key) for one in results])), 4)
        for key in ("vectors", "bm25", "bm25_on_fifty", "reranker", "gain", "attainable")
    }
    content = {
        "command": " ".join(["python -m benchmarks.quality_reranker", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "dtype": dtype,
        "mean": means,
        "sets": [asdict(one) for one in results],
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reranker", type=Path, default=RERANKER_DIRECTORY)
    parser.add_argument("--dtype", choices=("f32", "int8"), default="int8")
    parser.add_argument("--queries", type=int, default=500, help="most of a set")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if not corpora.data_directory().is_dir():
        sys.exit(f"No data in {corpora.data_directory()}; set EMBEDFLEET_DATA.")
    console = Console(width=max(130, Console().width))
    results: list[Measured] = []
    with Progress(console=console, transient=True) as progress:
        embed = ModelEmbedder(BUILTIN_DIRECTORY, arguments.dtype, progress)
        prompt = describe(BUILTIN_DIRECTORY).identity.prompts["query"]
        score = PairScorer(arguments.reranker, arguments.dtype)
        for name in arguments.sets:
            results.append(measure(name, arguments.queries, embed, prompt, score, progress))
            save(results, arguments.dtype, arguments.out)
        score.close()
        embed.close()
    show(results, console)
    console.print(f"Wrote {arguments.out}")


if __name__ == "__main__":
    main()
