"""The measures of the quality benchmark, on rankings small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.quality_ranking import (
    BM25Scores,
    CosineScores,
    Floats,
    Scores,
    ranking,
    spearman,
    words,
)


class FixedScores(Scores):
    """Scores as given."""

    def __init__(self, scores: list[list[float]]) -> None:
        self._scores = np.array(scores, dtype=np.float32)

    def __call__(self, start: int, stop: int) -> Floats:
        return self._scores[start:stop]


def test_recall_and_ndcg_of_known_ranks() -> None:
    descending = [[float(12 - place) for place in range(12)]] * 3
    found = ranking(FixedScores(descending), [{0}, {2}, {11}])
    assert found.recall == pytest.approx(2 / 3)
    assert found.ndcg == pytest.approx((1 + 1 / np.log2(4) + 0) / 3)


def test_several_relevant_documents_share_the_ideal() -> None:
    found = ranking(FixedScores([[3.0, 2.0, 1.0]]), [{0, 2}])
    assert found.recall == 1.0
    assert found.ndcg == pytest.approx((1 + 0.5) / (1 + 1 / np.log2(3)))


def test_vectors_are_normalised_after_the_cut() -> None:
    queries = np.array([[1.0, 0.0, 9.0]], dtype=np.float32)
    documents = np.array([[0.1, 0.0, -5.0], [1.0, 1.0, 9.0]], dtype=np.float32)
    cosines = CosineScores(queries, documents, 2)(0, 1)
    assert cosines == pytest.approx(np.array([[1.0, np.sqrt(0.5)]]))


def test_chinese_counts_by_pairs_of_characters() -> None:
    assert words("Super Bowl 50在加州举行，是") == [
        "super", "bowl", "50", "在加", "加州", "州举", "举行", "是",
    ]  # fmt: skip


def test_bm25_knows_rare_words() -> None:
    documents = ["the river flows", "the city sleeps", "the river and the city"]
    scores = BM25Scores(["city sleeps"], documents)(0, 1)
    assert scores.argmax() == 1
    assert scores[0, 0] == 0


def test_equal_values_share_their_rank() -> None:
    assert spearman([1, 2, 2, 3], [10, 20, 20, 30]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
