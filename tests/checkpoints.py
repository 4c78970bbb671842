"""Small Qwen3 checkpoints with seeded random weights, written in every supported layout.

NumPy only: the tests of the engine need no torch, and the script that makes the reference vectors
reads the very same files with transformers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes of a checkpoint; named as in config.json, shortened."""

    hidden: int = 256
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 128
    intermediate: int = 768
    vocabulary: int = 3_000
    positions: int = 4_096
    rope_theta: float = 1_000_000.0

    @property
    def linear_parameters(self) -> int:
        projections = self.head_dim * (2 * self.heads + 2 * self.kv_heads) + 3 * self.intermediate
        return self.layers * self.hidden * projections


SMALL: Final = Geometry()
"""Three layers with heads of 128, wider in sum than the residual stream, as in the 0.6B."""
NARROW: Final = Geometry(hidden=320, layers=2, heads=6, kv_heads=3, head_dim=64, intermediate=896)
"""Heads of 64 and sizes that are no powers of two."""
LARGE: Final = Geometry(1024, 28, 16, 8, 128, 3072, 151_669, 32_768)
"""The geometry of Qwen3-Embedding-0.6B."""


def random_weights(geometry: Geometry, seed: int = 0) -> Weights:
    """Float32 weights by tensor name (without `model.`), rounded to what bfloat16 can hold.

    The rounding lets one set of weights be written as bf16 or fp32 and mean the same numbers.
    Matrices are scaled so that activations neither vanish nor explode, norms lie around 1.
    """
    if geometry.linear_parameters > MOST_KEPT_PARAMETERS:
        return _drawn(geometry, seed)
    return {name: values.copy() for name, values in _kept(geometry, seed).items()}


MOST_KEPT_PARAMETERS: Final = 8_000_000
"""Of a checkpoint that is drawn once for all tests; those that measure memory want larger ones."""


@lru_cache(maxsize=8)
def _kept(geometry: Geometry, seed: int) -> Weights:
    return _drawn(geometry, seed)


def _drawn(geometry: Geometry, seed: int) -> Weights:
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> NDArray[np.float32]:
        values = rng.standard_normal((rows, columns), dtype=np.float32)
        values *= np.float32(gain / np.sqrt(columns))
        return as_bfloat16(values)

    def norm(width: int) -> NDArray[np.float32]:
        return as_bfloat16(1 + 0.2 * rng.standard_normal(width, dtype=np.float32))

    g = geometry
    weights = {"embed_tokens.weight": matrix(g.vocabulary, g.hidden, gain=0.5)}
    for index in range(g.layers):
        layer = f"layers.{index}"
        queries, keys = g.heads * g.head_dim, g.kv_heads * g.head_dim
        weights |= {
            f"{layer}.input_layernorm.weight": norm(g.hidden),
            f"{layer}.self_attn.q_proj.weight": matrix(queries, g.hidden),
            f"{layer}.self_attn.k_proj.weight": matrix(keys, g.hidden),
            f"{layer}.self_attn.v_proj.weight": matrix(keys, g.hidden),
            f"{layer}.self_attn.q_norm.weight": norm(g.head_dim),
            f"{layer}.self_attn.k_norm.weight": norm(g.head_dim),
            f"{layer}.self_attn.o_proj.weight": matrix(g.hidden, queries),
            f"{layer}.post_attention_layernorm.weight": norm(g.hidden),
            f"{layer}.mlp.gate_proj.weight": matrix(g.intermediate, g.hidden),
            f"{layer}.mlp.up_proj.weight": matrix(g.intermediate, g.hidden),
            f"{layer}.mlp.down_proj.weight": matrix(g.hidden, g.intermediate),
        }
    weights["norm.weight"] = norm(g.hidden)
    return weights


def config(geometry: Geometry, **changes: Any) -> dict[str, Any]:
    """A config.json as published for Qwen3-Embedding; `changes` replace or (None) remove keys."""
    g = geometry
    raw: dict[str, Any] = {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "eos_token_id": 2,
        "head_dim": g.head_dim,
        "hidden_act": "silu",
        "hidden_size": g.hidden,
        "intermediate_size": g.intermediate,
        "max_position_embeddings": g.positions,
        "model_type": "qwen3",
        "num_attention_heads": g.heads,
        "num_hidden_layers": g.layers,
        "num_key_value_heads": g.kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": g.rope_theta,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_sliding_window": False,
        "vocab_size": g.vocabulary,
    }
    return {key: value for key, value in (raw | changes).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Layout:
    """How the weights are written."""

    kind: str = "BF16"
    """F32, F16 or BF16, or I8: int8 with one scale per output row, norms in BF16."""
    prefix: str = ""
    shards: int = 1


def write_checkpoint(
    directory: Path,
    weights: Weights,
    geometry: Geometry,
    layout: Layout = Layout(),
    **config_changes: Any,
) -> Path:
    """Write config.json and the weights into `directory` (made if absent); returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    if layout.kind == "I8":
        config_changes.setdefault("quantization_config", quantization())
    raw = config(geometry, **config_changes)
    (directory / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    (directory / "1_Pooling").mkdir(exist_ok=True)
    pooling = json.dumps({"pooling_mode_lasttoken": True})
    (directory / "1_Pooling" / "config.json").write_text(pooling, encoding="utf-8")
    stored = {
        layout.prefix + name: tensor
        for key, values in weights.items()
        for name, tensor in _stored(key, values, layout.kind).items()
    }
    names = list(stored)
    if layout.shards == 1:
        write_safetensors(directory / "model.safetensors", stored)
        return directory
    weight_map: dict[str, str] = {}
    for shard in range(layout.shards):
        file = f"model-{shard + 1:05}-of-{layout.shards:05}.safetensors"
        part = names[shard :: layout.shards]
        write_safetensors(directory / file, {name: stored[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return directory


def quantization() -> dict[str, Any]:
    """What compressed-tensors writes for int8 weights by channel and int8 activations by token."""
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 8,
                    "type": "int",
                    "strategy": "channel",
                    "symmetric": True,
                    "dynamic": False,
                },
                "input_activations": {
                    "num_bits": 8,
                    "type": "int",
                    "strategy": "token",
                    "symmetric": True,
                    "dynamic": True,
                },
            }
        },
        "ignore": ["lm_head"],
    }


def write_safetensors(path: Path, tensors: dict[str, tuple[str, NDArray[Any]]]) -> None:
    """Write `tensors` (type and little-endian values by name) as a safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (kind, values) in tensors.items():
        end = offset + values.nbytes
        header[name] = {"dtype": kind, "shape": values.shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for _, values in tensors.values():
            file.write(np.ascontiguousarray(values).tobytes())


def as_bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounded to the nearest bfloat16, still float32."""
    return (bfloat16_bits(values).astype(np.uint32) << np.uint32(16)).view(np.float32)


def int8_rows(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 with one scale per row."""
    scales = as_bfloat16(np.abs(values).max(axis=1, keepdims=True) / np.float32(127))
    return np.clip(np.rint(values / scales), -127, 127).astype(np.int8), scales


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounding = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + rounding) >> np.uint32(16)).astype(np.uint16)


def _stored(
    name: str, values: NDArray[np.float32], kind: str
) -> dict[str, tuple[str, NDArray[Any]]]:
    if kind == "I8" and values.ndim == 2:
        quantised, scales = int8_rows(values)
        return {
            name: ("I8", quantised),
            name + "_scale": ("BF16", bfloat16_bits(scales)),
        }
    if kind == "F32":
        return {name: ("F32", values)}
    if kind == "F16":
        return {name: ("F16", values.astype(np.float16))}
    return {name: ("BF16", bfloat16_bits(values))}
