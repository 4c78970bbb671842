"""Reads sentence-transformers' files: pooling, prompts and maximum length.

Where a file is absent, the family's default applies (`families.py`). What a file asks for and is
not computed is refused: sentence-transformers would give other vectors.
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

TRANSFORMER_FILES: Final = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Names of the file about the first module, by the class that once wrote it; the first one that is
there counts."""

_OWN: Final = "SentenceTransformer"
_USUAL: Final[dict[str, tuple[Any, ...]]] = {
    "transformer_task": (None, "feature-extraction"),
    "module_output_name": (None, "token_embeddings"),
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
}
"""Of the first module: values that leave it a model of texts whose last states are pooled."""
_ARGUMENTS: Final = (
    "model_args",
    "tokenizer_args",
    "config_args",
    "model_kwargs",
    "processor_kwargs",
    "config_kwargs",
)
"""Where arguments for transformers are, in older and in newer files."""
_OF_NO_EFFECT: Final = frozenset(
    {
        "add_pooling_layer",
        "attn_implementation",
        "device_map",
        "dtype",
        "low_cpu_mem_usage",
        "output_hidden_states",
        "pad_to_multiple_of",
        "padding",
        "padding_side",
        "revision",
        "return_tensors",
        "torch_dtype",
        "trust_remote_code",
        "use_cache",
        "use_fast",
        "use_safetensors",
    }
)
"""Arguments that change no vector in float32."""

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
        _refuse_custom(path, modules)
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


def _refuse_custom(path: Path, modules: list[dict[str, Any]]) -> None:
    for module in modules:
        if not str(module.get("type", "")).startswith("sentence_transformers."):
            raise ModelError(
                f"{path}: the module {brief(module.get('type'))} is code of the model's own, which "
                "embedfleet does not run"
            )


def refuse_elsewhere(directory: Path) -> None:
    """Raise ModelError where the model's first module lies in a folder of its own, as those saved
    by early sentence-transformers do: what lies beside the file may be another model.
    """
    path = directory / "modules.json"
    modules = read_json(path) if path.exists() else None
    if not isinstance(modules, list) or not modules or not isinstance(modules[0], dict):
        return
    folder = modules[0].get("path")
    if isinstance(folder, str) and folder.strip("./"):
        raise ModelError(
            f"{path}: the first module is in {brief(folder)}, and embedfleet reads the model's "
            "files beside this one. Move what is in that folder up, and make the module's path "
            'empty ("")'
        )


def refuse_other_uses(directory: Path) -> None:
    """Raise ModelError where files ask for more than texts, or for other states than the last."""
    path = directory / "config_sentence_transformers.json"
    kind = read_object(path).get("model_type", _OWN) if path.exists() else _OWN
    if kind != _OWN:
        raise ModelError(f"{path}: model_type is {brief(kind)}; only {_OWN} is supported")
    path, raw = _transformer(directory)
    for key, usual in _USUAL.items():
        if raw.get(key) not in usual:
            raise ModelError(
                f"{path}: {key} is {brief(raw[key])}; only {brief(usual[-1])} is supported"
            )
    modes = _within(path, raw, "modality_config")
    text = _within(path, modes, "text")
    if modes and (text.get("method"), text.get("method_output_name")) != (
        "forward",
        "last_hidden_state",
    ):
        raise ModelError(
            f"{path}: modality_config has {brief(text or None)} for text; only the last hidden "
            "state of a forward pass is supported"
        )
    processing = _within(path, raw, "processing_kwargs")
    arguments = {key: _within(path, raw, key) for key in _ARGUMENTS}
    arguments |= {
        f"processing_kwargs.{key}": _within(path, processing, key) for key in ("text", "common")
    }
    for place, given in arguments.items():
        found = next((key for key in given if key not in _OF_NO_EFFECT), None)
        if found is not None and not (found == "truncation" and given[found] is True):
            raise ModelError(
                f"{path}: {place} sets {shortened(found)}, which may change vectors and is not "
                "applied; set it in the model's own files (config.json, tokenizer_config.json, "
                "max_seq_length in this one), and remove it here"
            )


def cut_width(directory: Path) -> int | None:
    """The dimensions that sentence-transformers cuts vectors to by default. Raises ModelError."""
    path = directory / "config_sentence_transformers.json"
    cut = read_object(path).get("truncate_dim") if path.exists() else None
    return cut if type(cut) is int and cut > 0 else None


def _transformer(directory: Path) -> tuple[Path, dict[str, Any]]:
    """The file about the first module, and what is in it; nothing where there is none."""
    paths = [directory / name for name in TRANSFORMER_FILES]
    path = next((path for path in paths if path.exists()), None)
    return (paths[0], {}) if path is None else (path, read_object(path))


def _within(path: Path, raw: dict[str, Any], key: str) -> dict[str, Any]:
    value = raw.get(key) or {}
    if not isinstance(value, dict):
        raise ModelError(f"{path}: {key} is {brief(value)}; it must be an object")
    return value


def lowercases(directory: Path) -> bool:
    """Whether texts are lower-cased before they are tokenised. Raises ModelError."""
    _, raw = _transformer(directory)
    return bool(raw.get("do_lower_case"))


def longest_text(directory: Path) -> int | None:
    """Tokens after which sentence-transformers cuts a text, the end-of-text token counted; None
    where nothing says so. Its own file goes before the tokenizer's.

    Raises ModelError for a file that is malformed.
    """
    path = directory / "tokenizer_config.json"
    tokenizer = read_object(path) if path.exists() else {}
    for tokens in (
        _tokens(*_transformer(directory), "max_seq_length"),
        _tokens(path, tokenizer, "model_max_length"),
    ):
        if tokens:
            return tokens if tokens < _UNLIMITED else None
    return None


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
    named = config.get("pooling_mode")  # newer files name modes instead of setting flags
    if named is not None:
        modes += map(str, named if isinstance(named, list) else [named])
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
    if not isinstance(prompts, dict) or not all(
        one is None or isinstance(one, str) for one in prompts.values()
    ):
        raise ModelError(f"{path}: prompts must be an object of strings")
    found: dict[str, str] = {}
    for role, names in _PROMPT_NAMES.items():
        prompt = next((prompts[name] for name in names if name in prompts), "")
        if prompt:
            found[role.value] = prompt
    return found
