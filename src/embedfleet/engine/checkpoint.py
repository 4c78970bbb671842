"""Qwen3 checkpoints: what the architecture is, and the weights by their role.

This module decides which checkpoints are supported and refuses all others by name: what was
found, where, and what would be right. It refuses to know devices and how weights are computed
with; token ids and prompts belong to others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from embedfleet.engine.tensors import Floats, Matrix, Tensor, open_tensors
from embedfleet.model.json_files import read_object
from embedfleet.vocabulary import ModelError

MODEL_TYPES: Final = ("qwen3",)
"""Values of `model_type` in config.json that are supported."""

_CAUSAL: Final = "Qwen3ForCausalLM"
_ARCHITECTURES: Final = ("Qwen3Model", _CAUSAL)
DECLARATIONS: Final = (
    "modules.json",
    "1_Pooling/config.json",
    "config_sentence_transformers.json",
)
"""Files of sentence-transformers, of which an embedding model has at least one."""
_SILU: Final = ("silu", "swish")
"""Two names of one function."""
_INT8_FORMATS: Final = ("int-quantized", "naive-quantized")

_MOST: Final = 2**31 - 1
_LARGEST: Final = 1e30
"""Larger numbers are of no model."""
_SHOWN: Final = 80
"""Characters of a wrong value that an error repeats."""


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


class Checkpoint:
    """The weights of a Qwen3 model directory, checked for names and shapes."""

    def __init__(self, directory: Path) -> None:
        """Open the checkpoint; raises ModelError naming what is missing, wrong or unsupported."""
        self.directory = directory
        _refuse_adapter(directory)
        refuse_generative(directory)
        self.config = read_config(directory / "config.json")
        self._tensors = open_tensors(directory)
        self._held: Matrix | None = None
        self.embedding = self._matrix("embed_tokens", self.config.vocabulary, self.config.hidden)
        self.final_norm = self._vector("norm.weight", self.config.hidden)
        for layer in range(self.config.layers):
            self.layer(layer)  # so that a wrong tensor is refused now, not at its first use
        beyond = f"{_layer(self.config.layers)}."
        surplus = next((name for name in self._tensors if name.startswith(beyond)), None)
        if surplus is not None:
            raise ModelError(
                f"{directory}: tensor {surplus} is there, but config.json says that the model has "
                f"{self.config.layers} layers."
            )

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.directory)!r}, {self.config})"

    def hold_embeddings(self) -> None:
        """Read the embedding table into memory, where `embed` looks rows up. Raises ModelError.

        An engine on the processor does so when it loads: the file may change while it serves.
        """
        if self._held is None:
            self._held = self.embedding.held()

    def embed(self, ids: NDArray[np.int32]) -> Floats:
        """Rows of the embedding table, shape [len(ids), hidden], in float32."""
        if self._held is None:
            self._held = self.embedding.held()
        return self._held.rows(ids)

    def layer(self, index: int) -> LayerWeights:
        """Weights of layer `index`; of matrices nothing is read yet."""
        config, at = self.config, _layer(index)
        hidden, inner = config.hidden, config.intermediate
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        return LayerWeights(
            input_norm=self._vector(f"{at}.input_layernorm.weight", hidden),
            query=self._matrix(f"{at}.self_attn.q_proj", queries, hidden),
            key=self._matrix(f"{at}.self_attn.k_proj", keys, hidden),
            value=self._matrix(f"{at}.self_attn.v_proj", keys, hidden),
            query_norm=self._vector(f"{at}.self_attn.q_norm.weight", config.head_dim),
            key_norm=self._vector(f"{at}.self_attn.k_norm.weight", config.head_dim),
            output=self._matrix(f"{at}.self_attn.o_proj", hidden, queries),
            mlp_norm=self._vector(f"{at}.post_attention_layernorm.weight", hidden),
            gate=self._matrix(f"{at}.mlp.gate_proj", inner, hidden),
            up=self._matrix(f"{at}.mlp.up_proj", inner, hidden),
            down=self._matrix(f"{at}.mlp.down_proj", hidden, inner),
        )

    def _tensor(self, name: str, *shape: int) -> Tensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise ModelError(
                f"{self.directory}: tensor {name} is missing (looked for with and without the "
                f"prefix 'model.'); config.json asks for one of shape {list(shape)}."
            )
        if tensor.shape != shape:
            raise ModelError(
                f"{self.directory}: tensor {name} has shape {list(tensor.shape)}, but config.json "
                f"asks for {list(shape)}."
            )
        return tensor

    def _vector(self, name: str, width: int) -> Floats:
        tensor = self._tensor(name, width)
        if tensor.kind == "I8":
            raise ModelError(f"{self.directory}: tensor {name} is int8; norms must be floats.")
        return tensor.floats()

    def _matrix(self, role: str, rows: int, columns: int) -> Matrix:
        tensor = self._tensor(f"{role}.weight", rows, columns)
        if f"{role}.bias" in self._tensors:
            raise ModelError(
                f"{self.directory}: {role}.bias: Qwen3 layers with a bias are unknown."
            )
        if tensor.kind != "I8":
            return Matrix(tensor)
        scales = self._tensor(f"{role}.weight_scale", rows, 1)
        if f"{role}.weight_zero_point" in self._tensors:
            raise ModelError(f"{self.directory}: {role}: int8 with zero points is not supported.")
        return Matrix(tensor, scales.floats())


def _layer(index: int) -> str:
    return f"layers.{index}"


def read_config(path: Path) -> Qwen3Config:
    """Read the architecture from a `config.json`.

    Raises ModelError when the file can't be read, or asks for anything that is not supported.
    """
    raw = read_object(path)
    _refuse_unsupported(path, raw)
    _refuse_quantisation(path, _section(path, raw, "quantization_config"))
    config = Qwen3Config(
        hidden=_count(path, raw, "hidden_size"),
        layers=_count(path, raw, "num_hidden_layers"),
        heads=_count(path, raw, "num_attention_heads"),
        kv_heads=_count(path, raw, "num_key_value_heads"),
        head_dim=_count(path, raw, "head_dim"),
        intermediate=_count(path, raw, "intermediate_size"),
        vocabulary=_count(path, raw, "vocab_size"),
        epsilon=_positive(path, raw, "rms_norm_eps"),
        rope_theta=_rope_theta(path, raw),
        max_positions=_count(path, raw, "max_position_embeddings"),
        tied=bool(raw.get("tie_word_embeddings", False)),
    )
    if config.heads % config.kv_heads:
        raise ModelError(
            f"{path}: num_attention_heads {config.heads} is no multiple of num_key_value_heads "
            f"{config.kv_heads}."
        )
    if config.head_dim % 2:
        raise ModelError(f"{path}: head_dim {config.head_dim} is odd; RoPE needs an even one.")
    return config


def _refuse_unsupported(path: Path, raw: Mapping[str, Any]) -> None:
    model_type, names = raw.get("model_type"), raw.get("architectures")
    if model_type not in MODEL_TYPES:
        raise ModelError(
            f"{path}: model_type is {model_type!r}, and embedfleet's own engine computes "
            f"{', '.join(MODEL_TYPES)}; another one may serve it: --engine tei, vllm, sglang or "
            "llamacpp, or one that already runs (embedfleet gateway --model DIR --replica URL)."
        )
    if names and (not isinstance(names, list) or not all(each in _ARCHITECTURES for each in names)):
        raise ModelError(
            f"{path}: architectures is {names}; supported are {', '.join(_ARCHITECTURES)}."
        )
    if raw.get("hidden_act", "silu") not in _SILU:
        raise ModelError(f"{path}: hidden_act is {raw['hidden_act']!r}; only 'silu' is supported.")
    if raw.get("attention_bias", False):
        raise ModelError(f"{path}: attention_bias is on; only models without it are supported.")
    if raw.get("is_causal", True) is not True:
        raise ModelError(
            f"{path}: is_causal is {raw['is_causal']!r}: the model attends in both directions, "
            "which embedfleet's own engine does not do; --engine vllm or tei may serve it."
        )
    _refuse_windows(path, raw)
    for key in ("rope_scaling", "rope_parameters"):
        rope = _section(path, raw, key)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise ModelError(f"{path}: {key} asks for {kind!r}; only plain RoPE is supported.")
        each = next((name for name, value in rope.items() if isinstance(value, dict)), None)
        if each is not None:
            raise ModelError(
                f"{path}: {key} has parameters of its own for {each}; only models whose layers all "
                "have the same ones are supported."
            )


def _refuse_windows(path: Path, raw: Mapping[str, Any]) -> None:
    kinds = raw.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise ModelError(
            f"{path}: layer_types is {_brief(kinds)}; sliding-window attention is not supported, "
            "only 'full_attention' in every layer."
        )
    # Layers from max_window_layers on have a window: where that is all of them, none has.
    first, layers = raw.get("max_window_layers"), raw.get("num_hidden_layers")
    none = isinstance(first, int) and isinstance(layers, int) and first >= layers
    if raw.get("use_sliding_window", False) and not kinds and not none:
        raise ModelError(
            f"{path}: sliding-window attention is on (use_sliding_window); only full attention is "
            "supported."
        )


def _refuse_adapter(directory: Path) -> None:
    """A PEFT adapter changes the weights beside which it lies, or has none beside it."""
    adapter = directory / "adapter_config.json"
    if adapter.exists():
        raise ModelError(
            f"{adapter}: the directory holds a PEFT adapter, which is not applied. Merge it into "
            "the weights first (peft: merge_and_unload, then save_pretrained), or remove it to "
            "serve the base model."
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
        "last state is no embedding. If it is an embedding model, write "
        '{"pooling_mode_lasttoken": true} to 1_Pooling/config.json.'
    )


def _refuse_quantisation(path: Path, raw: Mapping[str, Any]) -> None:
    if not raw:
        return
    method, layout = raw.get("quant_method"), raw.get("format")
    if method != "compressed-tensors" or layout not in _INT8_FORMATS:
        raise ModelError(
            f"{path}: quantization_config is {method!r} in format {layout!r}; supported is "
            f"'compressed-tensors' in format {' or '.join(map(repr, _INT8_FORMATS))}."
        )
    groups = _section(path, raw, "config_groups")
    for name in groups:
        weights = _section(path, _section(path, groups, name), "weights")
        found = {key: weights.get(key) for key in ("num_bits", "type", "strategy", "symmetric")}
        wanted = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
        if found != wanted:
            raise ModelError(
                f"{path}: quantization_config.config_groups.{name}.weights has {found}; "
                f"supported is {wanted}."
            )


def _section(path: Path, raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object inside the file; empty where it is absent or null."""
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ModelError(f"{path}: {key} is {_brief(value)}; it must be an object.")
    return value


def _brief(value: object) -> str:
    """A value of the file as it is shown in an error."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _rope_theta(path: Path, raw: Mapping[str, Any]) -> float:
    """As transformers reads it: what is nested wins over the top of the file, where older files
    have it.
    """
    for key in ("rope_parameters", "rope_scaling"):
        nested = _section(path, raw, key)
        if "rope_theta" in nested:
            return _positive(path, nested, "rope_theta")
    return _positive(path, raw, "rope_theta")


def _count(path: Path, raw: Mapping[str, Any], key: str) -> int:
    value = raw.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
        raise ModelError(f"{path}: {key} is {_brief(value)}; it must be a positive whole number.")
    return value


def _positive(path: Path, raw: Mapping[str, Any], key: str) -> float:
    value = raw.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _LARGEST:
        raise ModelError(f"{path}: {key} is {_brief(value)}; it must be a positive number.")
    return float(value)
