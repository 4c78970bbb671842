"""What the files of a model say, without its weights being loaded and without any engine.

This module decides a model's identity (name, fingerprints, width, limits, prompts) and refuses by
name what would give wrong vectors: another pooling than that of the last token, no normalisation, a
tokenizer that adds more than one token at the end. It refuses to know the architecture, which is
the engine's to judge, and where models come from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from embedfleet.model.fingerprint import fingerprint_tokenizer, fingerprint_weights
from embedfleet.model.json_files import read_object
from embedfleet.model.sentence_transformers import check_modules, longest_text, read_prompts
from embedfleet.model.tokenizer_file import load_tokenizer, panics_told
from embedfleet.vocabulary import ModelError, ModelIdentity

DOCUMENTED_TOKENS = 32_768
"""The context that Qwen3-Embedding is documented for; configurations of 4B and 8B say 40,960."""

_USUAL_END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """One model on disk."""

    directory: Path
    identity: ModelIdentity
    end_of_text: int
    """Id of the token at whose position the vector is read."""

    @property
    def tokenizer_file(self) -> Path:
        return self.directory / "tokenizer.json"


def describe(
    directory: Path, *, name: str | None = None, max_tokens: int | None = None
) -> ModelDescription:
    """Read what a model directory says.

    `config.json` and `tokenizer.json` must be there. Without weights, as in a gateway,
    `identity.revision` is empty. `name` is the directory's name by default, `max_tokens` what the
    files say (`max_position_embeddings`, sentence-transformers' `max_seq_length`, the tokenizer's
    `model_max_length`), at most 32,768.

    Raises ModelError that names the file and what is wrong with it.
    """
    if not directory.is_dir():
        raise ModelError(f"{directory} is not a directory")
    config = read_object(directory / "config.json")
    vocabulary = _count(config, "vocab_size", directory)
    check_modules(directory)
    identity = ModelIdentity(
        name=name or directory.resolve().name,
        revision=fingerprint_weights(directory),
        tokenizer=fingerprint_tokenizer(directory),
        width=_count(config, "hidden_size", directory),
        max_tokens=_max_tokens(config, directory, max_tokens),
        vocabulary=vocabulary,
        prompts=read_prompts(directory),
    )
    end_of_text = _end_of_text(directory)
    if end_of_text >= vocabulary:
        raise ModelError(
            f"{directory}: the end-of-text token {end_of_text} is not in the embedding table "
            f"of {vocabulary} rows (vocab_size in config.json)"
        )
    return ModelDescription(directory, identity, end_of_text)


def with_revision(model: ModelDescription, revision: str) -> ModelDescription:
    """The same, known by this revision where its files have no weights to take a fingerprint of."""
    if model.identity.revision or not revision:
        return model
    return replace(model, identity=replace(model.identity, revision=revision))


def _count(config: dict[str, Any], key: str, directory: Path) -> int:
    value = config.get(key)
    if type(value) is not int or value < 1:
        raise ModelError(f"{directory / 'config.json'}: {key} must be a positive integer")
    return value


def _max_tokens(config: dict[str, Any], directory: Path, wanted: int | None) -> int:
    positions = _count(config, "max_position_embeddings", directory)
    cut = longest_text(directory)
    if wanted is None:
        return min(positions, DOCUMENTED_TOKENS, cut or positions)
    if not 1 < wanted <= positions:
        raise ModelError(
            f"{directory}: max_tokens must be from 2 to {positions} "
            f"(max_position_embeddings in config.json), not {wanted}"
        )
    return wanted


def _end_of_text(directory: Path) -> int:
    """Find the token that the tokenizer's post-processor appends, or that it should append.

    Early Qwen3-Embedding tokenizers lack the post-processor; the token is the same.
    """
    path = directory / "tokenizer.json"
    tokenizer = load_tokenizer(path)
    with panics_told(path):
        plain: list[int] = tokenizer.encode("x", add_special_tokens=False).ids
        whole: list[int] = tokenizer.encode("x", add_special_tokens=True).ids
    if len(whole) == len(plain) + 1 and whole[:-1] == plain:
        return whole[-1]
    if whole != plain:
        raise ModelError(f"{path} adds other tokens than one at the end of a text")
    for token in (_USUAL_END_OF_TEXT, _padding_token(directory)):
        found: int | None = None if token is None else tokenizer.token_to_id(token)
        if found is not None:
            return found
    raise ModelError(
        f"{path} appends no token to a text and has no {_USUAL_END_OF_TEXT}; "
        "without an end-of-text token there is no vector to read"
    )


def _padding_token(directory: Path) -> str | None:
    """Qwen3-Embedding pads with its end-of-text token; a renamed one is found by that."""
    path = directory / "tokenizer_config.json"
    if not path.exists():
        return None
    token = read_object(path).get("pad_token")
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
