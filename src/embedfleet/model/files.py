"""Which small files of a model directory a replica hands to its gateway.

With them a gateway tokenises and checks requests for a model whose weights it never sees.
"""

from __future__ import annotations

SHARED_FILES = {
    "config.json": 1 << 20,
    "tokenizer.json": 64 << 20,
    "tokenizer_config.json": 4 << 20,
    "special_tokens_map.json": 1 << 20,
    "modules.json": 1 << 20,
    "config_sentence_transformers.json": 1 << 20,
    "sentence_bert_config.json": 1 << 20,
    "1_Pooling/config.json": 1 << 20,
}
"""Names relative to the model directory, and the most bytes that a gateway takes of each; only the
first two must exist. Gemma's tokenizer.json has 33 MiB, XLM-R's 17, Qwen3's 11."""
