"""Which tokenizers are known to take time and memory in proportion to a text."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from embedfleet.models.source import resolve
from embedfleet.models.tokenizer_kind import MOST_GROWTH, PATTERNS, TokenizerKind, typed
from tests.encoder_tokenizers import tokenizer as encoder_tokenizer
from tests.models.mutations import MODELS, NORMALIZERS, PRE_TOKENIZERS
from tests.small_tokenizer import tokenizer as qwen_tokenizer

Definition = dict[str, Any]
SPACE = {"String": " "}
CHARSMAP = b"\x04\0\0\0" + b"\0" * 4 + "ﬁ\0fi\0".encode()

QWEN: Definition = orjson.loads(qwen_tokenizer().to_str())
BERT: Definition = orjson.loads(encoder_tokenizer("wordpiece").to_str())
XLM_ROBERTA: Definition = orjson.loads(encoder_tokenizer("unigram").to_str())


def charsmap(content: bytes) -> Definition:
    coded = base64.b64encode(content).decode()
    return {"type": "Precompiled", "precompiled_charsmap": coded}


def replaced(pattern: dict[str, str], content: str) -> Definition:
    return {"type": "Replace", "pattern": pattern, "content": content}


def split(pattern: dict[str, str]) -> Definition:
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def in_order(name: str, *parts: Definition) -> Definition:
    return {"type": "Sequence", name: list(parts)}


GEMMA = BERT | {
    "normalizer": replaced(SPACE, "▁"),
    "pre_tokenizer": split(SPACE),
    "post_processor": None,
    "decoder": in_order(
        "decoders", replaced({"String": "▁"}, " "), {"type": "ByteFallback"}, {"type": "Fuse"}
    ),
    "model": QWEN["model"] | {"byte_fallback": True, "fuse_unk": True},
}
MISTRAL = GEMMA | {
    "normalizer": in_order(
        "normalizers", {"type": "Prepend", "prepend": "▁"}, replaced(SPACE, "▁")
    ),
    "pre_tokenizer": None,
}
SENTENCE_PIECE = XLM_ROBERTA | {
    "normalizer": in_order("normalizers", charsmap(CHARSMAP), replaced({"Regex": " {2,}"}, " ")),
    "pre_tokenizer": in_order(
        "pretokenizers",
        {"type": "WhitespaceSplit"},
        {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True},
    ),
}


def untyped(definition: Definition) -> Definition:
    """As files were written before the type of a model was."""
    model = {key: value for key, value in definition["model"].items() if key != "type"}
    return definition | {"model": model}


KNOWN = {
    "Qwen": QWEN,
    "BERT": BERT,
    "XLM-RoBERTa": XLM_ROBERTA,
    "SentencePiece": SENTENCE_PIECE,
    "Gemma": GEMMA,
    "Mistral": MISTRAL,
    "Qwen, an old file": untyped(QWEN),
    "BERT, an old file": untyped(BERT),
    "XLM-RoBERTa, an old file": untyped(XLM_ROBERTA),
}


@pytest.mark.parametrize("name", KNOWN)
def test_tokenizers_as_they_are_published_are_known(name: str) -> None:
    definition = {**KNOWN[name]}
    typed(definition)
    assert TokenizerKind.of(definition).unproven == ""


def test_the_built_in_model_s_tokenizer_is_known() -> None:
    path = resolve("builtin", progress=False).directory / "tokenizer.json"
    kind = TokenizerKind.of(orjson.loads(path.read_bytes()))
    assert kind == TokenizerKind(
        "", frozenset({"Sequence", "Split", "ByteLevel", "None"}), "ByteLevel", None
    )


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_the_library_reads_every_pattern_that_is_known(pattern: str) -> None:
    definition = QWEN | {"pre_tokenizer": split({"Regex": pattern})}
    assert TokenizerKind.of(definition).unproven == ""
    Tokenizer.from_str(orjson.dumps(definition).decode()).encode("The sea 1 中文 \n")


UNPROVEN: dict[str, tuple[Definition, str]] = {
    "a pattern of nobody's": ({"pre_tokenizer": split({"Regex": "(a+a+)+b"})}, "pre_tokenizer"),
    "a known pattern with something behind": (
        {"pre_tokenizer": split({"Regex": r"\p{N}+|(x+x+)+y"})},
        "pre_tokenizer",
    ),
    "a pattern that is no text": ({"pre_tokenizer": split({"Regex": ["x"]})}, "pre_tokenizer"),  # type: ignore[dict-item]
    "two patterns in one": (
        {"pre_tokenizer": split({"Regex": r"\d", "String": "x"})},
        "pre_tokenizer",
    ),
    "a pattern of nothing": ({"pre_tokenizer": split({"String": ""})}, "pre_tokenizer"),
    "a pattern among the normalizers": (
        {"normalizer": replaced({"Regex": "(?=a)"}, "b")},
        "normalizer",
    ),
    "a pattern among the decoders": (
        {"decoder": replaced({"Regex": "(a|aa)+$"}, "b")},
        "decoder",
    ),
    "replacements that grow together": (
        {"normalizer": in_order("normalizers", *[replaced(SPACE, " " * 4)] * 3)},
        "normalizer",
    ),
    "a long one": ({"normalizer": replaced(SPACE, "x" * (MOST_GROWTH + 1))}, "normalizer"),
    "a long one of characters": (
        {"normalizer": charsmap(CHARSMAP + b"x" * (MOST_GROWTH + 1) + b"\0")},
        "normalizer",
    ),
    "a map of characters that is none": ({"normalizer": charsmap(b"\xff" * 4)}, "normalizer"),
    "a long text before each": (
        {"normalizer": {"type": "Prepend", "prepend": "x" * 1000}},
        "normalizer",
    ),
    "a sequence of sequences": (
        {"normalizer": in_order("normalizers", in_order("normalizers"))},
        "normalizer",
    ),
    "a long sequence": (
        {"normalizer": in_order("normalizers", *[{"type": "NFC"}] * 100)},
        "normalizer",
    ),
    "a field that a part does not have": (
        {"normalizer": {"type": "NFC", "normalizers": []}},
        "normalizer",
    ),
    "words that are looked up for ever": (
        {"model": BERT["model"] | {"max_input_chars_per_word": 2**62}},
        "model",
    ),
    "pieces without an end": (
        {"model": XLM_ROBERTA["model"] | {"vocab": [["x" * 5000, -1.0]]}},
        "model",
    ),
    "more pieces than memory": (
        {"model": XLM_ROBERTA["model"] | {"vocab": [["x" * 60, -1.0]] * 100_000}},
        "model",
    ),
    "pieces that are none": ({"model": XLM_ROBERTA["model"] | {"vocab": [None, [], 1]}}, "model"),
    "a great many added tokens": (
        {"added_tokens": [{"id": 1, "content": "x" * 1000}] * 2_000},
        "added_tokens",
    ),
    "a model of nobody's": ({"model": {"type": "Dream"}}, "model"),
    "no model": ({"model": None}, "model"),
    "an added token of nothing": ({"added_tokens": [{"id": 1, "content": ""}]}, "added_tokens"),
}


@pytest.mark.parametrize("name", UNPROVEN)
def test_what_could_take_longer_is_not_known(name: str) -> None:
    change, section = UNPROVEN[name]
    assert TokenizerKind.of(QWEN | change).unproven == section


def json_values() -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    return st.recursive(
        leaves, lambda each: st.lists(each) | st.dictionaries(st.text(), each), max_leaves=10
    )


SECTIONS = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "model", "added_tokens")


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(SECTIONS), json_values()))
def test_whatever_a_file_holds_it_is_judged(changes: Definition) -> None:
    definition = QWEN | changes
    typed(definition)
    assert isinstance(TokenizerKind.of(definition).unproven, str)


def _kind_of(changes: Definition) -> Callable[[], TokenizerKind]:
    return lambda: TokenizerKind.of(QWEN | changes)


@pytest.mark.parametrize("part", range(len(PRE_TOKENIZERS) + len(NORMALIZERS) + len(MODELS)))
def test_odd_parts_are_judged_one_by_one(part: int) -> None:
    """What is known of these has no expression of its own."""
    every: list[Definition] = [
        *({"pre_tokenizer": each} for each in PRE_TOKENIZERS),
        *({"normalizer": each} for each in NORMALIZERS),
        *({"model": each} for each in MODELS),
    ]
    kind = _kind_of(every[part])()
    if not kind.unproven:
        assert b'"Regex"' not in orjson.dumps(every[part])
