"""What transformers builds for a tokenizer's class, beside what tokenizer.json says. Pure.

Since version 5 transformers takes only the vocabulary from tokenizer.json for some classes, and
builds normalizer and pre-tokenizer by the class's code and tokenizer_config.json; before, it set
some of their fields so. Others, and transformers itself for PreTrainedTokenizerFast, follow the
file. Where the two differ, one of them makes other tokens of a text than the model learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from embedfleet.models.tokenizer_kind import QWEN

Part: TypeAlias = Mapping[str, Any]

FOLLOWS_FILE: Final = "PreTrainedTokenizerFast"
"""The class for which transformers takes tokenizer.json as it is."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A section of tokenizer.json that transformers builds otherwise for a class."""

    tokenizer_class: str
    section: str
    found: object
    built: object


def disagreement(definition: Part, said: Part, model_type: object) -> Disagreement | None:
    """The first section that transformers builds otherwise; None where there is none.

    `said` is tokenizer_config.json, `model_type` that of config.json.
    """
    named = str(said.get("tokenizer_class") or _BY_MODEL.get(str(model_type)))
    vocabulary, build = _CLASSES.get(named.removesuffix("Fast"), ("", _bert))
    model = definition.get("model")
    if not isinstance(model, dict) or model.get("type") != vocabulary:
        return None
    set_there = {key: value for key, value in said.items() if value is not None}
    for section, built in build(set_there).items():
        found = definition.get(section)
        if isinstance(found, dict) and found.get("type") == "BertNormalizer":
            # Where it is not set, accents go with capitals.
            stripped = found.get("strip_accents")
            found = found | {
                "strip_accents": found.get("lowercase") if stripped is None else stripped
            }
        if not _agree(found, built):
            return Disagreement(named, section, found, built)
    return None


def _agree(found: object, built: object) -> bool:
    """Whether parts are equal in all fields that both have."""
    if isinstance(found, dict) and isinstance(built, dict):
        alike = found.get("type") == built.get("type")
        return alike and all(_agree(found[key], built[key]) for key in found.keys() & built.keys())
    if isinstance(found, list) and isinstance(built, list):
        return len(found) == len(built) and all(map(_agree, found, built))
    return found == built


_Sections: TypeAlias = Mapping[str, object]


def _bert(said: Part) -> _Sections:
    lowercase = said.get("do_lower_case", True)
    unknown = said.get("unk_token", "[UNK]")
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": said.get("tokenize_chinese_chars", True),
            "strip_accents": said.get("strip_accents", lowercase),
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {
            "type": "WordPiece",
            "unk_token": unknown.get("content") if isinstance(unknown, dict) else unknown,
            "max_input_chars_per_word": 100,
        },
    }


def _roberta(said: Part) -> _Sections:
    return {"normalizer": None, "pre_tokenizer": _byte_level(said, use_regex=True)}


def _qwen2(said: Part) -> _Sections:
    words = {"type": "Split", "pattern": {"Regex": QWEN}, "behavior": "Isolated", "invert": False}
    cut = [words, _byte_level(said, use_regex=False)]
    return {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": cut},
    }


def _byte_level(said: Part, *, use_regex: bool) -> Part:
    space = said.get("add_prefix_space", False)
    return {"type": "ByteLevel", "add_prefix_space": space, "use_regex": use_regex}


_CLASSES: Final[Mapping[str, tuple[str, Callable[[Part], _Sections]]]] = {
    "BertTokenizer": ("WordPiece", _bert),
    "RobertaTokenizer": ("BPE", _roberta),
    "Qwen2Tokenizer": ("BPE", _qwen2),
}
"""By their names, with the type of vocabulary that they take from a file. XLM-RoBERTa's is not
here: published files have several forms of its parts, whose tokens differ in white space at the end
of a text at most."""

_BY_MODEL: Final = {
    "bert": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "qwen3": "Qwen2Tokenizer",
}
"""The classes of models, where no file names one."""
