"""An output of `embedfleet bulk` in an index that runs in this process, and questions to it.

    python index.py fill sqlite-vec vectors index.db
    python index.py search sqlite-vec index.db "how do I read a file line by line?"

`sqlite-vec`, `faiss` and `qdrant` each take a package (pip install sqlite-vec, faiss-cpu,
qdrant-client). What is filled fragment by fragment goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from embedfleet import Client

try:  # some builds of Python have a sqlite3 that loads no extensions
    import pysqlite3 as sqlite3
except ImportError:
    import sqlite3

BEST = 3


def fragments(vectors: Path) -> Iterator[tuple[str, list[dict[str, Any]], Any]]:
    """Name, rows and matrix of each fragment, in order. The manifest is there once all is whole."""
    manifest = json.loads((vectors / "_manifest.json").read_text(encoding="utf-8"))
    for entry in manifest["fragments"]:
        (file,) = entry["outputs"]
        lines = (vectors / file["name"]).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        matrix = np.array([row.pop("embedding") for row in rows], np.float32)
        yield f"{entry['fragment']}@{entry['digest']}", rows, matrix


class SqliteVec:
    """A table of SQLite, by the extension sqlite-vec."""

    def __init__(self, path: Path) -> None:
        import sqlite_vec  # noqa: PLC0415

        self._db = sqlite3.connect(path)
        self._db.enable_load_extension(True)
        sqlite_vec.load(self._db)
        self._db.execute("CREATE TABLE IF NOT EXISTS texts (id TEXT, page TEXT, text TEXT)")
        self._db.execute("CREATE TABLE IF NOT EXISTS done (fragment TEXT PRIMARY KEY)")

    def fill(self, vectors: Path) -> None:
        """A transaction for each fragment: it is there as a whole, or not at all."""
        for name, rows, matrix in fragments(vectors):
            if self._db.execute("SELECT 1 FROM done WHERE fragment = ?", [name]).fetchone():
                continue
            width = matrix.shape[1]
            kind = f"embedding float[{width}] distance_metric=cosine"
            with self._db:
                self._db.execute(f"CREATE VIRTUAL TABLE IF NOT EXISTS vectors USING vec0({kind})")
                for row, vector in zip(rows, matrix, strict=True):
                    values = (row["id"], row["page"], row["text"])
                    at = self._db.execute("INSERT INTO texts VALUES (?, ?, ?)", values).lastrowid
                    pair = (at, vector.tobytes())
                    self._db.execute("INSERT INTO vectors (rowid, embedding) VALUES (?, ?)", pair)
                self._db.execute("INSERT INTO done VALUES (?)", [name])

    def search(self, question: Any) -> list[tuple[float, str, str]]:
        """Similarity, id and text of the nearest."""
        found = self._db.execute(
            "SELECT 1 - distance, id, text FROM vectors JOIN texts ON texts.rowid = vectors.rowid "
            "WHERE embedding MATCH ? AND k = ? ORDER BY distance",
            (question.tobytes(), BEST),
        )
        return found.fetchall()


class Faiss:
    """A flat index of inner products, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = path.with_suffix(".json")

    def fill(self, vectors: Path) -> None:
        """Vectors are copied, nothing is computed: all at once, and named when it is whole."""
        import faiss  # noqa: PLC0415

        parts = list(fragments(vectors))
        index = faiss.IndexFlatIP(parts[0][2].shape[1])
        for _, _, matrix in parts:
            index.add(matrix)
        rows = [[row["id"], row["text"]] for _, some, _ in parts for row in some]
        self._rows.write_text(json.dumps(rows), encoding="utf-8")
        partial = self._path.with_suffix(".partial")
        faiss.write_index(index, str(partial))
        partial.replace(self._path)

    def search(self, question: Any) -> list[tuple[float, str, str]]:
        """Similarity, id and text of the nearest."""
        import faiss  # noqa: PLC0415

        rows = json.loads(self._rows.read_text(encoding="utf-8"))
        scores, places = faiss.read_index(str(self._path)).search(question[None], BEST)
        return [(float(score), *rows[at]) for score, at in zip(scores[0], places[0], strict=True)]


class Qdrant:
    """A collection of Qdrant in a folder, without a server."""

    def __init__(self, path: Path) -> None:
        from qdrant_client import QdrantClient  # noqa: PLC0415

        self._client = QdrantClient(path=str(path))

    def fill(self, vectors: Path) -> None:
        """Points by their numbers: filled again, they are the same ones."""
        from qdrant_client import models  # noqa: PLC0415

        first = 0
        for _, rows, matrix in fragments(vectors):
            if not self._client.collection_exists("texts"):
                kind = models.VectorParams(size=matrix.shape[1], distance=models.Distance.COSINE)
                self._client.create_collection("texts", vectors_config=kind)
            if self._client.count("texts").count < first + len(rows):
                points = models.Batch(
                    ids=list(range(first, first + len(rows))),
                    vectors=matrix.tolist(),
                    payloads=rows,
                )
                self._client.upsert("texts", points)
            first += len(rows)
        self._client.close()

    def search(self, question: Any) -> list[tuple[float, str, str]]:
        """Similarity, id and text of the nearest."""
        found = self._client.query_points("texts", question.tolist(), limit=BEST).points
        self._client.close()
        return [(one.score, one.payload["id"], one.payload["text"]) for one in found]


INDEXES = {"sqlite-vec": SqliteVec, "faiss": Faiss, "qdrant": Qdrant}


def main() -> None:
    """Fill an index, or search it."""
    what, kind, *words = sys.argv[1:]
    if what == "fill":
        vectors, path = map(Path, words)
        INDEXES[kind](path).fill(vectors)
        return
    path, question = words
    url = os.environ.get("EMBEDFLEET_URL", "http://127.0.0.1:8080/v1")
    with Client(url) as client:
        vector = client.embed(question, input_type="query")
    for score, name, text in INDEXES[kind](Path(path)).search(vector):
        print(f"{score:.3f} {name}: {' '.join(text.split())[:80]}")


if __name__ == "__main__":
    main()
