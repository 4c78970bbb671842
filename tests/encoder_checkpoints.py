"""Small BERT and XLM-RoBERTa checkpoints with seeded random weights, as transformers saves them.

NumPy only, as `checkpoints.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from tests.checkpoints import Layout, Weights, as_bfloat16, bfloat16_bits, write_safetensors

Pooling = Literal["cls", "mean"]
AS_FLOAT32: Final = Layout("F32")


@dataclass(frozen=True, slots=True)
class EncoderGeometry:
    """The sizes of a checkpoint; named as in config.json, shortened."""

    hidden: int = 128
    layers: int = 3
    heads: int = 4
    intermediate: int = 512
    vocabulary: int = 1_000
    positions: int = 512
    token_types: int = 2
    padding: int | None = None
    """Id of the padding token, of XLM-RoBERTa: its positions begin behind it."""

    @property
    def most_tokens(self) -> int:
        return self.positions - (0 if self.padding is None else self.padding + 1)


BERT: Final = EncoderGeometry()
"""Heads of 32, as in MiniLM and bge-small."""
WIDE_HEADS: Final = EncoderGeometry(192, 2, 3, 448)
"""Heads of 64, as in bge-base, and sizes that are no powers of two."""
XLM_ROBERTA: Final = EncoderGeometry(128, 2, 2, 384, positions=514, token_types=1, padding=1)
ODD: Final = EncoderGeometry(60, 2, 5, 100)
"""Sizes that no kernel divides."""
GEOMETRIES: Final = {"bert": BERT, "wide": WIDE_HEADS, "xlm-roberta": XLM_ROBERTA, "odd": ODD}
POOLINGS: Final[tuple[Pooling, ...]] = ("cls", "mean")

MINILM_L6: Final = EncoderGeometry(384, 6, 12, 1_536, 30_522)
BGE_BASE: Final = EncoderGeometry(768, 12, 12, 3_072, 30_522)
BGE_M3: Final = EncoderGeometry(1_024, 24, 16, 4_096, 250_002, 8_194, 1, padding=1)


STORED_AS: Final[dict[str, Callable[[NDArray[np.float32]], NDArray[Any]]]] = {
    "F32": lambda values: values,
    "F16": lambda values: values.astype(np.float16),
    "BF16": bfloat16_bits,
}


def random_encoder(geometry: EncoderGeometry, seed: int = 0) -> Weights:
    """Float32 weights by tensor name, rounded to what bfloat16 can hold.

    Matrices are scaled so that activations neither vanish nor explode; biases and norms' weights
    are far enough from 0 and 1 that leaving one out shows.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float, around: float = 0) -> NDArray[np.float32]:
        return as_bfloat16(around + scale * rng.standard_normal(shape, dtype=np.float32))

    g = geometry
    weights: Weights = {}

    def linear(name: str, rows: int, columns: int) -> None:
        weights[f"{name}.weight"] = normal(rows, columns, scale=columns**-0.5)
        weights[f"{name}.bias"] = normal(rows, scale=0.3)

    def norm(name: str) -> None:
        weights[f"{name}.LayerNorm.weight"] = normal(g.hidden, scale=0.2, around=1)
        weights[f"{name}.LayerNorm.bias"] = normal(g.hidden, scale=0.3)

    for name, rows in (
        ("word", g.vocabulary),
        ("position", g.positions),
        ("token_type", g.token_types),
    ):
        weights[f"embeddings.{name}_embeddings.weight"] = normal(rows, g.hidden, scale=0.5)
    norm("embeddings")
    for index in range(g.layers):
        at = f"encoder.layer.{index}"
        for name in ("query", "key", "value"):
            linear(f"{at}.attention.self.{name}", g.hidden, g.hidden)
        linear(f"{at}.attention.output.dense", g.hidden, g.hidden)
        norm(f"{at}.attention.output")
        linear(f"{at}.intermediate.dense", g.intermediate, g.hidden)
        linear(f"{at}.output.dense", g.hidden, g.intermediate)
        norm(f"{at}.output")
    return weights


def encoder_config(geometry: EncoderGeometry, **changes: Any) -> dict[str, Any]:
    """A config.json as published; `changes` replace or (None) remove keys."""
    g = geometry
    raw: dict[str, Any] = {
        "architectures": ["BertModel" if g.padding is None else "XLMRobertaModel"],
        "model_type": "bert" if g.padding is None else "xlm-roberta",
        "hidden_act": "gelu",
        "hidden_size": g.hidden,
        "intermediate_size": g.intermediate,
        "layer_norm_eps": 1e-12 if g.padding is None else 1e-5,
        "max_position_embeddings": g.positions,
        "num_attention_heads": g.heads,
        "num_hidden_layers": g.layers,
        "pad_token_id": g.padding or 0,
        "position_embedding_type": "absolute",
        "type_vocab_size": g.token_types,
        "vocab_size": g.vocabulary,
    }
    return {key: value for key, value in (raw | changes).items() if value is not None}


def write_encoder(
    directory: Path,
    geometry: EncoderGeometry,
    *,
    weights: Weights | None = None,
    pooling: Pooling | None = "mean",
    layout: Layout = AS_FLOAT32,
    **config_changes: Any,
) -> Path:
    """Write configuration, weights and pooling into `directory` (made if absent); returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    raw = encoder_config(geometry, **config_changes)
    (directory / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    if pooling is not None:
        (directory / "1_Pooling").mkdir(exist_ok=True)
        flag = "pooling_mode_cls_token" if pooling == "cls" else "pooling_mode_mean_tokens"
        config = json.dumps({"word_embedding_dimension": geometry.hidden, flag: True})
        (directory / "1_Pooling" / "config.json").write_text(config, encoding="utf-8")
    stored: dict[str, tuple[str, NDArray[Any]]] = {}
    for name, values in (weights or random_encoder(geometry)).items():
        stored[layout.prefix + name] = (layout.kind, STORED_AS[layout.kind](values))
    # As in many published files: whole numbers that nobody needs.
    places = np.arange(geometry.positions, dtype=np.int64)[None]
    stored[f"{layout.prefix}embeddings.position_ids"] = ("I64", places)
    write_safetensors(directory / "model.safetensors", stored)
    return directory
