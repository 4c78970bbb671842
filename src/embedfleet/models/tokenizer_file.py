"""Loads tokenizer.json with padding, truncation and dropout removed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from embedfleet.models.json_files import brief, read_object
from embedfleet.models.tokenizer_classes import FOLLOWS_FILE, disagreement
from embedfleet.models.tokenizer_kind import TokenizerKind, typed
from embedfleet.models.tokenizer_library import InProcess, Library, panics_translated
from embedfleet.models.tokenizer_process import Apart
from embedfleet.vocabulary import ModelError

log = logging.getLogger(__name__)

_DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
"""Of files without one."""


def load_tokenizer(path: Path, below: int | None = None) -> Library:
    """The tokenizer of a file: in this process if its kind is known, else in one of its own.

    `below` leaves out added tokens whose ids are not below it; a vocabulary of larger ids is
    refused then. Raises ModelError for whatever is wrong with the file.
    """
    with panics_translated(path):
        definition = orjson.loads(path.read_bytes())
        if not isinstance(definition, dict):
            raise TypeError("it does not hold a JSON object")
        _tame(definition)
        typed(definition)
        _refuse_contradictions(path, definition)
        kind = TokenizerKind.of(definition)
        if not kind.decoder:
            definition["decoder"] = _DECODER
        _leave_out_rowless(definition, below)
        # Written anew, so that the library reads what was looked at and nothing else.
        content = orjson.dumps(definition)
    if not kind.unproven:
        return InProcess(path, content, kind, below)
    log.info(
        "the %s of %s is of no known kind; it tokenises in a process of its own",
        kind.unproven,
        path,
    )
    return Apart(path, content, kind, below)


def _refuse_contradictions(path: Path, definition: dict[str, Any]) -> None:
    """Raise ModelError where files beside this one change the tokens of a text: transformers adds
    the tokens that they name, and splits special ones where it is told so.
    """
    added = definition.get("added_tokens") or []
    known = {token.get("content"): token for token in added if isinstance(token, dict)}
    for beside, content, token in _named_beside(path.parent):
        if content not in known:
            raise ModelError(
                f"{beside} names the token {brief(content)}, which is not among the added_tokens "
                f"of {path.name}: transformers would add it. Save the tokenizer anew with it "
                "(AutoTokenizer.from_pretrained(MODEL).save_pretrained(DIRECTORY)), or remove it"
            )
        differing = [flag for flag in _FLAGS if known[content].get(flag) is not token.get(flag)]
        if differing and all(isinstance(token.get(flag), bool) for flag in _FLAGS):
            raise ModelError(
                f"{beside}: {', '.join(differing)} of the token {brief(content)} is otherwise than "
                f"in the added_tokens of {path.name}, and transformers follows {beside.name}. "
                "Make them agree"
            )
    beside = path.parent / "tokenizer_config.json"
    said = read_object(beside) if beside.exists() else {}
    if said.get("split_special_tokens"):
        raise ModelError(f"{beside}: split_special_tokens is on, which is not supported")
    config = path.parent / "config.json"
    model_type = read_object(config).get("model_type") if config.exists() else None
    other = disagreement(definition, said, model_type)
    if other is not None:
        raise ModelError(
            f"{path}: its {other.section} is {brief(other.found)}, and transformers 5 makes "
            f"{brief(other.built)} of it for {other.tokenizer_class}, by {beside.name}: other "
            f"tokens of the same texts. Make them agree, or let {beside.name} say "
            f'"tokenizer_class": "{FOLLOWS_FILE}" where {path.name} is right'
        )


_FLAGS: Final = ("lstrip", "rstrip", "single_word", "normalized")
"""Of an added token: which texts it is found in, and with how much around it."""


def _named_beside(directory: Path) -> Iterator[tuple[Path, str, Mapping[str, Any]]]:
    """Tokens and what is said of them, by the files that name them beside tokenizer.json; of
    malformed values none.
    """
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = directory / name
        raw = read_object(path) if path.exists() else {}
        for key in ("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"):
            tokens = raw.get(key)
            tokens = list(tokens.values()) if isinstance(tokens, dict) else tokens
            for token in tokens if isinstance(tokens, list) else ():
                # Flags count where the token has them by its id; elsewhere it is only named.
                told = token if isinstance(token, dict) else {"content": token}
                if isinstance(content := told.get("content"), str):
                    yield path, content, told if key == "added_tokens_decoder" else {}
    path = directory / "added_tokens.json"
    if path.exists():
        yield from ((path, token, {}) for token in read_object(path))


def _tame(definition: dict[str, Any]) -> None:
    """Take out padding, truncation and dropout."""
    definition["padding"] = definition["truncation"] = None
    model = definition.get("model")
    if isinstance(model, dict) and model.get("dropout"):
        model["dropout"] = None


def _leave_out_rowless(definition: dict[str, Any], below: int | None) -> None:
    """Take out added tokens without a row in the embedding table.

    The tables of Qwen3-Embedding 4B and 8B have four rows fewer than the tokenizer of the 0.6B has
    tokens, and a tokenizer is easily copied from one to the other.
    """
    added = definition.get("added_tokens") or []
    definition["added_tokens"] = [token for token in added if below is None or token["id"] < below]
