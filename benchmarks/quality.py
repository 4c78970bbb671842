"""Retrieval quality of a model by embedfleet's own engine, beside BM25 on the same data.

    python -m benchmarks.quality [--model DIR] [--precision f32 int8] [--sets squad …] [--no-plot]

Recall and nDCG within the first ten at every dimension, with and without the query instruction,
and Spearman's correlation on sentence similarity. Prints a table; writes JSON, a Markdown table and
(with the extra `plots`) a plot into `benchmarks/results/`. The data is what training/corpora.py
reads; EMBEDFLEET_DATA says where it lies.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from benchmarks.quality_plot import plot
from benchmarks.quality_ranking import (
    BM25Scores,
    CosineScores,
    Floats,
    Ranking,
    ranking,
    shortened,
    spearman,
)
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.vocabulary import Truncation
from training import corpora

RESULTS: Final = Path(__file__).parent / "results"
BUILT_IN: Final = Path(__file__).parents[1] / "src" / "embedfleet" / "models" / "builtin"

RETRIEVAL: Final[dict[str, tuple[str, Callable[[], corpora.Retrieval]]]] = {
    "squad": ("SQuAD 1.1 dev", corpora.squad_dev),
    "xquad-en": ("XQuAD en", lambda: corpora.xquad("en", "en")),
    "xquad-zh": ("XQuAD zh", lambda: corpora.xquad("zh", "zh")),
    "xquad-zh-en": ("XQuAD zh→en", lambda: corpora.xquad("zh", "en")),
    "cmrc": ("CMRC 2018 dev", corpora.cmrc_dev),
    "scifact": ("SciFact test", corpora.scifact_test),
    "xquad-es": ("XQuAD es", lambda: corpora.xquad("es", "es")),
    "xquad-de": ("XQuAD de", lambda: corpora.xquad("de", "de")),
}
SIMILARITY: Final = {"sts-en": ("STS-B en test", "en"), "sts-zh": ("STS-B zh test", "zh")}

Embed: TypeAlias = Callable[[Sequence[str], str], Floats]
"""Texts and the prompt before each of them to unit vectors."""


@dataclass(slots=True)
class Scored:
    """What was measured on one set by one precision."""

    title: str
    bm25: Ranking | None = None
    instructed: dict[int, Ranking] = field(default_factory=dict)
    """Dimension -> ranking with the model's own query prompt."""
    bare: dict[int, Ranking] = field(default_factory=dict)
    """The same without it."""
    spearman: float | None = None


class ModelEmbedder:
    """Texts to vectors through the project's tokenizer, encoder and engine."""

    def __init__(self, directory: Path, precision: str, progress: Progress) -> None:
        self._encoder = Encoder(describe(directory))
        self._engine = load_engine(directory, EngineOptions(dtype=precision))
        self._progress = progress
        self.width = self._engine.info.width
        self.tokens = 0

    def __call__(self, texts: Sequence[str], prompt: str) -> Floats:
        encoded = self._encoder.encode(list(texts), prompt=prompt, truncate=Truncation.END)
        ids = [one.ids for one in encoded]
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        vectors = np.empty((len(ids), self.width), dtype=np.float32)
        task = self._progress.add_task(f"{len(texts)} texts", total=sum(map(len, ids)))
        at = 0
        while at < len(order):
            stop, room = at, self._engine.info.batch_tokens
            while stop < len(order) and (stop == at or len(ids[order[stop]]) <= room):
                room -= len(ids[order[stop]])
                stop += 1
            batch = order[at:stop]
            vectors[batch] = self._engine.prepare([ids[place] for place in batch])()
            self._progress.update(task, advance=sum(len(ids[place]) for place in batch))
            at = stop
        self._progress.remove_task(task)
        self.tokens += sum(map(len, ids))
        return vectors

    def close(self) -> None:
        self._engine.close()


def dimensions(width: int) -> list[int]:
    """Every power of two from 32, a fifth of the width, and the width."""
    powers = [1 << power for power in range(5, width.bit_length()) if 1 << power <= width]
    return sorted({*powers, width // 5, width})


def score_retrieval(
    title: str, dataset: corpora.Retrieval, embed: Embed, prompt: str, width: int
) -> Scored:
    documents = embed(dataset.documents, "")
    scored = Scored(title)
    for target, words_before in ((scored.instructed, prompt), (scored.bare, "")):
        queries = embed(dataset.queries, words_before)
        for dimension in dimensions(width):
            cosines = CosineScores(queries, documents, dimension)
            target[dimension] = ranking(cosines, dataset.relevant)
    return scored


def score_similarity(title: str, pairs: corpora.Similarity, embed: Embed, width: int) -> Scored:
    left, right = (shortened(embed(side, ""), width) for side in (pairs.left, pairs.right))
    return Scored(title, spearman=spearman((left * right).sum(axis=1).tolist(), pairs.scores))


def measure(directory: Path, precision: str, names: Sequence[str], console: Console) -> Measured:
    """Score one precision on the sets, with a progress bar on the terminal."""
    started = time.monotonic()
    with Progress(console=console, transient=True) as progress:
        embed = ModelEmbedder(directory, precision, progress)
        prompt = describe(directory).identity.prompts["query"]
        sets: dict[str, Scored] = {}
        for name in names:
            if name in RETRIEVAL:
                title, load = RETRIEVAL[name]
                sets[name] = score_retrieval(title, load(), embed, prompt, embed.width)
            else:
                title, language = SIMILARITY[name]
                pairs = corpora.stsb_test(language)
                sets[name] = score_similarity(title, pairs, embed, embed.width)
        embed.close()
    return Measured(precision, embed.width, embed.tokens, time.monotonic() - started, sets)


@dataclass(slots=True)
class Measured:
    """All sets by one precision."""

    precision: str
    width: int
    tokens: int
    seconds: float
    sets: dict[str, Scored]


def add_bm25(measured: Measured) -> None:
    for name, scored in measured.sets.items():
        if name in RETRIEVAL:
            dataset = RETRIEVAL[name][1]()
            lexical = BM25Scores(dataset.queries, dataset.documents)
            scored.bm25 = ranking(lexical, dataset.relevant)


def rows(measured: Measured) -> tuple[list[str], list[list[str]]]:
    """Heading and cells: recall at every dimension, then what else was measured."""
    widths = dimensions(measured.width)
    heading = ["recall@10", *map(str, widths), "bare", "kept at a fifth", "nDCG@10"]
    heading += ["BM25 recall@10", "BM25 nDCG@10"]
    cells = []
    for scored in measured.sets.values():
        if scored.spearman is not None:
            cells.append([scored.title, *[""] * (len(widths) - 1), f"ρ {scored.spearman:.3f}"])
            cells[-1] += [""] * (len(heading) - len(cells[-1]))
            continue
        full = scored.instructed[measured.width]
        kept = scored.instructed[measured.width // 5].recall / full.recall
        line = [scored.title, *(f"{scored.instructed[width].recall:.3f}" for width in widths)]
        line += [f"{scored.bare[measured.width].recall:.3f}", f"{kept:.1%}", f"{full.ndcg:.3f}"]
        line += [f"{x:.3f}" for x in (scored.bm25.recall, scored.bm25.ndcg)] if scored.bm25 else []
        cells.append(line + [""] * (len(heading) - len(line)))
    return heading, cells


def markdown(measured: Measured) -> str:
    heading, cells = rows(measured)
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show(measured: Measured, console: Console) -> None:
    heading, cells = rows(measured)
    title = f"{measured.precision}, {measured.width} dimensions"
    table = Table(*heading, title=title)
    for line in cells:
        table.add_row(*line)
    console.print(table)


def save(results: Sequence[Measured], directory: Path, name: str) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"quality-{name}.json"
    content: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "model": directory.name,
        "processor": platform.machine(),
        "python": platform.python_version(),
        "measured": [asdict(measured) for measured in results],
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    tables = "\n\n".join(f"{one.precision}:\n\n{markdown(one)}" for one in results)
    path.with_suffix(".md").write_text(tables + "\n", encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    every = [*RETRIEVAL, *SIMILARITY]
    parser.add_argument("--model", type=Path, default=BUILT_IN)
    parser.add_argument("--name", help="in the names of the results; by default the directory's")
    parser.add_argument("--precision", nargs="+", choices=("f32", "int8"), default=["f32", "int8"])
    parser.add_argument("--sets", nargs="+", choices=every, default=every)
    parser.add_argument("--no-plot", action="store_true")
    arguments = parser.parse_args()
    if not corpora.data_directory().is_dir():
        sys.exit(f"No data in {corpora.data_directory()}; set EMBEDFLEET_DATA.")
    console = Console(width=max(150, Console().width))
    results = []
    for precision in arguments.precision:
        measured = measure(arguments.model, precision, arguments.sets, console)
        add_bm25(measured)
        show(measured, console)
        results.append(measured)
    path = save(results, arguments.model, arguments.name or arguments.model.name)
    console.print(f"Wrote {path}")
    if not arguments.no_plot:
        plot(path, console)


if __name__ == "__main__":
    main()
