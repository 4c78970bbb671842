"""The engine where nothing was compiled: Qwen3 in NumPy, in float32, one text after another.

Exact and small, and many times as slow as kernels. Takes checkpoints of any sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import numpy as np

from embedfleet.engine.engine import Computation, EngineInfo
from embedfleet.engine.passes import lengths_of
from embedfleet.engine.pooling import unit_rows
from embedfleet.engine.qwen3 import LayerWeights, Qwen3Checkpoint, Qwen3Config
from embedfleet.engine.rope import Tables
from embedfleet.engine.tensors import Floats
from embedfleet.vocabulary import Encoding, Precision, Vectors

_QUERIES_AT_ONCE = 256
"""Of a text: scores of so many tokens are in memory, and not those of all."""


class PlainEngine:
    """Qwen3 on NumPy. Any number of threads may prepare and compute; texts run one by one."""

    def __init__(self, checkpoint: Qwen3Checkpoint, *, max_tokens: int, batch_tokens: int) -> None:
        """Widen all weights to float32."""
        config = checkpoint.config
        self._checkpoint = checkpoint
        checkpoint.hold_embeddings()
        self._tables = Tables(config)
        self._layers: list[_Layer] | None = [
            _Layer(checkpoint.layer(index), config) for index in range(config.layers)
        ]
        self._computing = Lock()
        self._info = EngineInfo(
            width=config.hidden,
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
            # What overflows is found as a row that is not finite, and needs no warning.
            with np.errstate(over="ignore", invalid="ignore"):
                return unit_rows(np.stack([self._final(text, self._layers) for text in batch]))

    def _final(self, text: Encoding, layers: list[_Layer]) -> Floats:
        """The state of the text's last token after the final norm, [hidden]."""
        config = self._checkpoint.config
        states = self._checkpoint.embed(text)
        cosines, sines = self._tables.up_to(len(text))
        tables = cosines[: len(text), None], sines[: len(text), None]
        for layer in layers:
            states = layer.forward(states, tables)
        return _normed(states[-1], self._checkpoint.final_norm, config.epsilon)

    def close(self) -> None:
        with self._computing:
            self._layers = None


class _Layer:
    def __init__(self, weights: LayerWeights, config: Qwen3Config) -> None:
        self._config = config
        self._input_norm, self._mlp_norm = weights.input_norm, weights.mlp_norm
        self._query_norm, self._key_norm = weights.query_norm, weights.key_norm
        self._query, self._key, self._value, self._output, self._gate, self._up, self._down = (
            np.ascontiguousarray(matrix.floats().T)
            for matrix in (
                *(weights.query, weights.key, weights.value, weights.output),
                *(weights.gate, weights.up, weights.down),
            )
        )

    def forward(self, states: Floats, tables: tuple[Floats, Floats]) -> Floats:
        """States [tokens, hidden] after the layer."""
        config = self._config
        normed = _normed(states, self._input_norm, config.epsilon)
        queries = self._heads(normed @ self._query, self._query_norm, tables)
        keys = self._heads(normed @ self._key, self._key_norm, tables)
        values = (normed @ self._value).reshape(len(states), config.kv_heads, config.head_dim)
        states = states + _attended(queries, keys, values) @ self._output
        normed = _normed(states, self._mlp_norm, config.epsilon)
        gate: Floats = normed @ self._gate
        gate /= 1 + np.exp(-gate)
        gate *= normed @ self._up
        after: Floats = np.add(states, gate @ self._down)
        return after

    def _heads(self, rows: Floats, norm: Floats, tables: tuple[Floats, Floats]) -> Floats:
        """[tokens, heads, head_dim], normed and turned."""
        width = self._config.head_dim
        heads = _normed(rows.reshape(len(rows), -1, width), norm, self._config.epsilon)
        left, right = heads[..., : width // 2], heads[..., width // 2 :]
        cosine, sine = tables
        turned = left * cosine - right * sine, right * cosine + left * sine
        return np.concatenate(turned, axis=-1)


def _normed(rows: Floats, weight: Floats, epsilon: float) -> Floats:
    mean = np.mean(rows * rows, axis=-1, keepdims=True)
    normed: Floats = rows / np.sqrt(mean + np.float32(epsilon)) * weight
    return normed


def _attended(queries: Floats, keys: Floats, values: Floats) -> Floats:
    """What each token's queries see in the tokens up to it, [tokens, heads * head_dim]."""
    tokens, heads, width = queries.shape
    sharing = heads // keys.shape[1]
    keys, values = (np.repeat(each.transpose(1, 0, 2), sharing, axis=0) for each in (keys, values))
    queries = queries.transpose(1, 0, 2) / np.float32(np.sqrt(width))
    found = np.empty((tokens, heads, width), np.float32)
    for begin in range(0, tokens, _QUERIES_AT_ONCE):
        end = min(tokens, begin + _QUERIES_AT_ONCE)
        scores = queries[:, begin:end] @ keys[:, :end].transpose(0, 2, 1)
        later = np.arange(end) > np.arange(begin, end)[:, None]
        scores[:, later] = -np.inf
        scores -= scores.max(axis=-1, keepdims=True)
        powers = np.exp(scores)
        powers /= powers.sum(axis=-1, keepdims=True)
        found[begin:end] = (powers @ values[:, :end]).transpose(1, 0, 2)
    return found.reshape(tokens, heads * width)
