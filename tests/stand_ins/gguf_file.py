"""A Qwen3-Embedding model or Qwen3-Reranker written as GGUF, as llama.cpp reads it.

Only what a test needs: float32 weights, a byte-level tokenizer, last-token pooling, or a reranker's
template and two rows of its last layer. People convert models with llama.cpp's own script.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from embedfleet.engines.qwen3 import Qwen3Checkpoint
from embedfleet.engines.scoring import ScoreHead
from embedfleet.models.description import ModelDescription
from embedfleet.models.reranker import template_of
from embedfleet.models.tokenizer_file import load_tokenizer
from embedfleet.vocabulary import Task

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
LAST_TOKEN, RANK = 3, 4
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4

Value = str | int | float | bool | list[str] | list[int]


def write(model: ModelDescription, path: Path) -> Path:
    """Write the model's weights and tokenizer to one file."""
    checkpoint = Qwen3Checkpoint(model.directory, task=model.identity.task)
    tensors = _tensors(checkpoint)
    metadata = _metadata(model, checkpoint)
    if model.identity.task is Task.RERANK:
        metadata |= _reranking(model)
    head = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    head += [_string(key) + _value(value) for key, value in metadata.items()]
    offset = 0
    for name, values in tensors.items():
        sizes = values.shape[::-1]  # the fastest one first
        head.append(
            _string(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, 0, offset)
        )
        offset += values.nbytes + -values.nbytes % ALIGNMENT
    start = b"".join(head)
    with path.open("wb") as file:
        file.write(start + b"\0" * (-len(start) % ALIGNMENT))
        for values in tensors.values():
            file.write(values.tobytes() + b"\0" * (-values.nbytes % ALIGNMENT))
    return path


def _tensors(checkpoint: Qwen3Checkpoint) -> dict[str, np.ndarray]:
    config = checkpoint.config
    every = np.arange(config.vocabulary, dtype=np.int32)
    found = {"token_embd.weight": checkpoint.embed(every)}
    for index in range(config.layers):
        layer = checkpoint.layer(index)
        names = {
            "attn_norm": layer.input_norm,
            "attn_q": layer.query.floats(),
            "attn_k": layer.key.floats(),
            "attn_v": layer.value.floats(),
            "attn_q_norm": layer.query_norm,
            "attn_k_norm": layer.key_norm,
            "attn_output": layer.output.floats(),
            "ffn_norm": layer.mlp_norm,
            "ffn_gate": layer.gate.floats(),
            "ffn_up": layer.up.floats(),
            "ffn_down": layer.down.floats(),
        }
        found |= {f"blk.{index}.{name}.weight": values for name, values in names.items()}
    found["output_norm.weight"] = checkpoint.final_norm
    if isinstance(checkpoint.head, ScoreHead):
        # The softmax over the rows of "yes" and "no" knows their difference alone.
        row = checkpoint.head.weights
        found["cls.output.weight"] = np.stack((row, np.zeros_like(row)))
    return {name: np.ascontiguousarray(values, "<f4") for name, values in found.items()}


def _metadata(model: ModelDescription, checkpoint: Qwen3Checkpoint) -> dict[str, Value]:
    config = checkpoint.config
    definition = json.loads(model.tokenizer_file.read_text(encoding="utf-8"))
    ids = dict(definition["model"]["vocab"])
    kinds = dict.fromkeys(ids.values(), NORMAL)
    for added in definition["added_tokens"]:
        ids[added["content"]] = added["id"]
        kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    by_id = {number: token for token, number in ids.items()}
    rows = range(config.vocabulary)
    merges = definition["model"]["merges"]
    return {
        "general.architecture": "qwen3",
        "general.name": model.identity.name,
        "general.file_type": 0,
        "qwen3.block_count": config.layers,
        "qwen3.context_length": config.max_positions,
        "qwen3.embedding_length": config.hidden,
        "qwen3.feed_forward_length": config.intermediate,
        "qwen3.attention.head_count": config.heads,
        "qwen3.attention.head_count_kv": config.kv_heads,
        "qwen3.attention.key_length": config.head_dim,
        "qwen3.attention.value_length": config.head_dim,
        "qwen3.attention.layer_norm_rms_epsilon": config.epsilon,
        "qwen3.rope.freq_base": config.rope_theta,
        "qwen3.pooling_type": LAST_TOKEN,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [by_id.get(row, f"[unused{row}]") for row in rows],
        "tokenizer.ggml.token_type": [kinds.get(row, NORMAL) for row in rows],
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in merges],
        "tokenizer.ggml.eos_token_id": model.end_of_text,
        "tokenizer.ggml.padding_token_id": model.end_of_text,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": True,
    }


def _reranking(model: ModelDescription) -> dict[str, Value]:
    """As llama.cpp's conversion script writes it."""
    template = template_of(model.directory)
    pair = template.pair.replace("{instruction}", template.instruction)
    text = f"{template.before}{pair}{{document}}{template.after}"
    tokenizer = load_tokenizer(model.tokenizer_file)
    if tokenizer.spell("A").ids == tokenizer.spell("a").ids:  # llama.cpp does not lower-case
        text = text.lower()
    return {
        "qwen3.pooling_type": RANK,
        "qwen3.classifier.output_labels": ["yes", "no"],
        "tokenizer.chat_templates": ["rerank"],
        "tokenizer.chat_template.rerank": text,
        "tokenizer.ggml.bos_token_id": model.end_of_text,
        "tokenizer.ggml.add_eos_token": False,
    }


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if isinstance(value[0], str):
        items = [_string(str(one)) for one in value]
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(items)
    return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
