"""sentence-transformers' OpenVINO backend in int8.

Made the way `export_static_quantized_openvino_model` does it, with the same classes and defaults,
but calibrated on random token ids in place of texts from a hub: the weights are random, too.
"""
# ruff: noqa: ARG001 -- all rivals share a protocol

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np
import torch
from benchmarks.cpu_rivals.contract import PASS_TOKENS, Embed, Vectors, sorted_passes
from benchmarks.cpu_rivals.torch_rival import padded
from benchmarks.cpu_workloads import Texts
from datasets import Dataset
from optimum.intel import OVConfig, OVModelForFeatureExtraction, OVQuantizationConfig, OVQuantizer
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

SAMPLES: Final = 32
SAMPLE_TOKENS: Final = 128


def prepare(checkpoint: Path, target: Path) -> None:
    """Export, calibrate and quantise."""
    exported = OVModelForFeatureExtraction.from_pretrained(checkpoint, export=True, compile=False)
    vocabulary = exported.config.vocab_size
    rng = np.random.default_rng(3)
    ids = rng.integers(0, vocabulary, (SAMPLES, SAMPLE_TOKENS)).tolist()
    calibration = Dataset.from_dict(
        {"input_ids": ids, "attention_mask": np.ones_like(ids).tolist()}
    )
    config = OVConfig(quantization_config=OVQuantizationConfig(num_samples=SAMPLES))
    target.mkdir(parents=True, exist_ok=True)
    OVQuantizer.from_pretrained(exported).quantize(
        calibration, save_directory=target, ov_config=config
    )
    # The backend wants a tokenizer; ids are given to it here, so that any will do.
    nothing, pad = Tokenizer(models.WordLevel({"<pad>": 0})), "<pad>"
    PreTrainedTokenizerFast(tokenizer_object=nothing, pad_token=pad).save_pretrained(target)


def load(checkpoint: Path, target: Path, threads: int) -> Embed:
    """Load through sentence-transformers."""
    torch.set_num_threads(threads)
    found = json.loads((target / "config.json").read_text(encoding="utf-8"))
    settings = {
        "file_name": "openvino_model.xml",
        "ov_config": {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1},
    }
    body = Transformer(str(target), backend="openvino", model_kwargs=settings)
    pooling = Pooling(found["hidden_size"], pooling_mode="lasttoken")
    model = SentenceTransformer(modules=[body, pooling, Normalize()], device="cpu")

    def embed(texts: Texts) -> Vectors:
        rows = np.zeros((len(texts), found["hidden_size"]), np.float32)
        for part in sorted_passes(texts, PASS_TOKENS, PASS_TOKENS):
            inputs, _ = padded(texts, part)
            inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
            with torch.inference_mode():
                rows[part] = model(inputs)["sentence_embedding"].numpy()
        return rows

    return embed
