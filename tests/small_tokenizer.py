"""Small tokenizers of Qwen's kind, and model directories around them.

Byte-level BPE with Qwen's pattern and normalisation, trained on a few sentences within a blink. The
weights' files are not there, as in a gateway.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import (
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from embedfleet.models.tokenizer_kind import TokenizerKind
from embedfleet.models.tokenizer_library import InProcess

END = "<|endoftext|>"

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CORPUS = [
    "The river rises in the mountains and flows through the capital to the sea.",
    "Given a web search query, retrieve relevant passages that answer the query.",
    "How are you today? I'm fine, we've been to the sea, and they'll come tomorrow.",
    "天空为什么是蓝色的?因为空气散射了太阳的光。河流从山上流到大海。",
    "Embeddings of texts are vectors; texts of like meaning have vectors that are near.",
]


@cache
def trained() -> str:
    """Train the tokenizer; JSON without a post-processor."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=500,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_special_tokens([END, "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(["<think>", "</think>"])
    text: str = tokenizer.to_str()
    return text


def tokenizer(*, post_processor: bool = True) -> Tokenizer:
    """Build the tokenizer; its post-processor, as in Qwen3-Embedding, appends end-of-text."""
    built = Tokenizer.from_str(trained())
    if post_processor:
        built.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single=f"$A {END}",
                    pair=f"$A {END} $B {END}",
                    special_tokens=[(END, built.token_to_id(END))],
                ),
            ]
        )
    return built


def loaded(built: Tokenizer) -> InProcess:
    """A tokenizer as it is loaded of a file."""
    content = built.to_str().encode()
    return InProcess(Path("tokenizer.json"), content, TokenizerKind.of(json.loads(content)))


def id_of(token: str) -> int:
    """Look up a token of the small tokenizer."""
    found: int | None = tokenizer().token_to_id(token)
    assert found is not None
    return found


def write_model(directory: Path, *, built: Tokenizer | None = None, **config: Any) -> Path:
    """Write what a gateway needs of a model: `config.json` and `tokenizer.json`."""
    built = built or tokenizer()
    directory.mkdir(parents=True, exist_ok=True)
    built.save(str(directory / "tokenizer.json"))
    settings = {
        "vocab_size": built.get_vocab_size(),
        "hidden_size": 64,
        "max_position_embeddings": 512,
    } | config
    (directory / "config.json").write_text(json.dumps(settings))
    return directory
