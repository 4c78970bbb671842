"""What is said of a file that a model lacks: what lies there instead, and how to come from it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from embedfleet.vocabulary import ModelError

SAVES_MODEL: Final = (
    "transformers writes it: AutoModel.from_pretrained(MODEL).save_pretrained(DIRECTORY)"
)
SAVES_TOKENIZER: Final = (
    "transformers writes it: AutoTokenizer.from_pretrained(MODEL).save_pretrained(DIRECTORY)"
)
_WAYS: Final = (
    ("*.safetensors.index.json", "which the index names; fetch it from where the others are from"),
    ("pytorch_model*.bin", f"and the weights are pickled; {SAVES_MODEL}"),
    ("tf_model.h5", f"and the weights are TensorFlow's; {SAVES_MODEL}"),
    ("*.gguf", "and the weights are GGUF, which llama.cpp reads: --engine llamacpp"),
    ("onnx/*.onnx", f"and the weights are ONNX; from those that they were made of {SAVES_MODEL}"),
    ("*.onnx", f"and the weights are ONNX; from those that they were made of {SAVES_MODEL}"),
)
"""From files that hold weights, by patterns; the first that is there counts."""
_WHOLE: Final = (
    "where a model directory holds model.safetensors, or model.safetensors.index.json and its "
    f"shards; from other formats {SAVES_MODEL}"
)
_VOCABULARIES: Final = ("vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")


def absent(path: Path) -> ModelError:
    """The error for a file of a model directory that is not there."""
    return ModelError(f"{path} is missing{_instead(path)}")


def _instead(path: Path) -> str:
    directory = path.parent
    if (directory / "adapter_config.json").exists():
        return (
            ": the directory holds a PEFT adapter, and not the model that it changes. Merge it "
            "into that one's weights (peft: merge_and_unload, then save_pretrained)"
        )
    if path.suffix == ".safetensors":
        found = next((way for pattern, way in _WAYS if any(directory.glob(pattern))), None)
        return f", {found or _WHOLE}"
    if path.name == "tokenizer.json":
        vocabulary = next((name for name in _VOCABULARIES if (directory / name).exists()), None)
        return f"; from {vocabulary} {SAVES_TOKENIZER}" if vocabulary else ""
    return ""
