"""The NumPy engine, for installations without compiled kernels: float32, a text on each thread.

Exact and small, but many times slower than the kernels. Takes checkpoints of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from threading import Lock
from typing import TypeAlias

import numpy as np
from threadpoolctl import ThreadpoolController

from embedfleet.engines.architectures import Checkpoint, Geometry
from embedfleet.engines.bert import EncoderLayer, layer_normed
from embedfleet.engines.passes import lengths_of
from embedfleet.engines.protocol import Computation, EngineInfo
from embedfleet.engines.qwen3 import LayerWeights
from embedfleet.engines.tensors import Floats, Matrix
from embedfleet.vocabulary import Encoding, Pooling, Precision, Vectors

_Tables: TypeAlias = tuple[Floats, Floats]
"""Cosines and sines, [tokens, 1, head_dim / 2]."""

_QUERIES_AT_ONCE = 256
"""Of a text: scores of so many tokens are in memory, and not those of all."""


class PlainEngine:
    """A model on NumPy. Any number of threads may prepare and compute; batches run one by one."""

    def __init__(
        self, checkpoint: Checkpoint, *, threads: int, max_tokens: int, batch_tokens: int
    ) -> None:
        """Widen all weights to float32. `threads` texts of a batch are computed side by side."""
        config = checkpoint.config
        self._checkpoint = checkpoint
        checkpoint.hold_embeddings()
        self._tables = checkpoint.angles()
        layer = {"decoder": _Decoder, "encoder": _Encoder}[checkpoint.forward]
        self._layers: list[_Decoder | _Encoder] | None = [
            layer(checkpoint.layer(index), config) for index in range(config.layers)
        ]
        self._computing = Lock()
        self._texts = ThreadPoolExecutor(threads, "numpy-engine")
        self._blas = ThreadpoolController().select(user_api="blas")
        self._info = EngineInfo(
            width=checkpoint.head.width,
            max_tokens=max_tokens,
            vocabulary=config.vocabulary,
            precision=Precision.F32,
            device="cpu",
            batch_tokens=batch_tokens,
            kernels="numpy",
        )

    def __repr__(self) -> str:
        state = "closed" if self._layers is None else "open"
        return f"PlainEngine({self._checkpoint.directory.name!r}, {self._info}, {state})"

    @property
    def info(self) -> EngineInfo:
        return self._info

    def prepare(self, batch: Sequence[Encoding]) -> Computation:
        """Check the texts; the computation does all else.

        Raises ValueError for an empty batch, an empty text or one over `info.max_tokens`.
        """
        lengths_of(batch, self._info.max_tokens)
        return Computation(lambda: self._compute(batch))

    def _compute(self, batch: Sequence[Encoding]) -> Vectors:
        with self._computing:
            if self._layers is None:
                raise RuntimeError("the engine is closed")
            # A text is one thread's, products included. BLAS by itself has a thread for each
            # processor it sees, whatever a control group allows, and they wait by spinning: where
            # others are at work, two of them take many times as long as one.
            with self._blas.limit(limits=1):
                states = np.stack(list(self._texts.map(self._final, batch, repeat(self._layers))))
                return self._checkpoint.head.rows(states)

    def _final(self, text: Encoding, layers: list[_Decoder | _Encoder]) -> Floats:
        """The text's pooled states after the final norm, [hidden]."""
        checkpoint, tokens = self._checkpoint, len(text)
        states = checkpoint.embed(text, np.arange(tokens, dtype=np.int32))
        tables = None
        if self._tables is not None:
            cosines, sines = self._tables.up_to(tokens)
            tables = cosines[:tokens, None], sines[:tokens, None]
        # What overflows is found as a row that is not finite, and needs no warning.
        with np.errstate(over="ignore", invalid="ignore"):
            for layer in layers:
                states = layer.forward(states, tables)
            pooled = _pooled(states, checkpoint.pooling)
            norm = checkpoint.final_norm
            return pooled if norm is None else _normed(pooled, norm, checkpoint.config.epsilon)

    def close(self) -> None:
        with self._computing:
            self._layers = None
            self._texts.shutdown()


class _Decoder:
    """A layer of Qwen3."""

    def __init__(self, weights: LayerWeights, config: Geometry) -> None:
        self._config = config
        self._input_norm, self._mlp_norm = weights.input_norm, weights.mlp_norm
        self._query_norm, self._key_norm = weights.query_norm, weights.key_norm
        self._query, self._key, self._value, self._output, self._gate, self._up, self._down = (
            np.ascontiguousarray(matrix.floats().T)
            for matrix in (
                weights.query,
                weights.key,
                weights.value,
                weights.output,
                weights.gate,
                weights.up,
                weights.down,
            )
        )

    def forward(self, states: Floats, tables: _Tables | None) -> Floats:
        """States [tokens, hidden] after the layer."""
        config = self._config
        if tables is None:
            raise ValueError("a decoder has angles. This is a bug.")
        normed = _normed(states, self._input_norm, config.epsilon)
        queries = self._heads(normed @ self._query, self._query_norm, tables)
        keys = self._heads(normed @ self._key, self._key_norm, tables)
        values = (normed @ self._value).reshape(len(states), config.kv_heads, config.head_dim)
        states = states + _attended(queries, keys, values, causal=True) @ self._output
        normed = _normed(states, self._mlp_norm, config.epsilon)
        gate: Floats = normed @ self._gate
        gate /= 1 + np.exp(-gate)
        gate *= normed @ self._up
        after: Floats = np.add(states, gate @ self._down)
        return after

    def _heads(self, rows: Floats, norm: Floats, tables: _Tables) -> Floats:
        """[tokens, heads, head_dim], normed and turned."""
        width = self._config.head_dim
        heads = _normed(rows.reshape(len(rows), -1, width), norm, self._config.epsilon)
        left, right = heads[..., : width // 2], heads[..., width // 2 :]
        cosine, sine = tables
        turned = left * cosine - right * sine, right * cosine + left * sine
        return np.concatenate(turned, axis=-1)


class _Encoder:
    """A layer of BERT."""

    def __init__(self, weights: EncoderLayer, config: Geometry) -> None:
        self._weights, self._config = weights, config
        self._matrices = {
            name: (np.ascontiguousarray(matrix.floats().T), _bias(matrix))
            for name, matrix in (
                ("query", weights.query),
                ("key", weights.key),
                ("value", weights.value),
                ("output", weights.output),
                ("up", weights.up),
                ("down", weights.down),
            )
        }

    def forward(self, states: Floats, tables: _Tables | None) -> Floats:  # noqa: ARG002
        """States [tokens, hidden] after the layer."""
        weights, config = self._weights, self._config
        heads = (len(states), config.heads, config.head_dim)
        queries, keys, values = (
            self._times(states, name).reshape(heads) for name in ("query", "key", "value")
        )
        attended = _attended(queries, keys, values, causal=False)
        states = self._normed(
            states + self._times(attended, "output"),
            weights.attention_norm,
            weights.attention_norm_bias,
        )
        inner = self._times(states, "up")
        inner *= _normal_distribution(inner)
        return self._normed(
            states + self._times(inner, "down"), weights.output_norm, weights.output_norm_bias
        )

    def _times(self, rows: Floats, name: str) -> Floats:
        matrix, bias = self._matrices[name]
        product: Floats = rows @ matrix
        product += bias
        return product

    def _normed(self, rows: Floats, weight: Floats, bias: Floats) -> Floats:
        return layer_normed(rows, weight, bias, self._config.epsilon)


def _bias(matrix: Matrix) -> Floats:
    return np.zeros(matrix.shape[0], np.float32) if matrix.bias is None else matrix.bias


def _pooled(states: Floats, pooling: Pooling) -> Floats:
    if pooling is Pooling.MEAN:
        mean: Floats = states.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean
    row: Floats = states[0 if pooling is Pooling.FIRST else -1]
    return row


def _normal_distribution(x: Floats) -> Floats:
    """Phi(x), by Abramowitz and Stegun's 7.1.26 for the complement of the error function."""
    size = np.abs(x)
    t = 1 / (1 + np.float32(0.3275911 * 0.70710678) * size)
    tail: Floats = np.full_like(t, 1.061405429)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail *= t
        tail += np.float32(factor)
    tail *= t * np.exp(np.float32(-0.5) * x * x) * np.float32(0.5)
    distribution: Floats = np.where(x > 0, 1 - tail, tail)
    return distribution


def _normed(rows: Floats, weight: Floats, epsilon: float) -> Floats:
    mean = np.mean(rows * rows, axis=-1, keepdims=True)
    normed: Floats = rows / np.sqrt(mean + np.float32(epsilon)) * weight
    return normed


def _attended(queries: Floats, keys: Floats, values: Floats, *, causal: bool) -> Floats:
    """What each token's queries see, [tokens, heads * head_dim]; `causal`: in those up to it."""
    tokens, heads, width = queries.shape
    sharing = heads // keys.shape[1]
    keys, values = (np.repeat(each.transpose(1, 0, 2), sharing, axis=0) for each in (keys, values))
    queries = queries.transpose(1, 0, 2) / np.float32(np.sqrt(width))
    found = np.empty((tokens, heads, width), np.float32)
    for begin in range(0, tokens, _QUERIES_AT_ONCE):
        end = min(tokens, begin + _QUERIES_AT_ONCE)
        seen = end if causal else tokens
        scores = queries[:, begin:end] @ keys[:, :seen].transpose(0, 2, 1)
        if causal:
            later = np.arange(end) > np.arange(begin, end)[:, None]
            scores[:, later] = -np.inf
        scores -= scores.max(axis=-1, keepdims=True)
        powers = np.exp(scores)
        powers /= powers.sum(axis=-1, keepdims=True)
        found[begin:end] = (powers @ values[:, :seen]).transpose(1, 0, 2)
    return found.reshape(tokens, heads * width)
