"""Recognises rerankers, and formats a query and a document as one text for them.

A reranker reads a pair as one text and returns the probability that the document meets the query.
`engines/scoring.py` computes it; this module is what a gateway needs, too.

Qwen3-Reranker's format is that of its model card (https://huggingface.co/Qwen/Qwen3-Reranker-0.6B):
a chat whose system message asks for "yes" or "no", with the answer following an empty thought.
Classifiers of the BERT family read both texts between their own special tokens; third-party engines
compute them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from embedfleet.models.families import QWEN3, family_of
from embedfleet.models.json_files import read_json, read_object
from embedfleet.models.tokenizer_file import load_tokenizer
from embedfleet.vocabulary import ModelError, Task

TEMPLATE_FILE: Final = "reranker.json"
"""Written by embedfleet beside rerankers with another form than Qwen3-Reranker's."""
LOGIT_SCORE: Final = "1_LogitScore/config.json"
"""Of sentence-transformers, for causal language models whose answer is a token."""
SEQUENCE: Final = "Qwen3ForSequenceClassification"
CAUSAL: Final = "Qwen3ForCausalLM"

PAIR, INSTRUCTION = "pair", "instruction"
"""Names among a model's prompts: what stands before a document, and the usual instruction."""

_PLACEHOLDER = re.compile(r"\{(instruction|query)\}")
_NAMED = re.compile(r"re-?rank", re.IGNORECASE)
_CARD_BYTES: Final = 1 << 16
_CLASSIFIER: Final = "ForSequenceClassification"
_ANSWERS: Final = ("yes", "no")


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """What stands around a document."""

    before: str
    """Before every pair."""
    pair: str
    """Between that and the document, with `{instruction}` and `{query}`."""
    after: str
    """After the document; the score is read at its last token."""
    instruction: str
    """Where a request has none."""

    @property
    def prompts(self) -> dict[str, str]:
        return {PAIR: self.pair, INSTRUCTION: self.instruction}


QWEN3_RERANKER: Final = PairTemplate(
    before=(
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
        'and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        "<|im_start|>user\n"
    ),
    pair="<Instruct>: {instruction}\n<Query>: {query}\n<Document>: ",
    after="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    instruction=("Given a web search query, retrieve relevant passages that answer the query"),
)


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a reranker's score is read, for engines that need to be configured."""

    causal: bool
    """Whether at the last token of one text that a template makes of the pair, as with
    Qwen3-Reranker; others are classifiers of two texts."""
    segments: bool
    """Whether the two texts have different token types, as in BERT."""
    answers: tuple[int, int] | None
    """Ids of the tokens "yes" and "no", if the score is the probability of the first of them."""


def scoring_of(directory: Path) -> Scoring:
    """How the score of the reranker in `directory` is read. Raises ModelError."""
    config = read_object(directory / "config.json")
    causal = family_of(config) is QWEN3
    types = config.get("type_vocab_size")
    answers = None
    if causal and type(config.get("vocab_size")) is int:
        try:
            answers = answer_tokens(directory, config, config["vocab_size"])
        except ModelError:
            answers = None  # a classifier, whose tokenizer need not have such tokens
    return Scoring(causal, not causal and type(types) is int and types > 1, answers)


def generates(directory: Path) -> bool:
    """Whether the reranker in `directory` is stored as a generating model."""
    return CAUSAL in _architectures(read_object(directory / "config.json"))


def answer_tokens(directory: Path, config: Mapping[str, Any], vocabulary: int) -> tuple[int, int]:
    """Ids of the tokens for "yes" and "no". Raises ModelError."""
    path = directory / LOGIT_SCORE
    if path.exists():
        raw = read_object(path)
        found = [raw.get("true_token_id"), raw.get("false_token_id")]
    else:
        path = directory / "tokenizer.json"
        words = _ANSWERS
        named = config.get("classifier_from_token")
        if isinstance(named, list) and len(named) == len(words):
            words = str(named[1]), str(named[0])
        tokenizer = load_tokenizer(path)
        found = [tokenizer.id_of(word) for word in words]
    yes, no = found
    if not (type(yes) is int and type(no) is int and 0 <= yes < vocabulary > no >= 0):
        raise ModelError(
            f'{path} has no tokens for "yes" and "no", whose logits the score of a reranker is '
            "read from: this is not a reranker."
        )
    return yes, no


def pair_prompt(prompts: Mapping[str, str], query: str, instruction: str | None) -> str:
    """What stands before a document, from a reranker's prompts."""
    words = {"query": query, "instruction": instruction or prompts.get(INSTRUCTION, "")}
    return _PLACEHOLDER.sub(lambda found: words[found[1]], prompts[PAIR])


def task_of(directory: Path, name: str = "", wanted: Task | None = None) -> Task:
    """What a model is for: as `wanted`, else as its files or its name tell.

    The files of Qwen3-Reranker are those of a chat model, so that of these only the name tells.
    Raises ModelError for `wanted` that the files contradict.
    """
    config = read_object(directory / "config.json")
    classifies = _classifies(config)
    if wanted is Task.EMBED and classifies:
        raise ModelError(
            f"{directory / 'config.json'}: this is a classifier ({_CLASSIFIER}), which gives "
            "scores and no embeddings; leave pools.task out, or set it to rerank."
        )
    if wanted is not None:
        return wanted
    if classifies or (directory / TEMPLATE_FILE).exists() or "classifier_from_token" in config:
        return Task.RERANK
    if _embeds(directory):
        return Task.EMBED
    causal = CAUSAL in _architectures(config)
    if causal and (_scores_logits(directory) or _is_called_reranker(directory, name)):
        return Task.RERANK
    return Task.EMBED


def template_of(directory: Path) -> PairTemplate:
    """How pairs are written for the reranker in `directory`. Raises ModelError."""
    path = directory / TEMPLATE_FILE
    if not path.exists():
        return _usual_template(directory)
    raw = read_object(path)
    fields = ("before", "pair", "after", "instruction")
    if any(not isinstance(raw.get(name, ""), str) for name in fields):
        raise ModelError(f"{path}: {', '.join(fields)} must be strings")
    pair = raw.get("pair", "")
    if "{query}" not in pair or not raw.get("after"):
        raise ModelError(f"{path}: `pair` must have {{query}} in it, and `after` some text")
    return PairTemplate(raw.get("before", ""), pair, raw["after"], raw.get("instruction", ""))


def _usual_template(directory: Path) -> PairTemplate:
    config = read_object(directory / "config.json")
    family = family_of(config)
    if family is QWEN3:
        return QWEN3_RERANKER
    if family.brackets is None:
        raise ModelError(
            f"{directory / 'config.json'}: how {config.get('model_type')} models read a query and "
            f"a document is not known here; write it to {TEMPLATE_FILE} beside it (`before`, "
            "`pair` with {query}, `after`)"
        )
    first, last = family.brackets
    between = last * 2 if family.offset_positions else last
    return PairTemplate(before=first, pair="{query}" + between, after=last, instruction="")


def _classifies(config: Mapping[str, Any]) -> bool:
    """Whether this is a classifier that scores: Qwen3's, or any other with one label."""
    names = [name for name in _architectures(config) if isinstance(name, str)]
    labels = config.get("id2label")
    one = config.get("num_labels") == 1 or (isinstance(labels, dict) and len(labels) == 1)
    return SEQUENCE in names or (one and any(name.endswith(_CLASSIFIER) for name in names))


def _architectures(config: Mapping[str, Any]) -> list[Any]:
    names = config.get("architectures")
    return names if isinstance(names, list) else []


def _embeds(directory: Path) -> bool:
    return (directory / "1_Pooling" / "config.json").exists()


def _scores_logits(directory: Path) -> bool:
    """Whether sentence-transformers' files declare a cross-encoder."""
    if (directory / LOGIT_SCORE).exists():
        return True
    path = directory / "modules.json"
    modules = read_json(path) if path.exists() else []
    if isinstance(modules, list) and any("LogitScore" in str(module) for module in modules):
        return True
    path = directory / "config_sentence_transformers.json"
    return path.exists() and read_object(path).get("model_type") == "CrossEncoder"


def called_reranker(name: str) -> bool:
    """Whether a name says that its model is a reranker."""
    return bool(_NAMED.search(name))


def _is_called_reranker(directory: Path, name: str) -> bool:
    """By the name of the model, of its directory, or by what its card says it is for."""
    if any(called_reranker(word) for word in (name, directory.resolve().name)):
        return True
    try:
        with (directory / "README.md").open("rb") as file:
            card = file.read(_CARD_BYTES).decode("utf-8", "replace")
    except OSError:
        return False
    _, _, rest = card.partition("---\n")
    return card.startswith("---") and "text-ranking" in rest.partition("\n---")[0]
