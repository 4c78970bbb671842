"""The Qwen3 forward pass over concatenated texts, in steps.

Texts are not padded and keys are not kept; of the last layer only what the pooled rows need is
computed. A long pass can be paused between two steps.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from embedfleet.engines.cuda.linear import Ready
from embedfleet.engines.cuda.plain import Heads, Operations, Texts
from embedfleet.engines.cuda.weights import Layer, Weights, ends
from embedfleet.engines.qwen3 import Qwen3Config

Steps: TypeAlias = Generator[None, None, Tensor]
"""A pass that gives way after each piece of work and returns the unit rows of its texts."""


@dataclass(frozen=True, slots=True)
class Forward:
    """A model, and how it is computed."""

    config: Qwen3Config
    weights: Weights
    operations: Operations
    chunk_tokens: int
    """Rows that go through an MLP at once: its activations are the widest."""

    def steps(self, ids: Tensor, texts: Texts) -> Steps:
        """From token ids [tokens] to vectors [texts, width], float32, rows of unit length."""
        operations = self.operations
        x, delta = self.weights.embedding.index_select(0, ids), None
        for layer in self.weights.layers[:-1]:
            ready = operations.norm(x, layer.input_norm, delta)
            mixed = layer.query_key_value.times(ready)
            del ready
            attended = operations.attend(self._heads(mixed, layer), texts, last=False)
            del mixed
            yield
            chunks = list(pairwise([*range(0, len(x), self.chunk_tokens), len(x)]))
            for begin, end in chunks:
                part = x[begin:end]
                delta = self._behind_attention(part, attended.between(begin, end), layer)
                if delta is not None and len(chunks) > 1:
                    part.add_(delta)
                    delta = None
                yield
        return self._last_layer(x, delta, texts)

    def shortened(self) -> Forward:
        """The same with the first and the last layer alone."""
        return replace(self, weights=replace(self.weights, layers=ends(self.weights.layers)))

    def _last_layer(self, x: Tensor, delta: Tensor | None, texts: Texts) -> Tensor:
        """Keys and values of all rows; queries and all behind them of the pooled rows alone."""
        operations, layer = self.operations, self.weights.layers[-1]
        matrix, (asking, _, end) = layer.query_key_value, self._ends
        ready = operations.norm(x, layer.input_norm, delta)
        seen = matrix.outputs(asking, end).times(ready)
        queries = matrix.outputs(0, asking).times(ready.rows(texts.pooled))
        keys, values = seen.chunk(2, dim=1)
        heads = Heads(queries, keys, values, layer.query_norm, layer.key_norm)
        attended = operations.attend(heads, texts, last=True)
        x = x.index_select(0, texts.pooled)
        delta = self._behind_attention(x, attended, layer)
        if self.weights.score is not None:
            return self._scores(x if delta is None else x + delta, self.weights.score)
        return operations.unit(x, self.weights.final_norm, delta)

    def _scores(self, x: Tensor, score: Tensor) -> Tensor:
        """As `engine.scoring.ScoreHead`, for the few rows that are left."""
        states = x.float()
        squares = states.square().mean(dim=-1, keepdim=True)
        states = states * torch.rsqrt(squares + self.config.epsilon) * self.weights.final_norm
        logits = (states.double() * score.double()).sum(dim=1, keepdim=True)
        chances = torch.sigmoid(torch.cat((-logits, logits), dim=1))
        # A logit that is not finite makes the row NaN, which is refused as a score.
        return chances.clamp_min(1e-30).sqrt().add(logits * 0).float()

    def _behind_attention(self, x: Tensor, attended: Ready, layer: Layer) -> Tensor | None:
        """Output projection and MLP; what it returns is still to be added to `x`."""
        operations = self.operations
        delta = layer.output.added(x, attended)
        ready = operations.norm(x, layer.mlp_norm, delta)
        return layer.down.added(x, operations.gate(layer.gate_up.times(ready)))

    def _heads(self, mixed: Tensor, layer: Layer) -> Heads:
        """Queries, keys and values of all rows; views."""
        queries, keys, values = self._ends
        return Heads(
            *(mixed[:, :queries], mixed[:, queries:keys], mixed[:, keys:values]),
            *(layer.query_norm, layer.key_norm),
        )

    @property
    def _ends(self) -> tuple[int, int, int]:
        """Where queries, keys and values end among the outputs of their common matrix."""
        queries = self.config.heads * self.config.head_dim
        keys = self.config.kv_heads * self.config.head_dim
        return queries, queries + keys, queries + 2 * keys


def run(steps: Steps) -> Tensor:
    """All steps of a pass, without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            vectors: Tensor = end.value
            return vectors
