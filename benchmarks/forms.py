"""What the forms of a vector cost in recall, with the built-in model on real questions.

    python -m benchmarks.forms [--sets squad …] [--vectors DIR]

Of every form and number of dimensions: the share of questions for which a right passage is among
the first ten by inner product of what was answered, integers as they are. Bits are compared by
Hamming distance; `binary, 40 again` takes the 40 nearest by bits and ranks these anew by the inner
product of the float query with int8 documents. `int8 by row` is what servers do that scale each row
by its own largest value. Vectors are kept in DIR for the next run. Writes a table and JSON into
`benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from benchmarks.quality import BUILT_IN, RESULTS, RETRIEVAL, ModelEmbedder
from numpy.typing import NDArray
from rich.progress import Progress

from embedfleet.api.formats.vector_forms import Kind, derive, rounded, scale
from embedfleet.models.description import describe

FIRST: Final = 10
AGAIN: Final = 40
MOST_QUESTIONS: Final = 2000
DIMENSIONS: Final = (32, 64, 128, 256, 512, 640)
Floats: TypeAlias = NDArray[np.float32]
Ranked: TypeAlias = NDArray[np.intp]


def nearest(scores: Floats, most: int) -> Ranked:
    """The best documents of each question, best first; of equal ones the first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :most]


def by_product(kind: Kind) -> Callable[[Floats, Floats], Ranked]:
    def rank(queries: Floats, documents: Floats) -> Ranked:
        left, right = (np.asarray(rounded(each, kind)) for each in (queries, documents))
        if kind == "uint8":  # an index of these takes 128 off, or has it in every product
            left, right = (each.astype(np.float32) - 128 for each in (left, right))
        return nearest(left.astype(np.float32) @ right.astype(np.float32).T, FIRST)

    return rank


def bits(vectors: Floats) -> Floats:
    """-1 and 1: inner products rank as Hamming distances do."""
    packed = np.asarray(rounded(vectors, "ubinary"))
    return np.unpackbits(packed, axis=1)[:, : vectors.shape[1]].astype(np.float32) * 2 - 1


def by_bits(queries: Floats, documents: Floats) -> Ranked:
    return nearest(bits(queries) @ bits(documents).T, FIRST)


def by_bits_again(queries: Floats, documents: Floats) -> Ranked:
    rough = nearest(bits(queries) @ bits(documents).T, AGAIN)
    step = np.float32(scale("int8", documents.shape[1]))
    whole = np.asarray(rounded(documents, "int8")).astype(np.float32) * step
    scores = np.einsum("qd,qkd->qk", queries, whole[rough])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :FIRST]
    return np.take_along_axis(rough, order, axis=1)


def by_row(queries: Floats, documents: Floats) -> Ranked:
    """What is not done here: each row's largest value is 127."""
    left, right = (
        np.rint(each / np.abs(each).max(axis=1, keepdims=True) * 127)
        for each in (queries, documents)
    )
    return nearest(left @ right.T, FIRST)


FORMS: Final[dict[str, Callable[[Floats, Floats], Ranked]]] = {
    "float32": by_product("float32"),
    "float16": by_product("float16"),
    "bfloat16": by_product("bfloat16"),
    "fp8_e4m3": by_product("fp8_e4m3"),
    "fp8_e5m2": by_product("fp8_e5m2"),
    "int8": by_product("int8"),
    "uint8": by_product("uint8"),
    "binary": by_bits,
    "binary, 40 again": by_bits_again,
    "int8 by row": by_row,
}


def recall(found: Ranked, relevant: list[set[int]]) -> float:
    return float(
        np.mean(
            [not right.isdisjoint(row) for right, row in zip(relevant, found.tolist(), strict=True)]
        )
    )


def vectors_of(name: str, kept: Path | None) -> tuple[Floats, Floats, list[set[int]]]:
    """Questions with the model's prompt, documents, and which are right."""
    dataset = RETRIEVAL[name][1]()
    relevant = [set(each) for each in dataset.relevant[:MOST_QUESTIONS]]
    path = None if kept is None else kept / f"vec-{name}.npz"
    if path is not None and path.exists():
        stored = np.load(path)
        return stored["queries"], stored["docs"], relevant
    with Progress() as progress:
        embed = ModelEmbedder(BUILT_IN, "f32", progress)
        prompt = describe(BUILT_IN).identity.prompts["query"]
        documents = embed(dataset.documents, "")
        queries = embed(dataset.queries[:MOST_QUESTIONS], prompt)
        embed.close()
    if path is not None:
        np.savez(path, docs=documents, queries=queries)
    return queries, documents, relevant


def measure(name: str, kept: Path | None) -> dict[str, Any]:
    queries, documents, relevant = vectors_of(name, kept)
    found: dict[str, dict[str, float]] = {}
    for dimensions in DIMENSIONS:
        left, right = (np.asarray(derive(each, dimensions)) for each in (queries, documents))
        found[str(dimensions)] = {
            form: round(recall(rank(left, right), relevant), 4) for form, rank in FORMS.items()
        }
    step = scale("int8", documents.shape[1])
    reached = float(np.abs(documents).max() * np.sqrt(documents.shape[1]))
    return {
        "title": RETRIEVAL[name][0],
        "questions": len(queries),
        "documents": len(documents),
        "scale": step,
        "largest coordinate, in root mean squares": round(reached, 2),
        "recall@10": found,
    }


def as_markdown(results: dict[str, Any]) -> str:
    lines = ["# Recall of the forms of a vector", ""]
    lines += [f"{results['date']}, {results['machine']}: `python -m benchmarks.forms`.", ""]
    for one in results["sets"].values():
        lines += [f"## {one['title']}", ""]
        lines += [f"{one['questions']:,} questions, {one['documents']:,} documents; recall@10.", ""]
        lines += ["| dimensions | " + " | ".join(FORMS) + " |", "|---" * (len(FORMS) + 1) + "|"]
        for dimensions, row in one["recall@10"].items():
            lines.append(
                f"| {dimensions} | " + " | ".join(f"{row[each]:.3f}" for each in FORMS) + " |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=["squad", "scifact", "cmrc", "xquad-en"])
    parser.add_argument("--vectors", type=Path)
    chosen = parser.parse_args()
    results: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "sets": {name: measure(name, chosen.vectors) for name in chosen.sets},
    }
    (RESULTS / "forms-builtin.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "forms-builtin.md").write_text(as_markdown(results))
    print(as_markdown(results))


if __name__ == "__main__":
    main()
