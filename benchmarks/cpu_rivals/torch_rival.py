"""transformers in float32: texts sorted by length, in padded passes of at most 1,024 tokens.

Kinder to it than the 32 texts at a time of the model's card, which pad short texts to the longest.
Right padding: causal texts do not see what comes after them.
"""
# ruff: noqa: ARG001 -- all rivals share a protocol

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from benchmarks.cpu_rivals.contract import PASS_TOKENS, Embed, Vectors, sorted_passes
from benchmarks.cpu_workloads import Texts
from transformers import AutoModel
from transformers.utils import logging


def prepare(checkpoint: Path, target: Path) -> None:
    """Nothing: transformers reads the checkpoint."""


def load(checkpoint: Path, target: Path, threads: int) -> Embed:
    """Load the model in float32."""
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()

    def embed(texts: Texts) -> Vectors:
        rows = np.zeros((len(texts), model.config.hidden_size), np.float32)
        for part in sorted_passes(texts, PASS_TOKENS, PASS_TOKENS):
            inputs, last = padded(texts, part)
            with torch.inference_mode():
                states = model(**inputs, use_cache=False).last_hidden_state
            pooled = states[torch.arange(len(part)), last]
            rows[part] = torch.nn.functional.normalize(pooled, dim=1).numpy()
        return rows

    return embed


def padded(texts: Texts, part: np.ndarray) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs of a pass, and where each text ends."""
    lengths = np.array([len(texts[index]) for index in part])
    ids = np.zeros((len(part), lengths.max()), np.int64)
    for row, index in enumerate(part):
        ids[row, : lengths[row]] = texts[index]
    inputs = {"input_ids": torch.from_numpy(ids)}
    if lengths.min() < lengths.max():  # without a mask transformers takes a faster kernel
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        inputs["attention_mask"] = torch.from_numpy(mask)
    return inputs, torch.from_numpy(lengths - 1)
