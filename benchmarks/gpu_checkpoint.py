"""Model directories of Qwen3-Embedding's geometries with random weights, made where they are used.

    python -m benchmarks.gpu_checkpoint 4B /dev/shm/4B

Decides the numbers: seeded, of the published shapes and types, with the gains of a model at the
start of its training, so that activations have sizes as in real ones. Everything that loads a real
checkpoint loads these. Needs torch, and a GPU to be quick.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

BUILTIN: Final = Path(__file__).parents[1] / "src" / "embedfleet" / "models" / "builtin"
TOKENIZER_FILES: Final = ("tokenizer.json", "modules.json")
MAX_LENGTH: Final = 131_072
"""`model_max_length` of the published tokenizers; the built-in model's would end texts at 2,048."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes as in a published config.json."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    kv_heads: int = 8
    head_dim: int = 128

    @property
    def linear_shapes(self) -> list[tuple[int, int]]:
        """[out, in] of the products of one layer, joined as the engine joins them."""
        queries = self.heads * self.head_dim
        mixed = queries + 2 * self.kv_heads * self.head_dim
        return [
            (mixed, self.hidden),
            (self.hidden, queries),
            (2 * self.intermediate, self.hidden),
            (self.hidden, self.intermediate),
        ]


GEOMETRIES: Final = {
    "0.6B": Geometry(1024, 28, 16, 3072, 151_669, 32_768),
    "4B": Geometry(2560, 36, 32, 9728, 151_665, 40_960),
    "8B": Geometry(4096, 36, 32, 12_288, 151_665, 40_960),
}


def shapes(geometry: Geometry) -> Iterator[tuple[str, tuple[int, ...], float]]:
    """Name, shape and standard deviation of every tensor; 0 for norms, which are ones."""
    g = geometry
    queries, keys = g.heads * g.head_dim, g.kv_heads * g.head_dim
    narrow = 1 / math.sqrt(2 * g.layers)  # of what is added to the residual stream
    yield "embed_tokens.weight", (g.vocabulary, g.hidden), 1.0
    for index in range(g.layers):
        at = f"layers.{index}"
        yield f"{at}.input_layernorm.weight", (g.hidden,), 0
        yield f"{at}.self_attn.q_proj.weight", (queries, g.hidden), g.hidden**-0.5
        yield f"{at}.self_attn.k_proj.weight", (keys, g.hidden), g.hidden**-0.5
        yield f"{at}.self_attn.v_proj.weight", (keys, g.hidden), g.hidden**-0.5
        yield f"{at}.self_attn.q_norm.weight", (g.head_dim,), 0
        yield f"{at}.self_attn.k_norm.weight", (g.head_dim,), 0
        yield f"{at}.self_attn.o_proj.weight", (g.hidden, queries), narrow * queries**-0.5
        yield f"{at}.post_attention_layernorm.weight", (g.hidden,), 0
        yield f"{at}.mlp.gate_proj.weight", (g.intermediate, g.hidden), g.hidden**-0.5
        yield f"{at}.mlp.up_proj.weight", (g.intermediate, g.hidden), g.hidden**-0.5
        yield (
            f"{at}.mlp.down_proj.weight",
            (g.hidden, g.intermediate),
            narrow * g.intermediate**-0.5,
        )
    yield "norm.weight", (g.hidden,), 0


def write(directory: Path, geometry: Geometry, seed: int = 0) -> None:
    """Write config, tokenizer (the built-in model's) and weights in bf16."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config(geometry)), encoding="utf-8")
    for name in TOKENIZER_FILES:
        shutil.copy(BUILTIN / name, directory / name)
    tokenizer = json.loads((BUILTIN / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer["model_max_length"] = MAX_LENGTH
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    shutil.copytree(BUILTIN / "1_Pooling", directory / "1_Pooling", dirs_exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    random = torch.Generator(device).manual_seed(seed)
    header: dict[str, Any] = {}
    offset = 0
    for name, shape, _ in shapes(geometry):
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for _, shape, deviation in shapes(geometry):
            values = torch.ones(shape, device=device)
            if deviation:
                values = torch.randn(shape, generator=random, device=device) * deviation
            file.write(values.to(torch.bfloat16).view(torch.int16).cpu().numpy())


def config(geometry: Geometry) -> dict[str, Any]:
    g = geometry
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
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
        "rope_theta": 1_000_000,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": g.vocabulary,
    }


if __name__ == "__main__":
    write(Path(sys.argv[2]), GEOMETRIES[sys.argv[1]])
