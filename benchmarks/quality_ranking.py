"""Ranking measures, and BM25 as the yardstick; vectors and models are not known here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CUTOFF = 10
_BLOCK = 1024  # queries scored at once

_TOKENS = re.compile(r"[\u3400-\u9fff]+|[^\W_\u3400-\u9fff]+")


@dataclass(frozen=True, slots=True)
class Ranking:
    """Means over the queries of a set."""

    recall: float
    ndcg: float


def ranking(scores_of: Scores, relevant: Sequence[set[int]]) -> Ranking:
    """Recall and nDCG within the first ten; of equal scores the lower index comes first."""
    discounts = 1 / np.log2(np.arange(CUTOFF) + 2)
    recall, ndcg = 0.0, 0.0
    for start in range(0, len(relevant), _BLOCK):
        wanted = relevant[start : start + _BLOCK]
        scores = scores_of(start, start + len(wanted))
        best = np.argsort(-scores, axis=1, kind="stable")[:, :CUTOFF]
        for row, right in zip(best, wanted, strict=True):
            hits = np.array([document in right for document in row])
            recall += hits.sum() / len(right)
            ndcg += (hits * discounts[: len(hits)]).sum() / discounts[: len(right)].sum()
    return Ranking(float(recall) / len(relevant), float(ndcg) / len(relevant))


class Scores:
    """Scores of queries `start` to `stop` against every document."""

    def __call__(self, start: int, stop: int) -> Floats:
        raise NotImplementedError


class CosineScores(Scores):
    """Cosines of vectors cut to `width` and normalised again."""

    def __init__(self, queries: Floats, documents: Floats, width: int) -> None:
        self._queries, self._documents = shortened(queries, width), shortened(documents, width)

    def __call__(self, start: int, stop: int) -> Floats:
        return self._queries[start:stop] @ self._documents.T


def shortened(vectors: Floats, width: int) -> Floats:
    cut = vectors[:, :width]
    unit: Floats = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    return unit


def words(text: str) -> list[str]:
    """Lower-case words; Chinese runs as overlapping pairs of characters."""
    found: list[str] = []
    for run in _TOKENS.findall(text.lower()):
        if "\u3400" <= run[0] <= "\u9fff" and len(run) > 1:
            found.extend(run[at : at + 2] for at in range(len(run) - 1))
        else:
            found.append(run)
    return found


class BM25Scores(Scores):
    """Okapi BM25 over an inverted index, with Lucene's idf."""

    def __init__(
        self, queries: Sequence[str], documents: Sequence[str], k1: float = 1.2, b: float = 0.75
    ) -> None:
        self._queries, self._size = [words(query) for query in queries], len(documents)
        counts = [Counter(words(document)) for document in documents]
        lengths = np.array([count.total() for count in counts], dtype=np.float32)
        saturation = k1 * (1 - b + b * lengths / lengths.mean())
        places: dict[str, list[tuple[int, int]]] = {}
        for document, count in enumerate(counts):
            for word, occurrences in count.items():
                places.setdefault(word, []).append((document, occurrences))
        self._postings: dict[str, tuple[NDArray[np.intp], Floats]] = {}
        for word, found in places.items():
            at = np.array([document for document, _ in found])
            times = np.array([count for _, count in found], dtype=np.float32)
            idf = np.log1p((self._size - len(found) + 0.5) / (len(found) + 0.5))
            weights = (idf * times * (k1 + 1) / (times + saturation[at])).astype(np.float32)
            self._postings[word] = at, weights

    def __call__(self, start: int, stop: int) -> Floats:
        scores = np.zeros((stop - start, self._size), dtype=np.float32)
        for row, query in zip(scores, self._queries[start:stop], strict=True):
            for word in query:
                if word in self._postings:
                    at, weights = self._postings[word]
                    row[at] += weights
        return scores


def spearman(left: Sequence[float], right: Sequence[float]) -> float:
    """Rank correlation; equal values share their mean rank."""
    return float(np.corrcoef(_ranks(left), _ranks(right))[0, 1])


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    shared: NDArray[np.float64] = (np.cumsum(counts) - (counts + 1) / 2)[inverse]
    return shared
