"""The forward pass of BERT and XLM-RoBERTa over concatenated texts, in steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from embedfleet.engines.bert import EncoderConfig
from embedfleet.engines.cuda.forward import Steps
from embedfleet.engines.cuda.layout import TILE
from embedfleet.engines.cuda.linear import Ready
from embedfleet.engines.cuda.memory import BLOCK_TOKENS
from embedfleet.engines.cuda.plain import Texts
from embedfleet.engines.cuda.weights import EncoderLayer, EncoderWeights, Norm, ends
from embedfleet.vocabulary import Pooling


class EncoderOperations(Protocol):
    """What differs between devices; all else is torch's own."""

    def attend(self, mixed: Tensor, texts: Texts) -> Tensor:
        """Attention within each text, in both directions, [tokens, hidden].

        `mixed` are queries, keys and values, [tokens, 3 * hidden].
        """
        ...

    def mean(self, x: Tensor, texts: Texts) -> Tensor:
        """The mean of each text's rows, [texts, hidden] float32."""
        ...


@dataclass(frozen=True, slots=True)
class EncoderForward:
    """A model, and how it is computed."""

    config: EncoderConfig
    pooling: Pooling
    weights: EncoderWeights
    operations: EncoderOperations
    chunk_tokens: int
    """Rows that go through an MLP at once: its activations are the widest."""

    def steps(self, ids: Tensor, texts: Texts) -> Steps:
        """From token ids [tokens] to vectors [texts, hidden], float32, rows of unit length."""
        weights = self.weights
        x = weights.words.index_select(0, ids) + weights.places.index_select(0, texts.positions)
        x = self._normed(x, weights.norm)
        for layer in weights.layers:
            mixed = layer.query_key_value.times(Ready(x))
            attended = self.operations.attend(mixed, texts)
            del mixed
            yield
            if layer is weights.layers[-1] and self.pooling is Pooling.FIRST:
                # The other rows are not read after this.
                first = texts.last_tiles.view(-1, TILE)[:, 2]
                x, attended = x.index_select(0, first), attended.index_select(0, first)
            parts = [
                self._behind_attention(rows, seen, layer)
                for rows, seen in zip(
                    x.split(self.chunk_tokens), attended.split(self.chunk_tokens), strict=True
                )
            ]
            x = parts[0] if len(parts) == 1 else torch.cat(parts)
            yield
        return self._unit(self.operations.mean(x, texts) if self.pooling is Pooling.MEAN else x)

    def shortened(self) -> EncoderForward:
        """The same with the first and the last layer alone."""
        return replace(self, weights=replace(self.weights, layers=ends(self.weights.layers)))

    def _behind_attention(self, x: Tensor, attended: Tensor, layer: EncoderLayer) -> Tensor:
        """Output projection and MLP, each added to what went in and normed."""
        layer.output.added(x, Ready(attended))
        x = self._normed(x + layer.output_bias, layer.attention_norm)
        inner = functional.gelu(layer.up.times(Ready(x)))
        layer.down.added(x, Ready(inner))
        return self._normed(x + layer.down_bias, layer.output_norm)

    def _normed(self, x: Tensor, norm: Norm) -> Tensor:
        width = (self.config.hidden,)
        return functional.layer_norm(x, width, norm.weight, norm.bias, self.config.epsilon)

    def _unit(self, states: Tensor) -> Tensor:
        wide = states.float()
        # A length of zero or infinity makes the row NaN, which is refused as a vector.
        return wide / wide.double().square().sum(1, keepdim=True).sqrt().float()


class PlainEncoderOperations:
    """In torch's own operations; any device, any numbers."""

    def __init__(self, config: EncoderConfig) -> None:
        self._heads, self._head_dim = config.heads, config.head_dim

    def attend(self, mixed: Tensor, texts: Texts) -> Tensor:
        begins = texts.layout.begins.tolist()
        out = mixed.new_zeros(len(mixed), mixed.shape[1] // 3)
        for begin, end in pairwise(begins):
            queries, keys, values = (
                part.unflatten(1, (self._heads, self._head_dim)).transpose(0, 1).unsqueeze(0)
                for part in mixed[begin:end].chunk(3, dim=1)
            )
            # In blocks, as some devices have only kernels that need memory for tokens².
            for at, block in enumerate(queries.split(BLOCK_TOKENS, dim=2)):
                found = functional.scaled_dot_product_attention(block, keys, values)
                rows = slice(begin + at * BLOCK_TOKENS, begin + at * BLOCK_TOKENS + block.shape[2])
                out[rows] = found[0].transpose(0, 1).flatten(1)
        return out

    def mean(self, x: Tensor, texts: Texts) -> Tensor:
        begins = texts.layout.begins.tolist()
        means = [x[begin:end].double().mean(0) for begin, end in pairwise(begins)]
        return torch.stack(means).float()
