"""What the sentence-transformers files beside the weights say.

This module decides which pooling, normalisation and prompts are understood. Where a file is
absent, Qwen3-Embedding's own way is meant: the last token, unit length, a prompt for queries. It
refuses to know weights and tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedfleet.model.json_files import read_json, read_object
from embedfleet.vocabulary import ModelError, Role

QUERY_PROMPT = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)
"""Qwen3-Embedding's prompt for queries; documents have none."""

_PROMPT_NAMES = {
    Role.QUERY: ("query",),
    Role.DOCUMENT: ("document", "passage", "corpus"),
}
"""The names under which sentence-transformers looks for the prompt of a role, in its order."""

_UNLIMITED = 10**9
"""transformers writes 10**30 as `model_max_length` where a tokenizer has no limit."""

_EXPECTED_MODULES = ["Transformer", "Pooling", "Normalize"]


def check_modules(directory: Path) -> None:
    """Refuse a model whose vectors are not the last token's state brought to unit length.

    Raises ModelError that names what the model wants instead.
    """
    path = directory / "modules.json"
    pooling = directory / "1_Pooling"
    if path.exists():
        modules = read_json(path)
        if not isinstance(modules, list) or not all(isinstance(one, dict) for one in modules):
            raise ModelError(f"{path} does not hold a list of objects")
        kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
        if kinds != _EXPECTED_MODULES:
            raise ModelError(
                f"{path}: modules {', '.join(kinds) or 'none'} are not supported; "
                f"only {', '.join(_EXPECTED_MODULES)} are, in this order"
            )
        pooling = directory / str(modules[1].get("path", pooling.name))
    config = pooling / "config.json"
    if path.exists() or config.exists():
        _check_pooling(config, read_object(config))


def longest_text(directory: Path) -> int | None:
    """Tokens after which sentence-transformers cuts a text, the end-of-text token counted; None
    where nothing says so.

    Raises ModelError for a file that is malformed or asks for lower-cased texts.
    """
    told: list[int] = []
    path = directory / "sentence_bert_config.json"
    if path.exists():
        config = read_object(path)
        if config.get("do_lower_case"):
            raise ModelError(
                f"{path}: do_lower_case is on, which is not supported; a Lowercase normalizer in "
                "tokenizer.json does the same"
            )
        told.append(_tokens(path, config, "max_seq_length"))
    path = directory / "tokenizer_config.json"
    if path.exists():
        told.append(_tokens(path, read_object(path), "model_max_length"))
    known = [tokens for tokens in told if 0 < tokens < _UNLIMITED]
    return min(known, default=None)


def _tokens(path: Path, config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
        raise ModelError(f"{path}: {key} must be a positive number of tokens")
    return int(min(value, _UNLIMITED))


def _check_pooling(path: Path, config: dict[str, Any]) -> None:
    flags = [key for key in config if key.startswith("pooling_mode_") and config[key]]
    named = config.get("pooling_mode")  # newer files name the mode instead of setting flags
    if named is not None:
        flags.append(f"pooling_mode_{named}")
    if set(flags) != {"pooling_mode_lasttoken"}:
        modes = ", ".join(flag.removeprefix("pooling_mode_") for flag in flags) or "none"
        raise ModelError(f"{path}: pooling {modes} is not supported; only lasttoken is")
    if config.get("include_prompt") is False:
        raise ModelError(f"{path}: include_prompt false is not supported")


def read_prompts(directory: Path) -> dict[str, str]:
    """Read the prompts, by role name; a role without one is absent.

    Raises ModelError if the file is malformed or wants a prompt before texts that have no role.
    """
    path = directory / "config_sentence_transformers.json"
    if not path.exists():
        return {Role.QUERY.value: QUERY_PROMPT}
    config = read_object(path)
    if config.get("default_prompt_name"):
        raise ModelError(f"{path}: default_prompt_name is not supported; it must be null")
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(one, str) for one in prompts.values()):
        raise ModelError(f"{path}: prompts must be an object of strings")
    found: dict[str, str] = {}
    for role, names in _PROMPT_NAMES.items():
        prompt = next((prompts[name] for name in names if name in prompts), "")
        if prompt:
            found[role.value] = prompt
    return found
