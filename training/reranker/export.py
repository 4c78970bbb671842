"""Writes the reranker's weights as a model directory: `Qwen3ForSequenceClassification`, int8.

The tokenizer is the built-in model's. The model card (README.md) is written by hand and left alone.
"""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from training.export import model_config, side_files
from training.model import Geometry
from training.reranker.recipe import BEFORE_DOCUMENT, BEFORE_QUERY
from training.tokenizer import END

LIMIT_BYTES = 20 * 10**6


def config_of(geometry: Geometry, end_id: int) -> dict[str, object]:
    config = model_config(geometry, end_id, quantised=True)
    config["architectures"] = ["Qwen3ForSequenceClassification"]
    config["num_labels"] = 1
    config["quantization_config"]["ignore"] = ["score"]
    return config


def template() -> dict[str, str]:
    """How pairs are written: reranker.json."""
    return {
        "before": "",
        "pair": f"{BEFORE_QUERY}{{query}}{BEFORE_DOCUMENT}",
        "after": END,
        "instruction": "",
    }


def export(weights: Path, tokenizer: Path, geometry: Geometry, out: Path) -> int:
    """Writes the directory; returns its size in bytes."""
    packed = {
        name if name.startswith("score.") else f"model.{name}": tensor
        for name, tensor in load_file(weights).items()
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file(packed, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    vocabulary = Tokenizer.from_file(str(tokenizer)).get_vocab()
    contents = {
        "config.json": config_of(geometry, vocabulary[END]),
        "reranker.json": template(),
        "tokenizer_config.json": side_files(geometry)["tokenizer_config.json"],
    }
    for name, content in contents.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(tokenizer, out / "tokenizer.json")
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
