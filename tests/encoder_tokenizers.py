"""Small tokenizers of BERT's kind (WordPiece) and XLM-RoBERTa's (Unigram), trained in a blink."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tests.small_tokenizer import CORPUS

Kind = Literal["wordpiece", "unigram"]
KINDS: tuple[Kind, ...] = ("wordpiece", "unigram")
BRACKETS: dict[Kind, tuple[str, str]] = {
    "wordpiece": ("[CLS]", "[SEP]"),
    "unigram": ("<s>", "</s>"),
}
UNKNOWN: dict[Kind, str] = {"wordpiece": "[UNK]", "unigram": "<unk>"}
WORDPIECE_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
UNIGRAM_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]


@cache
def _trained(kind: Kind) -> str:
    """Train the tokenizer; JSON without a post-processor."""
    alphabet = [chr(code) for code in range(33, 127)]
    if kind == "wordpiece":
        built = Tokenizer(models.WordPiece(unk_token=UNKNOWN[kind]))
        built.normalizer = normalizers.BertNormalizer(lowercase=True)
        built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        built.decoder = decoders.WordPiece()
        trainer: Any = trainers.WordPieceTrainer(
            vocab_size=900,
            special_tokens=WORDPIECE_SPECIALS,
            initial_alphabet=alphabet,
            show_progress=False,
        )
    else:
        built = Tokenizer(models.Unigram())
        built.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
        )
        built.pre_tokenizer = pre_tokenizers.Metaspace()
        built.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=600,
            special_tokens=UNIGRAM_SPECIALS,
            unk_token=UNKNOWN[kind],
            initial_alphabet=alphabet,
            show_progress=False,
        )
    built.train_from_iterator(CORPUS * 3, trainer)
    text: str = built.to_str()
    return text


def tokenizer(kind: Kind, *, post_processor: bool = True) -> Tokenizer:
    """Build the tokenizer; its post-processor puts the brackets around, as in published files."""
    built = Tokenizer.from_str(_trained(kind))
    if post_processor:
        first, last = BRACKETS[kind]
        built.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B {last}",
            special_tokens=[(token, built.token_to_id(token)) for token in (first, last)],
        )
    return built


def write_tokenizer(
    directory: Path, kind: Kind, *, built: Tokenizer | None = None, **config: Any
) -> Path:
    """Write `tokenizer.json` and its configuration beside a model; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (built or tokenizer(kind)).save(str(directory / "tokenizer.json"))
    first, last = BRACKETS[kind]
    named = {"cls_token": first, "sep_token": last, "model_max_length": 512} | config
    (directory / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")
    return directory
