"""The Qwen3 forward pass over texts that lie end to end, in steps.

Decides the order of operations of a layer, and where a pass may be interrupted. Texts are not
padded and keys are not kept; of the last layer only what the pooled rows need is computed. Refuses
to know how operations are computed and who runs between two steps.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from torch import Tensor

from embedfleet.engine.checkpoint import Qwen3Config
from embedfleet.engine.cuda.plain import Operations, Texts
from embedfleet.engine.cuda.weights import Layer, Weights

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
        """From token ids [tokens] to vectors [texts, hidden], float32, rows of unit length."""
        operations, config = self.operations, self.config
        heads = (config.heads, config.kv_heads)
        x, delta = self.weights.embedding.index_select(0, ids), None
        for layer in self.weights.layers[:-1]:
            ready = operations.norm(x, layer.input_norm, delta)
            mixed = layer.query_key_value.times(ready)
            del ready
            norms = layer.query_norm, layer.key_norm
            operations.rotate(mixed, texts.positions, norms, heads)
            attended = operations.attend(*self._split(mixed), texts, last=False)
            del mixed
            yield
            chunks = list(pairwise([*range(0, len(x), self.chunk_tokens), len(x)]))
            for begin, end in chunks:
                part = x[begin:end]
                delta = self._behind_attention(part, attended[begin:end], layer)
                if delta is not None and len(chunks) > 1:
                    part.add_(delta)
                    delta = None
                yield
        return self._last_layer(x, delta, texts)

    def _last_layer(self, x: Tensor, delta: Tensor | None, texts: Texts) -> Tensor:
        """Keys and values of all rows; queries and all behind them of the pooled rows alone."""
        operations, config, layer = self.operations, self.config, self.weights.layers[-1]
        norms = layer.query_norm, layer.key_norm
        queries_end = config.heads * config.head_dim
        keys_end = queries_end + config.kv_heads * config.head_dim
        values_end = keys_end + config.kv_heads * config.head_dim
        ready = operations.norm(x, layer.input_norm, delta)
        matrix = layer.query_key_value
        seen = matrix.outputs(queries_end, values_end).times(ready)
        asking = matrix.outputs(0, queries_end).times(ready.rows(texts.pooled))
        operations.rotate(seen, texts.positions, norms, (0, config.kv_heads))
        positions = texts.positions.index_select(0, texts.pooled)
        operations.rotate(asking, positions, norms, (config.heads, 0))
        width = keys_end - queries_end
        attended = operations.attend(asking, seen[:, :width], seen[:, width:], texts, last=True)
        x = x.index_select(0, texts.pooled)
        delta = self._behind_attention(x, attended, layer)
        return operations.unit(x, self.weights.final_norm, delta)

    def _behind_attention(self, x: Tensor, attended: Tensor, layer: Layer) -> Tensor | None:
        """Output projection and MLP; what it returns is still to be added to `x`."""
        operations = self.operations
        delta = layer.output.added(x, operations.ready(attended))
        ready = operations.norm(x, layer.mlp_norm, delta)
        return layer.down.added(x, operations.gate(layer.gate_up.times(ready)))

    def _split(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all rows; views."""
        queries = self.config.heads * self.config.head_dim
        keys = queries + self.config.kv_heads * self.config.head_dim
        return mixed[:, :queries], mixed[:, queries:keys], mixed[:, keys:]


def run(steps: Steps) -> Tensor:
    """All steps of a pass, without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            vectors: Tensor = end.value
            return vectors
