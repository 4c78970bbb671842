"""BERT and XLM-RoBERTa checkpoints: what is supported, their geometry, and weights by role.

Attention is bidirectional, positions are rows of a table, norms follow what they normalise.
XLM-RoBERTa (and RoBERTa) numbers positions from the padding token's id on; otherwise it is BERT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from embedfleet.engines.checkpoint import (
    NamedTensors,
    count,
    positive,
    refuse_adapter,
    unsupported,
)
from embedfleet.engines.scoring import Head, VectorHead
from embedfleet.engines.tensors import Floats, Matrix
from embedfleet.models.families import family_of
from embedfleet.models.json_files import brief, read_object
from embedfleet.vocabulary import ModelError, Pooling, Task

_PREFIXES: Final = ("model.", "bert.", "roberta.")
"""Of tensors, where a checkpoint was saved with a head."""
_UNREAD: Final = frozenset({"embeddings.position_ids", "embeddings.token_type_ids"})
"""Whole numbers that older checkpoints keep: 0, 1, 2, … and 0, 0, 0, …"""
_HEADS: Final = ("Model", "ForMaskedLM", "ForPreTraining")
"""How the names of architectures end whose body is an encoder of texts."""
_GELU: Final = ("gelu", "gelu_python")
"""Two names of x * Φ(x) by the error function; other kinds of GELU are approximations of it."""


_USUAL: Final = {"layer_norm_eps": 1e-12, "type_vocab_size": 2}
"""transformers' own values, where a configuration has none."""


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The architecture of an encoder."""

    hidden: int
    layers: int
    heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    epsilon: float
    positions: int
    """Rows of the table of positions."""
    first_position: int
    """The row at which a text begins."""
    token_types: int
    """Rows of the table of token types; texts are of the first."""

    @property
    def kv_heads(self) -> int:
        return self.heads

    @property
    def max_positions(self) -> int:
        return self.positions - self.first_position


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """The weights of one layer; matrices are [out, in] and have biases."""

    query: Matrix
    key: Matrix
    value: Matrix
    output: Matrix
    attention_norm: Floats
    """Of attention's result added to what went in."""
    attention_norm_bias: Floats
    up: Matrix
    down: Matrix
    output_norm: Floats
    """Of the MLP's result added to what went in."""
    output_norm_bias: Floats


class EncoderCheckpoint:
    """The weights of a model directory, checked for names and shapes."""

    forward: Final = "encoder"
    final_norm: Final = None

    def __init__(self, directory: Path, pooling: Pooling, task: Task = Task.EMBED) -> None:  # noqa: ARG002
        """Open the checkpoint; raises ModelError naming what is missing, wrong or unsupported."""
        self.directory, self.pooling = directory, pooling
        refuse_adapter(directory)
        self.config = config = read_config(directory / "config.json")
        self._tensors = NamedTensors(directory, _PREFIXES, _UNREAD)
        self._held: Matrix | None = None
        self.head: Head = VectorHead(config.hidden)
        at, hidden = "embeddings", config.hidden
        self.embedding = self._tensors.matrix(f"{at}.word_embeddings", config.vocabulary, hidden)
        table = self._tensors.matrix(f"{at}.position_embeddings", config.positions, hidden)
        types = self._tensors.matrix(f"{at}.token_type_embeddings", config.token_types, hidden)
        self.position_rows: Floats = table.floats() + types.floats()[0]
        self.embedding_norm = self._norm_of(at)
        for layer in range(config.layers):
            self.layer(layer)  # so that a wrong tensor is refused now, not at its first use
        self._tensors.refuse_layers_from(f"{_layer(config.layers)}.", config.layers)

    def __repr__(self) -> str:
        return f"EncoderCheckpoint({str(self.directory)!r}, {self.config}, {self.pooling})"

    def angles(self) -> None:
        """None: positions are in the embeddings."""

    def hold_embeddings(self) -> None:
        """Read the embedding table into memory, where `embed` looks rows up. Raises ModelError."""
        self._table()

    def _table(self) -> Matrix:
        if self._held is None:
            self._held = self.embedding.held()
        return self._held

    def embed(self, ids: NDArray[np.int32], positions: NDArray[np.int32]) -> Floats:
        """Tokens and their places, added up and normed, [len(ids), hidden]."""
        rows = self._table().rows(ids)
        rows += self.position_rows[places(ids, positions, self.config.first_position)]
        return layer_normed(rows, *self.embedding_norm, self.config.epsilon)

    def layer(self, index: int) -> EncoderLayer:
        """Weights of layer `index`, of matrices nothing is read yet."""
        at, hidden, inner = _layer(index), self.config.hidden, self.config.intermediate
        norm, norm_bias = self._norm_of(f"{at}.attention.output")
        output_norm, output_norm_bias = self._norm_of(f"{at}.output")
        return EncoderLayer(
            query=self._matrix(f"{at}.attention.self.query", hidden, hidden),
            key=self._matrix(f"{at}.attention.self.key", hidden, hidden),
            value=self._matrix(f"{at}.attention.self.value", hidden, hidden),
            output=self._matrix(f"{at}.attention.output.dense", hidden, hidden),
            attention_norm=norm,
            attention_norm_bias=norm_bias,
            up=self._matrix(f"{at}.intermediate.dense", inner, hidden),
            down=self._matrix(f"{at}.output.dense", hidden, inner),
            output_norm=output_norm,
            output_norm_bias=output_norm_bias,
        )

    def _matrix(self, role: str, rows: int, columns: int) -> Matrix:
        return self._tensors.matrix(role, rows, columns, biased=True)

    def _norm_of(self, at: str) -> tuple[Floats, Floats]:
        """Weight and bias; checkpoints that began as TensorFlow's name them otherwise."""
        names = ("weight", "bias")
        if f"{at}.LayerNorm.gamma" in self._tensors:
            names = ("gamma", "beta")
        weight, bias = (
            self._tensors.vector(f"{at}.LayerNorm.{name}", self.config.hidden) for name in names
        )
        return weight, bias


def places(ids: NDArray[np.int32], positions: NDArray[np.int32], first: int) -> NDArray[np.int32]:
    """Rows of the table of positions, [len(ids)], for whole texts one behind the other.

    `positions` are in the texts, `first` is the row of a text's first token. RoBERTa does not count
    padding tokens, should a text hold any: they have the row before.
    """
    padding = ids == first - 1
    if not first or not padding.any():
        return positions + np.int32(first)
    counted = np.cumsum(~padding, dtype=np.int32)
    begins = np.arange(len(ids)) - positions
    before = np.where(begins > 0, counted[begins - 1], 0)
    return np.where(padding, first - 1, counted - before - 1 + first).astype(np.int32)


def layer_normed(rows: Floats, weight: Floats, bias: Floats, epsilon: float) -> Floats:
    """Rows with mean 0 and variance 1, times `weight` plus `bias`; each row by itself."""
    centred: Floats = rows - rows.mean(axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    centred /= np.sqrt(variance + np.float32(epsilon))
    centred *= weight
    centred += bias
    return centred


def _layer(index: int) -> str:
    return f"encoder.layer.{index}"


def read_config(path: Path) -> EncoderConfig:
    """Read the architecture from a `config.json`.

    Raises ModelError when the file can't be read, or requires anything that is not supported.
    """
    raw = _USUAL | read_object(path)
    _refuse_unsupported(path, raw)
    hidden, heads = count(path, raw, "hidden_size"), count(path, raw, "num_attention_heads")
    if hidden % heads:
        raise ModelError(
            f"{path}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}."
        )
    config = EncoderConfig(
        hidden=hidden,
        layers=count(path, raw, "num_hidden_layers"),
        heads=heads,
        head_dim=hidden // heads,
        intermediate=count(path, raw, "intermediate_size"),
        vocabulary=count(path, raw, "vocab_size"),
        epsilon=positive(path, raw, "layer_norm_eps"),
        positions=count(path, raw, "max_position_embeddings"),
        first_position=family_of(raw).first_position(raw),
        token_types=count(path, raw, "type_vocab_size"),
    )
    if config.max_positions < 1:
        raise ModelError(
            f"{path}: max_position_embeddings {config.positions} leaves no position for a text, "
            f"which begins at {config.first_position}, behind pad_token_id."
        )
    return config


def refuse_others(directory: Path) -> None:
    """Refuse a classifier, reranker or anything else that only has an encoder inside."""
    path = directory / "config.json"
    names = read_object(path).get("architectures") or []
    if not isinstance(names, list) or not all(
        isinstance(name, str) and name.endswith(_HEADS) for name in names
    ):
        raise unsupported(
            path,
            f"architectures is {brief(names)}, which is not a text encoder: supported are names "
            f"that end in {', '.join(_HEADS)}",
        )


def _refuse_unsupported(path: Path, raw: Mapping[str, Any]) -> None:
    wanted: dict[str, tuple[Any, ...]] = {
        "hidden_act": _GELU,
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
        "quantization_config": (None,),
    }
    for key, values in wanted.items():
        value = raw.get(key)
        if value is not None and not any(value is each or value == each for each in values):
            said = " or ".join(map(repr, values))
            raise unsupported(
                path, f"{key} is {brief(value)}; embedfleet's own engine computes {said}"
            )
