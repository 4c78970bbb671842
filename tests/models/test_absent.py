"""Of a file that is missing it is said what lies there instead, and the way to it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from embedfleet.models.absent import absent


@pytest.mark.parametrize(
    ("missing", "there", "told"),
    [
        ("model.safetensors", "pytorch_model.bin", r"pickled; .*AutoModel.*save_pretrained"),
        ("model.safetensors", "pytorch_model-00001-of-00002.bin", "pickled"),
        ("model.safetensors", "model-q8_0.gguf", "--engine llamacpp"),
        ("model.safetensors", "onnx/model.onnx", "ONNX"),
        ("model.safetensors", "tf_model.h5", "TensorFlow"),
        ("model.safetensors", "notes.txt", r"model\.safetensors\.index\.json and its shards"),
        ("two.safetensors", "model.safetensors.index.json", "which the index names"),
        ("tokenizer.json", "vocab.txt", r"from vocab\.txt .*AutoTokenizer.*save_pretrained"),
        ("tokenizer.json", "sentencepiece.bpe.model", "from sentencepiece"),
        ("config.json", "adapter_config.json", "PEFT adapter.*merge_and_unload"),
        ("config.json", "notes.txt", "$"),
    ],
)
def test_what_lies_there_instead_is_named(
    tmp_path: Path, missing: str, there: str, told: str
) -> None:
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).touch()
    assert re.search(
        rf"{re.escape(missing)} is missing.*{told}", absent(tmp_path / missing).message
    )
