"""Writes a step's weights as a model directory laid out as Qwen3-Embedding's.

    python -m training.export step3.safetensors PREPARED --geometry NAME --out DIRECTORY

Any checkpoint loader that reads compressed-tensors' W8 channel format reads the result; with
`--float` the weights go out as bfloat16 instead, for loaders that don't. The model card (README.md)
is written by hand and left alone.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from training.checkpoint import dequantise
from training.model import Geometry
from training.recipe import GEOMETRIES, INSTRUCTION, prompt
from training.tokenizer import END

LIMIT_BYTES = 16 * 2**20


def quantisation() -> dict[str, Any]:
    """Weights as int8 with one scale per output row; activations stay as they are."""
    weights = {
        "num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True, "dynamic": False,
    }  # fmt: skip
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear", "Embedding"],
                "weights": weights,
                "input_activations": None,
                "output_activations": None,
            }
        },
        "ignore": [],
    }


def model_config(geometry: Geometry, end_id: int, *, quantised: bool) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": geometry.hidden_size,
        "num_hidden_layers": geometry.num_hidden_layers,
        "intermediate_size": geometry.intermediate_size,
        "num_attention_heads": geometry.num_attention_heads,
        "num_key_value_heads": geometry.num_key_value_heads,
        "head_dim": geometry.head_dim,
        "vocab_size": geometry.vocab_size,
        "max_position_embeddings": geometry.max_position_embeddings,
        "rope_theta": geometry.rope_theta,
        "rope_scaling": None,
        "rms_norm_eps": geometry.rms_norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "bos_token_id": end_id,
        "eos_token_id": end_id,
        "pad_token_id": end_id,
        "torch_dtype": "float32" if quantised else "bfloat16",
        "use_cache": False,
    }
    if quantised:
        config["quantization_config"] = quantisation()
    return config


def side_files(geometry: Geometry) -> dict[str, Any]:
    """Everything else in JSON: pooling, prompts, tokenizer settings."""
    package = "sentence_transformers.models"
    return {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": f"{package}.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{package}.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{package}.Normalize"},
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": geometry.hidden_size,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": False,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "pooling_mode_weightedmean_tokens": False,
            "pooling_mode_lasttoken": True,
            "include_prompt": True,
        },
        "config_sentence_transformers.json": {
            "prompts": {"query": prompt(INSTRUCTION), "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": geometry.max_position_embeddings,
            "eos_token": END,
            "pad_token": END,
            "padding_side": "left",
            "clean_up_tokenization_spaces": False,
        },
    }


def export(weights: Path, tokenizer: Path, geometry: Geometry, out: Path, *, floats: bool) -> int:
    """Writes the directory; returns its size in bytes."""
    packed = load_file(weights)
    if floats:
        packed = {name: t.to(torch.bfloat16) for name, t in dequantise(packed).items()}
    (out / "1_Pooling").mkdir(parents=True, exist_ok=True)
    save_file(packed, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    vocabulary = Tokenizer.from_file(str(tokenizer)).get_vocab()
    config = model_config(geometry, vocabulary[END], quantised=not floats)
    for name, content in {"config.json": config, **side_files(geometry)}.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(tokenizer, out / "tokenizer.json")
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--geometry", choices=sorted(GEOMETRIES), required=True)
    parser.add_argument("--out", type=Path, default=Path("src/embedfleet/models/builtin"))
    parser.add_argument("--float", action="store_true", help="bfloat16 weights, not int8")
    arguments = parser.parse_args()
    size = export(
        arguments.weights,
        arguments.prepared / "tokenizer.json",
        GEOMETRIES[arguments.geometry],
        arguments.out,
        floats=arguments.float,
    )
    print(f"{arguments.out}: {size:,} bytes")
    if size > LIMIT_BYTES and not arguments.float:
        raise SystemExit(f"more than {LIMIT_BYTES:,} bytes")


if __name__ == "__main__":
    main()
