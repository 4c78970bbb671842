"""Turns a text's last hidden state into its result: a vector, or the score of a pair.

The score of a causal reranker is the softmax over the logits of two tokens, "yes" and "no", that is
the sigmoid of their difference. Only one row of the language-model head is needed: that of "yes"
minus that of "no". A converted checkpoint (`Qwen3ForSequenceClassification`) stores exactly this
row as its classifier.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from embedfleet.engines.checkpoint import NamedTensors
from embedfleet.engines.pooling import unit_rows
from embedfleet.engines.tensors import Floats, Matrix, Tensor
from embedfleet.models.json_files import read_object
from embedfleet.models.reranker import SEQUENCE, answer_tokens
from embedfleet.models.scores import rows_of_logits
from embedfleet.vocabulary import SCORE_WIDTH, ModelError, Vectors


class Head(Protocol):
    """What is made of final states."""

    @property
    def width(self) -> int:
        """Numbers of an answer."""
        ...

    def rows(self, states: Floats) -> Vectors:
        """States [texts, hidden], after the final norm, to rows of unit length [texts, width].

        A row that can't be computed is NaN throughout.
        """
        ...


@dataclass(frozen=True, slots=True)
class VectorHead:
    """The states themselves, at unit length."""

    width: int

    def rows(self, states: Floats) -> Vectors:
        return unit_rows(states)


@dataclass(frozen=True, slots=True)
class ScoreHead:
    """A score as a vector: see `vocabulary.SCORE_WIDTH`."""

    weights: Floats
    """[hidden]; what a state times them is, is the logit of the score."""
    width: int = SCORE_WIDTH

    def rows(self, states: Floats) -> Vectors:
        # In float64, and a state at a time: the same bits whatever it is computed with.
        weights = self.weights.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            logits = np.array([np.dot(state.astype(np.float64), weights) for state in states])
        return rows_of_logits(logits)


def score_head(
    directory: Path, tensors: NamedTensors, embedding: Matrix, *, tied: bool
) -> ScoreHead:
    """The head of the reranker in `directory`. Raises ModelError."""
    config = read_object(directory / "config.json")
    vocabulary, hidden = embedding.shape
    names = config.get("architectures")
    if isinstance(names, list) and SEQUENCE in names:
        return ScoreHead(_classifier(directory, config, tensors, hidden))
    table = embedding
    if not tied and "lm_head.weight" in tensors:
        table = tensors.matrix("lm_head", vocabulary, hidden)
    yes, no = (_row(table, token) for token in answer_tokens(directory, config, vocabulary))
    return ScoreHead(yes - no)


def _classifier(
    directory: Path, config: dict[str, Any], tensors: NamedTensors, hidden: int
) -> Floats:
    labels = config.get("num_labels") or len(config.get("id2label") or {}) or 1
    if labels not in {1, 2}:
        raise ModelError(
            f"{directory / 'config.json'}: this classifier has {labels} labels; a reranker has "
            'one, or two of which the second says "yes".'
        )
    rows = tensors.matrix("score", labels, hidden).floats()
    return rows[0] if labels == 1 else np.asarray(rows[1] - rows[0])


def _row(table: Matrix, token: int) -> Floats:
    one = Tensor(table.tensor.name, table.tensor.kind, table.tensor.stored[token : token + 1])
    scale = np.float32(1) if table.scales is None else table.scales[token, 0]
    row: Floats = one.floats()[0] * scale
    return row
