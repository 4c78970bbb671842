"""Small rerankers with seeded random weights, in each form that is published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from tests.checkpoints import Geometry, Layout, Weights, random_weights, write_checkpoint
from tests.small_tokenizer import tokenizer

Form: TypeAlias = Literal["tied", "untied", "classifier"]
FORMS: tuple[Form, ...] = ("tied", "untied", "classifier")
FLOATS = Layout("F32")
YES, NO = 7, 11
"""Token ids of the answers."""


def reranker_weights(geometry: Geometry, form: Form) -> Weights:
    """By the names of the form's class in transformers."""
    weights = {f"model.{name}": each for name, each in random_weights(geometry).items()}
    rng = np.random.default_rng(6)
    head = rng.standard_normal((geometry.vocabulary, geometry.hidden), np.float32)
    head *= np.float32(0.1 / np.sqrt(geometry.hidden))
    if form == "untied":
        weights["lm_head.weight"] = head
    if form == "classifier":
        weights["score.weight"] = head[YES : YES + 1] - head[NO : NO + 1]
    return weights


def write_reranker(
    directory: Path,
    geometry: Geometry,
    form: Form = "untied",
    layout: Layout = FLOATS,
    **changes: Any,
) -> Path:
    """Config, weights and what tells the answers' tokens; returns the directory."""
    if form == "classifier":
        changes |= {"architectures": ["Qwen3ForSequenceClassification"], "num_labels": 1}
        changes["pad_token_id"] = 0
    changes.setdefault("tie_word_embeddings", form == "tied")
    weights = reranker_weights(geometry, form)
    write_checkpoint(directory, weights, geometry, layout, **changes)
    shutil.rmtree(directory / "1_Pooling")
    if form != "classifier":
        (directory / "1_LogitScore").mkdir(exist_ok=True)
        tokens = json.dumps({"true_token_id": YES, "false_token_id": NO})
        (directory / "1_LogitScore" / "config.json").write_text(tokens, encoding="utf-8")
    return directory


SERVED = Geometry(hidden=128, layers=2, heads=2, kv_heads=1, head_dim=64, intermediate=256)


def write_served_reranker(directory: Path) -> Path:
    """A tiny one with a tokenizer, as a service needs it; its scores mean nothing."""
    write_reranker(directory, SERVED, "untied")
    tokenizer().save(str(directory / "tokenizer.json"))
    return directory
