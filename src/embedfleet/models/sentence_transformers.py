"""Reads sentence-transformers' files: pooling, prompts and maximum length.

Where a file is absent, the family's default applies (`families.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from embedfleet.models.json_files import brief, names_neighbour, read_json, read_object, shortened
from embedfleet.vocabulary import ModelError, Pooling, Role

_PROMPT_NAMES = {
    Role.QUERY: ("query",),
    Role.DOCUMENT: ("document", "passage", "corpus"),
}
"""The names under which sentence-transformers looks for the prompt of a role, in its order."""

_UNLIMITED = 10**9
"""transformers writes 10**30 as `model_max_length` where a tokenizer has no limit."""

_MODULES: Final = ("Transformer", "Pooling", "Normalize")
"""What is computed, in this order; vectors are brought to unit length without the last one, too."""

_POOLINGS: Final = {
    "lasttoken": Pooling.LAST,
    "cls": Pooling.FIRST,
    "cls_token": Pooling.FIRST,
    "mean": Pooling.MEAN,
    "mean_tokens": Pooling.MEAN,
}
"""By the names in their files, the newer ones and those of flags."""


def read_pooling(directory: Path, otherwise: Pooling) -> Pooling:
    """Which states become a vector, `otherwise` where no file says it.

    Raises ModelError that names what the model wants instead of one pooling and unit length.
    """
    path = directory / "modules.json"
    pooling = directory / "1_Pooling"
    if path.exists():
        modules = _modules(path)
        kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
        if kinds not in (list(_MODULES), list(_MODULES[:2])):
            raise ModelError(
                f"{path}: modules {shortened(', '.join(kinds)) or 'none'} are not "
                f"supported; only {', '.join(_MODULES)} are, in this order, the last one or not"
            )
        folder = modules[1].get("path", pooling.name)
        name = folder.rstrip("/") if isinstance(folder, str) else folder
        if not names_neighbour(name):
            raise ModelError(
                f"{path}: the path of a module is {brief(folder)}; it must be a folder beside "
                "the file"
            )
        pooling = directory / name
    config = pooling / "config.json"
    if path.exists() or config.exists():
        return _pooling(config, read_object(config))
    return otherwise


def normalizes(directory: Path) -> bool:
    """Whether the model's own files bring vectors to unit length, or say nothing of it."""
    path = directory / "modules.json"
    return not path.exists() or len(_modules(path)) != len(_MODULES) - 1


def _modules(path: Path) -> list[dict[str, Any]]:
    modules = read_json(path)
    if not isinstance(modules, list) or not all(isinstance(one, dict) for one in modules):
        raise ModelError(f"{path} does not hold a list of objects")
    return modules


def lowercases(directory: Path) -> bool:
    """Whether texts are lower-cased before they are tokenised. Raises ModelError."""
    path = directory / "sentence_bert_config.json"
    return path.exists() and bool(read_object(path).get("do_lower_case"))


def longest_text(directory: Path) -> int | None:
    """Tokens after which sentence-transformers cuts a text, the end-of-text token counted; None
    where nothing says so.

    Raises ModelError for a file that is malformed.
    """
    limits: list[int] = []
    path = directory / "sentence_bert_config.json"
    if path.exists():
        limits.append(_tokens(path, read_object(path), "max_seq_length"))
    path = directory / "tokenizer_config.json"
    if path.exists():
        limits.append(_tokens(path, read_object(path), "model_max_length"))
    known = [tokens for tokens in limits if 0 < tokens < _UNLIMITED]
    return min(known, default=None)


def _tokens(path: Path, config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
        raise ModelError(f"{path}: {key} must be a positive number of tokens")
    return int(min(value, _UNLIMITED))


def _pooling(path: Path, config: dict[str, Any]) -> Pooling:
    modes = [
        key.removeprefix("pooling_mode_")
        for key in config
        if key.startswith("pooling_mode_") and config[key]
    ]
    named = config.get("pooling_mode")  # newer files name the mode instead of setting flags
    if named is not None:
        modes.append(str(named))
    found = {_POOLINGS.get(mode) for mode in modes}
    pooling = found.pop() if len(found) == 1 else None
    if pooling is None:
        raise ModelError(
            f"{path}: pooling {shortened(', '.join(modes)) or 'none'} is not supported; only one "
            "of lasttoken, cls and mean is"
        )
    if config.get("include_prompt") is False:
        raise ModelError(f"{path}: include_prompt false is not supported")
    return pooling


def read_prompts(directory: Path, query: str) -> dict[str, str]:
    """Read the prompts, by role name; a role without one is absent.

    `query` is that of queries where the file is absent. Raises ModelError if the file is malformed
    or wants a prompt before texts that have no role.
    """
    path = directory / "config_sentence_transformers.json"
    if not path.exists():
        return {Role.QUERY.value: query} if query else {}
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
