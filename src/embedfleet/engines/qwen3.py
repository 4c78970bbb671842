"""Qwen3 checkpoints: what is supported, their geometry, and weights by role.

Any other architecture is refused: what was found, where, and what is supported.
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
    section,
    unsupported,
)
from embedfleet.engines.rope import Tables
from embedfleet.engines.scoring import Head, VectorHead, score_head
from embedfleet.engines.tensors import Floats, Matrix
from embedfleet.models.json_files import brief, read_object, shortened
from embedfleet.models.reranker import SEQUENCE, task_of
from embedfleet.vocabulary import ModelError, Pooling, Task

_CAUSAL: Final = "Qwen3ForCausalLM"
_ARCHITECTURES: Final = ("Qwen3Model", _CAUSAL, SEQUENCE)
DECLARATIONS: Final = (
    "modules.json",
    "1_Pooling/config.json",
    "config_sentence_transformers.json",
)
"""Files of sentence-transformers, of which an embedding model has at least one."""
_SILU: Final = ("silu", "swish")
"""Two names of one function."""
_INT8_FORMATS: Final = ("int-quantized", "naive-quantized")


@dataclass(frozen=True, slots=True)
class Qwen3Config:
    """The architecture of a dense Qwen3 model."""

    hidden: int
    """Width of the residual stream and of a vector."""
    layers: int
    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads; each serves `heads / kv_heads` query heads."""
    head_dim: int
    """Width of a head; not always `hidden / heads`."""
    intermediate: int
    """Width of the gated MLP."""
    vocabulary: int
    """Rows of the embedding table."""
    epsilon: float
    """Of the RMS norms."""
    rope_theta: float
    max_positions: int
    """Longest text in tokens that the model was made for."""
    tied: bool
    """Whether the unused language-model head shares the embedding table."""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """The weights of one decoder layer; matrices are [out, in]."""

    input_norm: Floats
    query: Matrix
    key: Matrix
    value: Matrix
    query_norm: Floats
    key_norm: Floats
    output: Matrix
    mlp_norm: Floats
    gate: Matrix
    up: Matrix
    down: Matrix


class Qwen3Checkpoint:
    """The weights of a Qwen3 model directory, checked for names and shapes."""

    forward: Final = "decoder"

    def __init__(
        self, directory: Path, pooling: Pooling = Pooling.LAST, task: Task | None = None
    ) -> None:
        """Open the checkpoint; raises ModelError naming what is missing, wrong or unsupported.

        `task` is what the files tell by default.
        """
        self.directory, self.pooling = directory, pooling
        refuse_adapter(directory)
        task = task_of(directory, wanted=task)
        if task is Task.EMBED:
            refuse_generative(directory)
        self.config = read_config(directory / "config.json")
        self._tensors = NamedTensors(directory)
        self._held: Matrix | None = None
        rows, hidden = self.config.vocabulary, self.config.hidden
        self.embedding = self._tensors.matrix("embed_tokens", rows, hidden)
        self.final_norm = self._tensors.vector("norm.weight", hidden)
        for layer in range(self.config.layers):
            self.layer(layer)  # so that a wrong tensor is refused now, not at its first use
        self._tensors.refuse_layers_from(f"{_layer(self.config.layers)}.", self.config.layers)
        self.head: Head = VectorHead(hidden)
        """What is made of the last tokens' final states."""
        if task is Task.RERANK:
            self.head = score_head(directory, self._tensors, self.embedding, tied=self.config.tied)

    def __repr__(self) -> str:
        return f"Qwen3Checkpoint({str(self.directory)!r}, {self.config})"

    def angles(self) -> Tables:
        """RoPE's, at the positions of tokens."""
        return Tables(self.config)

    def hold_embeddings(self) -> None:
        """Read the embedding table into memory, where `embed` looks rows up. Raises ModelError.

        An engine on the processor does so when it loads: the file may change while it serves.
        """
        if self._held is None:
            self._held = self.embedding.held()

    def embed(self, ids: NDArray[np.int32], positions: NDArray[np.int32] | None = None) -> Floats:  # noqa: ARG002
        """Rows of the embedding table, shape [len(ids), hidden], in float32.

        `positions` are told by angles, later.
        """
        if self._held is None:
            self._held = self.embedding.held()
        return self._held.rows(ids)

    def layer(self, index: int) -> LayerWeights:
        """Weights of layer `index`; of matrices nothing is read yet."""
        config, at = self.config, _layer(index)
        hidden, inner = config.hidden, config.intermediate
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        return LayerWeights(
            input_norm=self._tensors.vector(f"{at}.input_layernorm.weight", hidden),
            query=self._tensors.matrix(f"{at}.self_attn.q_proj", queries, hidden),
            key=self._tensors.matrix(f"{at}.self_attn.k_proj", keys, hidden),
            value=self._tensors.matrix(f"{at}.self_attn.v_proj", keys, hidden),
            query_norm=self._tensors.vector(f"{at}.self_attn.q_norm.weight", config.head_dim),
            key_norm=self._tensors.vector(f"{at}.self_attn.k_norm.weight", config.head_dim),
            output=self._tensors.matrix(f"{at}.self_attn.o_proj", hidden, queries),
            mlp_norm=self._tensors.vector(f"{at}.post_attention_layernorm.weight", hidden),
            gate=self._tensors.matrix(f"{at}.mlp.gate_proj", inner, hidden),
            up=self._tensors.matrix(f"{at}.mlp.up_proj", inner, hidden),
            down=self._tensors.matrix(f"{at}.mlp.down_proj", hidden, inner),
        )


def _layer(index: int) -> str:
    return f"layers.{index}"


def read_config(path: Path) -> Qwen3Config:
    """Read the architecture from a `config.json`.

    Raises ModelError when the file can't be read, or requires anything that is not supported.
    """
    raw = read_object(path)
    _refuse_unsupported(path, raw)
    _refuse_quantisation(path, section(path, raw, "quantization_config"))
    config = Qwen3Config(
        hidden=count(path, raw, "hidden_size"),
        layers=count(path, raw, "num_hidden_layers"),
        heads=count(path, raw, "num_attention_heads"),
        kv_heads=count(path, raw, "num_key_value_heads"),
        head_dim=count(path, raw, "head_dim"),
        intermediate=count(path, raw, "intermediate_size"),
        vocabulary=count(path, raw, "vocab_size"),
        epsilon=positive(path, raw, "rms_norm_eps"),
        rope_theta=_rope_theta(path, raw),
        max_positions=count(path, raw, "max_position_embeddings"),
        tied=bool(raw.get("tie_word_embeddings", False)),
    )
    if config.heads % config.kv_heads:
        raise ModelError(
            f"{path}: num_attention_heads {config.heads} is not a multiple of num_key_value_heads "
            f"{config.kv_heads}."
        )
    if config.head_dim % 2:
        raise ModelError(f"{path}: head_dim {config.head_dim} is odd; RoPE needs an even one.")
    return config


def _refuse_unsupported(path: Path, raw: Mapping[str, Any]) -> None:
    names = raw.get("architectures")
    if names and (not isinstance(names, list) or not all(each in _ARCHITECTURES for each in names)):
        raise unsupported(
            path, f"architectures is {brief(names)}; supported are {', '.join(_ARCHITECTURES)}"
        )
    if raw.get("hidden_act", "silu") not in _SILU:
        raise unsupported(
            path, f"hidden_act is {brief(raw['hidden_act'])}; only 'silu' is supported"
        )
    if raw.get("attention_bias", False):
        raise unsupported(path, "attention_bias is on; only models without it are supported")
    if raw.get("is_causal", True) is not True:
        raise unsupported(
            path,
            f"is_causal is {brief(raw['is_causal'])}: the model attends in both directions, which "
            "embedfleet's own engine does not do",
        )
    _refuse_windows(path, raw)
    for key in ("rope_scaling", "rope_parameters"):
        rope = section(path, raw, key)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise unsupported(path, f"{key} has {brief(kind)}; only plain RoPE is supported")
        each = next((name for name, value in rope.items() if isinstance(value, dict)), None)
        if each is not None:
            raise unsupported(
                path,
                f"{key} has parameters of its own for {shortened(each)}; only models whose layers "
                "all have the same ones are supported",
            )


def _refuse_windows(path: Path, raw: Mapping[str, Any]) -> None:
    kinds = raw.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise unsupported(
            path,
            f"layer_types is {brief(kinds)}; sliding-window attention is not supported, only "
            "'full_attention' in every layer",
        )
    # Layers from max_window_layers on have a window: where that is all of them, none has.
    first, layers = raw.get("max_window_layers"), raw.get("num_hidden_layers")
    none = isinstance(first, int) and isinstance(layers, int) and first >= layers
    if raw.get("use_sliding_window", False) and not kinds and not none:
        raise unsupported(
            path,
            "sliding-window attention is on (use_sliding_window); only full attention is supported",
        )


def refuse_generative(directory: Path) -> None:
    """Refuse a causal language model that no file declares an embedding model.

    A chat model and a reranker have the tensors of an embedding model and other weights. Raises
    ModelError.
    """
    path = directory / "config.json"
    raw = read_object(path)
    names = raw.get("architectures")
    declared = any((directory / name).exists() for name in DECLARATIONS)
    if declared or not isinstance(names, list) or _CAUSAL not in names:
        return
    raise ModelError(
        f"{path}: this is a causal language model ({_CAUSAL}) that no file declares an embedding "
        f"model ({' or '.join(DECLARATIONS)} would): it may be a chat model or a reranker, whose "
        "last state is not an embedding. If it is an embedding model, write "
        '{"pooling_mode_lasttoken": true} to 1_Pooling/config.json; if it is a reranker like '
        "Qwen3-Reranker, set pools.task to rerank."
    )


def _refuse_quantisation(path: Path, raw: Mapping[str, Any]) -> None:
    if not raw:
        return
    method, layout = raw.get("quant_method"), raw.get("format")
    if method != "compressed-tensors" or layout not in _INT8_FORMATS:
        raise unsupported(
            path,
            f"quantization_config is {brief(method)} in format {brief(layout)}; supported is "
            f"'compressed-tensors' in format {' or '.join(map(repr, _INT8_FORMATS))}",
        )
    groups = section(path, raw, "config_groups")
    for name in groups:
        weights = section(path, section(path, groups, name), "weights")
        found = {key: weights.get(key) for key in ("num_bits", "type", "strategy", "symmetric")}
        wanted = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
        if found != wanted:
            raise unsupported(
                path,
                f"quantization_config.config_groups.{name}.weights has {brief(found)}; supported "
                f"is {wanted}",
            )


def _rope_theta(path: Path, raw: Mapping[str, Any]) -> float:
    """As transformers reads it: what is nested wins over the top of the file, where older files
    have it; of the two objects the older one counts, alone.
    """
    nested = section(path, raw, "rope_scaling") or section(path, raw, "rope_parameters")
    return positive(path, nested if "rope_theta" in nested else raw, "rope_theta")
