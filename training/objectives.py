"""The losses: language model, and contrastive at several lengths of the vector.

The contrastive target may be softened by BM25 over the batch: it is a strong judge of rare words,
and it has an opinion on every pair, where the data names one right document per question.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from training.batches import Rows, positions

FEATURES = 32_768


@dataclass(frozen=True)
class Nested:
    """Lengths of the vector that the loss looks at, with the weight of each."""

    lengths: tuple[int, ...]
    weights: tuple[float, ...]


def language_model(logits: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
    """Mean cross-entropy of the next token, padding left out."""
    targets = ids[:, 1:].masked_fill(positions(ids)[:, 1:] >= lengths[:, None], -100)
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten())


def _counts(rows: Rows) -> Tensor:
    """How often each token and each (hashed) pair of neighbours occurs in each row."""
    ids, mask = rows.ids, rows.mask
    pairs = (ids[:, :-1] * 31_337 + ids[:, 1:] * 7919 + 13) % FEATURES
    features = torch.cat([ids % FEATURES, pairs], dim=1)
    ones = torch.cat([mask, mask[:, 1:]], dim=1).float()
    empty = torch.zeros(len(rows), FEATURES, device=ids.device)
    return empty.scatter_add_(1, features, ones)


@torch.no_grad()
def bm25(queries: Rows, documents: Rows, k1: float = 1.2, b: float = 0.75) -> Tensor:
    """BM25 of every query against every document of the batch, over tokens and token pairs."""
    counts, asked = _counts(documents), _counts(queries) > 0
    frequency = (counts > 0).sum(0)
    rarity = torch.log1p((len(documents) - frequency + 0.5) / (frequency + 0.5))
    relative = documents.lengths[:, None] / documents.lengths.float().mean()
    weights = counts * (k1 + 1) / (counts + k1 * (1 - b + b * relative)) * rarity
    return (asked.bfloat16() @ weights.bfloat16().T).float()


def _same(rows: Rows) -> Tensor:
    """Which rows of a batch are the same text."""
    place = positions(rows.ids) + 1
    digest = (rows.ids * rows.mask * (place * 2_654_435_761 % 1_000_003)).sum(1)
    return digest[:, None] == digest[None, :]


def false_negatives(queries: Rows, documents: Rows) -> Tensor:
    """Pairs off the diagonal that must not count as wrong: same question or same document."""
    same = _same(queries) | _same(documents)
    return same.fill_diagonal_(fill_value=False)


def contrastive(
    x: Tensor,
    y: Tensor,
    ignored: Tensor,
    nested: Nested,
    temperature: float,
    target: Tensor | None = None,
) -> Tensor:
    """Cross-entropy in both directions, averaged over the nested lengths.

    `target` is a distribution over documents per query (rows) that replaces the diagonal.
    """
    loss = x.new_zeros(())
    right = torch.arange(len(x), device=x.device)
    for length, weight in zip(nested.lengths, nested.weights, strict=True):
        left, other = (
            functional.normalize(x[:, :length], dim=-1),
            functional.normalize(y[:, :length], dim=-1),
        )
        scores = (left @ other.T / temperature).masked_fill(ignored, -1e4)
        forward = functional.cross_entropy(scores, right if target is None else target)
        loss = loss + weight * (forward + functional.cross_entropy(scores.T, right)) / 2
    return loss / sum(nested.weights)


def soften(scores: Tensor, ignored: Tensor, share: float, sharpness: float) -> Tensor:
    """The diagonal mixed with a softmax of BM25 scores."""
    soft = (scores.masked_fill(ignored, -1e4) / sharpness).softmax(-1)
    return (1 - share) * torch.eye(len(scores), device=scores.device) + share * soft
