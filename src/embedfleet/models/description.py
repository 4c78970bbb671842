"""Reads what a model's files say about it, without loading weights or an engine.

The model's identity (name, fingerprints, width, limits, prompts) and its tokenizer template.
Whether an engine can compute the model is up to the engine.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from embedfleet.models.families import QWEN3, Family, family_of
from embedfleet.models.fingerprint import fingerprint_tokenizer, fingerprint_weights
from embedfleet.models.json_files import read_object
from embedfleet.models.reranker import PairTemplate, task_of, template_of
from embedfleet.models.sentence_transformers import (
    longest_text,
    lowercases,
    read_pooling,
    read_prompts,
    refuse_elsewhere,
)
from embedfleet.models.tokenizer_file import load_tokenizer
from embedfleet.models.tokenizer_library import Library, panics_translated
from embedfleet.vocabulary import SCORE_WIDTH, ModelError, ModelIdentity, Pooling, Task

log = logging.getLogger(__name__)

DOCUMENTED_TOKENS = 32_768
"""The context that Qwen3-Embedding is documented for; configurations of 4B and 8B say 40,960."""

_OTHER_NAMES = {
    "hidden_size": ("dim", "d_model", "n_embd"),
    "max_position_embeddings": ("n_positions",),
}
"""Names of sizes in configurations of DistilBERT, T5 and GPT-2, which engines of others compute."""

_USUAL_END_OF_TEXT = "<|endoftext|>"

_SAVED_AS = "Qwen3Model"
"""The architecture of what was saved by sentence-transformers, or as transformers' AutoModel, and
not of Qwen3-Embedding as it was published: it was trained on just the tokens that its tokenizer
makes, with an end-of-text token or without one."""


@dataclass(frozen=True, slots=True)
class Template:
    """Ids of the tokens that stand around each text."""

    before: tuple[int, ...]
    """`[CLS]` or `<s>`; none for models whose vector is the last token's."""
    after: tuple[int, ...]
    """The end-of-text token, or `[SEP]` or `</s>`."""

    def __len__(self) -> int:
        return len(self.before) + len(self.after)


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """One model on disk."""

    directory: Path
    identity: ModelIdentity
    template: Template
    lowercase: bool = False
    """Whether texts are lower-cased before they are tokenised."""
    pooling: str = Pooling.LAST
    """Which states become a vector; `other` where none of `Pooling` is."""

    @property
    def end_of_text(self) -> int:
        """Id of the last token of every text."""
        return self.template.after[-1]

    @property
    def tokenizer_file(self) -> Path:
        return self.directory / "tokenizer.json"


def describe(
    directory: Path,
    *,
    name: str | None = None,
    max_tokens: int | None = None,
    task: Task | None = None,
) -> ModelDescription:
    """Read what a model directory says.

    `config.json` and `tokenizer.json` must be there. Without weights, as in a gateway,
    `identity.revision` is empty. `name` is the directory's name by default, `max_tokens` what the
    files say (`max_position_embeddings`, sentence-transformers' `max_seq_length`, the tokenizer's
    `model_max_length`), at most 32,768; `task` what the files or the name tell.

    Raises ModelError that names the file and what is wrong with it.
    """
    if not directory.is_dir():
        raise ModelError(f"{directory} is not a directory")
    refuse_elsewhere(directory)
    config = read_object(directory / "config.json")
    family = family_of(config)
    vocabulary = _count(config, "vocab_size", directory)
    task = task_of(directory, name or "", task)
    pair = template_of(directory) if task is Task.RERANK else None
    pooling = _pooling(directory, family)
    identity = ModelIdentity(
        name=name or directory.resolve().name,
        revision=fingerprint_weights(directory, repr(pair) if pair else pooling),
        tokenizer=fingerprint_tokenizer(directory),
        width=SCORE_WIDTH if pair else _count(config, "hidden_size", directory),
        max_tokens=_max_tokens(config, family, directory, max_tokens),
        vocabulary=vocabulary,
        prompts=pair.prompts if pair else read_prompts(directory, family.query_prompt),
        task=task,
    )
    template = _around_pairs(directory, pair) if pair else _template(directory, family)
    for token in (*template.before, *template.after):
        if token >= vocabulary:
            raise ModelError(
                f"{directory}: the token {token}, which the tokenizer puts around a text, is not "
                f"in the embedding table of {vocabulary} rows (vocab_size in config.json)"
            )
    if identity.max_tokens <= len(template):
        raise ModelError(
            f"{directory}: a text may have {identity.max_tokens} tokens, of which "
            f"{len(template)} are the tokenizer's own: none is left for the text"
        )
    return ModelDescription(directory, identity, template, lowercases(directory), pooling)


def with_revision(model: ModelDescription, revision: str) -> ModelDescription:
    """The same, known by this revision where its files have no weights to take a fingerprint of."""
    if model.identity.revision or not revision:
        return model
    return replace(model, identity=replace(model.identity, revision=revision))


def _count(config: dict[str, Any], key: str, directory: Path) -> int:
    names = (key, *_OTHER_NAMES.get(key, ()))
    value = config.get(next((name for name in names if name in config), key))
    if type(value) is not int or value < 1:
        raise ModelError(f"{directory / 'config.json'}: {key} must be a positive integer")
    return value


def _pooling(directory: Path, family: Family) -> str:
    """What a fingerprint knows of it: what is not computed here may be so elsewhere."""
    try:
        return read_pooling(directory, family.pooling)
    except ModelError:
        return "other"


def _max_tokens(config: dict[str, Any], family: Family, directory: Path, wanted: int | None) -> int:
    positions = _count(config, "max_position_embeddings", directory)
    positions -= family.first_position(config)
    if positions < 1:
        raise ModelError(
            f"{directory / 'config.json'}: max_position_embeddings leaves no position for a text "
            f"behind pad_token_id {config.get('pad_token_id')}"
        )
    cut = longest_text(directory)
    if wanted is None:
        return min(positions, DOCUMENTED_TOKENS, cut or positions)
    if not 1 < wanted <= positions:
        raise ModelError(
            f"{directory}: max_tokens must be from 2 to {positions} "
            f"(max_position_embeddings in config.json), not {wanted}"
        )
    return wanted


def _template(directory: Path, family: Family) -> Template:
    """What the tokenizer's post-processor puts around a text, or should put there."""
    path = directory / "tokenizer.json"
    tokenizer = load_tokenizer(path)
    with panics_translated(path):
        plain = tokenizer.spell("x").ids
        whole = tokenizer.spell("x", whole=True).ids
    if whole == plain:
        return _template_by_name(directory, family, tokenizer)
    for begin in range(len(whole) - len(plain) + 1):
        end = begin + len(plain)
        if whole[begin:end] == plain:
            found = Template(tuple(whole[:begin]), tuple(whole[end:]))
            if family is QWEN3 and (found.before or len(found.after) != 1):
                raise ModelError(f"{path} adds other tokens than one at the end of a text")
            return found
    raise ModelError(f"{path} changes the tokens of a text when it puts others around them")


def _around_pairs(directory: Path, pair: PairTemplate) -> Template:
    """What stands around a reranker's pairs; the tokenizer's own post-processor has no part."""
    path = directory / "tokenizer.json"
    tokenizer = load_tokenizer(path)
    with panics_translated(path):
        before, after = (tuple(tokenizer.spell(part).ids) for part in (pair.before, pair.after))
    if not after:
        raise ModelError(
            f"{path} makes no tokens of {pair.after!r}, at whose end the score is read"
        )
    return Template(before, after)


def _template_by_name(directory: Path, family: Family, tokenizer: Library) -> Template:
    """Without a post-processor, as in early Qwen3-Embedding tokenizers; the tokens are the same.

    A fine-tune that sentence-transformers saved with such a tokenizer has none around its texts.
    """
    path, named = directory / "tokenizer.json", _special_tokens(directory)
    if family.brackets is not None:
        first, last = (
            named.get(key, usual)
            for key, usual in zip(("cls_token", "sep_token"), family.brackets, strict=True)
        )
        before, after = tokenizer.id_of(first), tokenizer.id_of(last)
        if before is None or after is None:
            raise ModelError(
                f"{path} puts no tokens around a text and lacks {first} or {last}, which "
                f"{family.name} models want there"
            )
        return Template((before,), (after,))
    if family is not QWEN3:
        return Template((), ())
    architectures = read_object(directory / "config.json").get("architectures")
    if architectures == [_SAVED_AS]:
        return Template((), ())
    # Qwen3-Embedding pads with its end-of-text token; a renamed one is found by that.
    for token in (_USUAL_END_OF_TEXT, named.get("pad_token")):
        end_of_text = None if token is None else tokenizer.id_of(token)
        if end_of_text is not None:
            log.info(
                "%s appends no end-of-text token; appending %s, as later tokenizers of "
                "Qwen3-Embedding do",
                path,
                token,
            )
            return Template((), (end_of_text,))
    raise ModelError(
        f"{path} appends no token to a text and has no {_USUAL_END_OF_TEXT}; "
        "without an end-of-text token there is no vector to read"
    )


def _special_tokens(directory: Path) -> dict[str, str]:
    """Special tokens by what they are for, as tokenizer_config.json names them."""
    path = directory / "tokenizer_config.json"
    if not path.exists():
        return {}
    found: dict[str, str] = {}
    for name, token in read_object(path).items():
        content = token.get("content") if isinstance(token, dict) else token
        if name.endswith("_token") and isinstance(content, str):
            found[name] = content
    return found
