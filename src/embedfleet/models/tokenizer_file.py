"""Loads tokenizer.json with padding, truncation and dropout removed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from embedfleet.models.json_files import brief, read_object
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
        *(kind.unproven, path),
    )
    return Apart(path, content, kind, below)


def _refuse_contradictions(path: Path, definition: dict[str, Any]) -> None:
    """Raise ModelError where files beside this one change the tokens of a text: transformers adds
    the tokens that they name, and splits special ones where it is told so.
    """
    added = definition.get("added_tokens") or []
    known = {token.get("content") for token in added if isinstance(token, dict)}
    for beside, token in _named_beside(path.parent):
        if token not in known:
            raise ModelError(
                f"{beside} names the token {brief(token)}, which is not among the added_tokens of "
                f"{path.name}: transformers would add it. Save the tokenizer anew with it "
                "(AutoTokenizer.from_pretrained(MODEL).save_pretrained(DIRECTORY)), or remove it"
            )
    beside = path.parent / "tokenizer_config.json"
    said = read_object(beside) if beside.exists() else {}
    if said.get("split_special_tokens"):
        raise ModelError(f"{beside}: split_special_tokens is on, which is not supported")
    normalizer = definition.get("normalizer")
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        return
    for key, name in (("do_lower_case", "lowercase"), ("strip_accents", "strip_accents")):
        wanted, found = said.get(key), normalizer.get(name)
        if isinstance(wanted, bool) and isinstance(found, bool) and wanted is not found:
            raise ModelError(
                f"{beside}: {key} is {brief(wanted)}, and {name} of the normalizer in {path.name} "
                f"{brief(found)}: transformers follows one, others the other. Make them agree"
            )


def _named_beside(directory: Path) -> Iterator[tuple[Path, str]]:
    """Tokens by the files that name them beside tokenizer.json; of malformed values none."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = directory / name
        raw = read_object(path) if path.exists() else {}
        for key in ("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"):
            tokens = raw.get(key)
            tokens = list(tokens.values()) if isinstance(tokens, dict) else tokens
            for token in tokens if isinstance(tokens, list) else ():
                content = token.get("content") if isinstance(token, dict) else token
                if isinstance(content, str):
                    yield path, content
    path = directory / "added_tokens.json"
    if path.exists():
        yield from ((path, token) for token in read_object(path))


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
