"""Which small files of a model directory a replica hands to its gateway.

With them a gateway tokenises and checks requests for a model whose weights it never sees.
"""

from __future__ import annotations

SHARED_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "modules.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)
"""Names relative to the model directory; only the first two must exist."""
