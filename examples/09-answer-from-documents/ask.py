"""Answer a question from passages, by quoting the one that answers it.

    python ask.py vectors "How do I copy a whole directory tree?"
    python ask.py --prompt vectors "How do I copy a whole directory tree?"

`vectors` is an output of `embedfleet bulk` with ids and texts. With `--prompt`, what is printed is
the prompt for a language model instead of a quotation.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from embedfleet import Client
from embedfleet.client import ClientError

FOUND = 30
"""Passages that vectors find, for a reranker to choose among."""
GIVEN = 3
"""Passages that are printed, or that a language model gets."""

PROMPT = """\
Answer the question from the passages alone, and name the one that you used.
If none of them answers it, say so.

{passages}

Question: {question}
"""


def stored(vectors: Path) -> tuple[list[dict[str, Any]], Any]:
    """Rows and matrix. The manifest is there once all is whole."""
    manifest = json.loads((vectors / "_manifest.json").read_text(encoding="utf-8"))
    files = [vectors / file["name"] for each in manifest["fragments"] for file in each["outputs"]]
    rows = [json.loads(line) for file in files for line in file.open(encoding="utf-8")]
    return rows, np.array([row.pop("embedding") for row in rows], np.float32)


def retrieve(client: Client, question: str, vectors: Path) -> list[tuple[float, dict[str, Any]]]:
    """The passages nearest to the question with their similarity, nearest first."""
    rows, matrix = stored(vectors)
    near = matrix @ client.embed(question, input_type="query")  # unit length: these are cosines
    best = np.argsort(-near, kind="stable")[:FOUND]
    return [(float(near[at]), rows[at]) for at in best]


def rerank(
    client: Client, question: str, found: list[tuple[float, dict[str, Any]]]
) -> list[tuple[float, dict[str, Any]]]:
    """The same in a better order where the service has a reranker, else as they are."""
    rerankers = [model.name for model in client.models() if model.task == "rerank"]
    if not rerankers:
        return found
    texts = [row["text"] for _, row in found]
    ranking = client.rerank(question, texts, model=rerankers[0], top_n=GIVEN)
    return [(float(ranking.scores[place]), found[place][1]) for place in ranking.order]


def main() -> None:
    """Print the passages, the best one whole, or the prompt with them."""
    *flags, vectors, question = sys.argv[1:]
    url = os.environ.get("EMBEDFLEET_URL", "http://127.0.0.1:8080/v1")
    try:
        with Client(url, retry_timeout_s=5) as client:
            found = rerank(client, question, retrieve(client, question, Path(vectors)))[:GIVEN]
    except ClientError as error:
        sys.exit(
            f"{error}\nIs a service at {url}? Start one with `make serve`, or set EMBEDFLEET_URL."
        )
    if "--prompt" in flags:
        passages = "\n\n".join(f"[{row['id']}]\n{row['text']}" for _, row in found)
        print(PROMPT.format(passages=passages, question=question), end="")
        return
    (score, best), *others = found
    print(f"{best['name']} ({score:.2f}) says:\n")
    print("\n".join(f"  > {line}".rstrip() for line in best["text"].splitlines()))
    print("\nNext: " + ", ".join(f"{row['name']} ({score:.2f})" for score, row in others))


if __name__ == "__main__":
    main()
