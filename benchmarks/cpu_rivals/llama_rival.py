"""llama.cpp in q8_0, through llama-cpp-python built with native flags.

Texts go through the library's own batches as sequences, as many as a micro-batch holds; no
vocabulary is written, as token ids are given.
"""
# ruff: noqa: ARG001, ARG005 -- all rivals share a protocol

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

import gguf
import llama_cpp
import numpy as np
from benchmarks.cpu_rivals.contract import Embed, Vectors, sorted_passes, unit
from benchmarks.cpu_workloads import Texts

from embedfleet.engines.qwen3 import Qwen3Checkpoint

MOST_TEXTS: Final = 64
MICRO_BATCH: Final = 1_024
Q8: Final = gguf.GGMLQuantizationType.Q8_0


def prepare(checkpoint: Path, target: Path) -> None:
    """Write the model as GGUF with matrices in q8_0."""
    target.mkdir(parents=True, exist_ok=True)
    model = Qwen3Checkpoint(checkpoint)
    config = model.config
    writer = gguf.GGUFWriter(target / "model.gguf", "qwen3")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_block_count(config.layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden)
    writer.add_feed_forward_length(config.intermediate)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.epsilon)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocabulary)
    writer.add_tokenizer_model("none")

    def add(name: str, values: np.ndarray) -> None:
        if values.ndim == 1:
            writer.add_tensor(f"{name}.weight", np.ascontiguousarray(values, np.float32))
        else:
            quantised = gguf.quants.quantize(np.ascontiguousarray(values, np.float32), Q8)
            writer.add_tensor(f"{name}.weight", quantised, raw_dtype=Q8)

    add("token_embd", model.embed(np.arange(config.vocabulary, dtype=np.int32)))
    for index in range(config.layers):
        layer = model.layer(index)
        at = f"blk.{index}"
        add(f"{at}.attn_norm", layer.input_norm)
        add(f"{at}.attn_q", layer.query.floats())
        add(f"{at}.attn_k", layer.key.floats())
        add(f"{at}.attn_v", layer.value.floats())
        add(f"{at}.attn_q_norm", layer.query_norm)
        add(f"{at}.attn_k_norm", layer.key_norm)
        add(f"{at}.attn_output", layer.output.floats())
        add(f"{at}.ffn_norm", layer.mlp_norm)
        add(f"{at}.ffn_gate", layer.gate.floats())
        add(f"{at}.ffn_up", layer.up.floats())
        add(f"{at}.ffn_down", layer.down.floats())
    add("output_norm", model.final_norm)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load(checkpoint: Path, target: Path, threads: int) -> Embed:
    """Load with pooling of last tokens."""
    llama_cpp.llama_backend_init()
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    model = llama_cpp.llama_model_load_from_file(
        str(target / "model.gguf").encode(), llama_cpp.llama_model_default_params()
    )
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = MOST_TEXTS * 512
    settings.n_batch = settings.n_ubatch = MICRO_BATCH
    settings.n_seq_max = MOST_TEXTS
    settings.n_threads = settings.n_threads_batch = threads
    settings.embeddings = True
    settings.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_LAST
    context = llama_cpp.llama_init_from_model(model, settings)
    if not context:
        raise SystemExit("llama.cpp made no context")
    width = llama_cpp.llama_model_n_embd(model)
    batch = llama_cpp.llama_batch_init(MICRO_BATCH, 0, 1)

    def one_pass(texts: Texts) -> Vectors:
        count = 0
        for number, text in enumerate(texts):
            for position, token in enumerate(text.tolist()):
                batch.token[count] = token
                batch.pos[count] = position
                batch.n_seq_id[count] = 1
                batch.seq_id[count][0] = number
                batch.logits[count] = True
                count += 1
        batch.n_tokens = count
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        if llama_cpp.llama_decode(context, batch) != 0:
            raise SystemExit("llama.cpp could not decode")
        rows = np.zeros((len(texts), width), np.float32)
        for number in range(len(texts)):
            found = llama_cpp.llama_get_embeddings_seq(context, number)
            rows[number] = np.ctypeslib.as_array(found, (width,))
        return rows

    def embed(texts: Texts) -> Vectors:
        rows = np.zeros((len(texts), width), np.float32)
        for part in sorted_passes(texts, MOST_TEXTS, MICRO_BATCH):
            rows[part] = one_pass([texts[index] for index in part])
        return unit(rows)

    embed.keep = (quiet, model, context, batch)  # type: ignore[attr-defined]  # C holds pointers
    return embed
