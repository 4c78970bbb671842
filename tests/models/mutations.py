"""Model files changed at random: bytes, values, and parts of tokenizers put together by chance.

Everything comes from the dice that are handed in, so that a seed names a case.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from embedfleet.models.files import SHARED_FILES
from embedfleet.models.source import resolve
from tests.encoder_checkpoints import BERT, XLM_ROBERTA, encoder_config
from tests.encoder_tokenizers import write_tokenizer
from tests.small_tokenizer import write_model

Path_ = tuple[str | int, ...]

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64 - 1, 1e308, -0.5, [], {}, [[]], [None]),
    *("", "x", "\x00", "a" * 100_000, "\u202e", "(?<=a+)b", "[", "(a+a+)+b", "ByteLevel"),
    *("Sequence", ["x"] * 1000, {"a": None}),
)


def _regex(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


NORMALIZERS: list[dict[str, Any]] = [
    *({"type": name} for name in ("Lowercase", "NFC", "NFKD", "Nmt", "StripAccents", "ByteLevel")),
    {"type": "Strip", "strip_left": True, "strip_right": True},
    *({"type": "Prepend", "prepend": text} for text in ("▁", "")),
    _regex("(a|aa)+$", "b"),
    _regex("", "x"),
    _regex(".", ""),
    _regex(r"\p{L}", "zz"),
    _regex("(?=a)", "\u0301"),
    {"type": "Replace", "pattern": {"String": ""}, "content": "x"},
]

PRE_TOKENIZERS: list[dict[str, Any]] = [
    *({"type": name} for name in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer")),
    {"type": "UnicodeScripts"},
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    {"type": "CharDelimiterSplit", "delimiter": "a"},
    {"type": "Digits", "individual_digits": True},
    *({"type": "FixedLength", "length": length} for length in (0, 1)),
    *(
        {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
        for pattern, behavior, invert in (
            ({"Regex": "(?:)"}, "Isolated", False),
            ({"String": ""}, "Removed", True),
            ({"Regex": "(x+x+)+y"}, "MergedWithNext", False),
        )
    ),
]

MODELS = [
    {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"},
    {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "nope"},
    *(
        {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": prefix,
            "max_input_chars_per_word": most,
            "vocab": {known: 0, "a": 1},
        }
        for known, prefix, most in (("nope", "##", 100), ("[UNK]", "", 2**62))
    ),
    {"type": "Unigram", "unk_id": None, "vocab": [["a", -1.0], ["b", -2.0]]},
    {"type": "Unigram", "unk_id": 0, "vocab": [["", 0.0]]},
    {"type": "Unigram", "unk_id": 99, "vocab": [["a", 0.0]]},
    {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [], "unk_token": "nope"},
    {"type": "BPE", "vocab": {"a": 0, "b": 7}, "merges": [], "byte_fallback": True},
    {"type": "BPE", "vocab": {"a": 0, "aa": 1}, "merges": ["a a"], "end_of_word_suffix": "</w>"},
]


def _template(single: list[Any], special: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [],
        "special_tokens": special,
    }


def _special(ids: list[int]) -> dict[str, Any]:
    return {"E": {"id": "E", "ids": ids, "tokens": ["x"] * len(ids)}}


TEXT = {"Sequence": {"id": "A", "type_id": 0}}
END = {"SpecialToken": {"id": "E", "type_id": 0}}

POST_PROCESSORS = [
    None,
    {"type": "BertProcessing", "sep": ["a", 0], "cls": ["b", 2**31]},
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "Sequence", "processors": []},
    _template([TEXT] * 50, {}),
    _template([{"Sequence": {"id": "B", "type_id": 0}}], {}),
    _template([], {}),
    _template([TEXT, END], _special([1] * 100_000)),
    _template([TEXT, END], _special([2**32 - 1])),
]

DECODERS: list[dict[str, Any]] = [
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "WordPiece", "prefix": "##", "cleanup": True},
    *({"type": name} for name in ("ByteFallback", "Fuse")),
    {"type": "Strip", "content": " ", "start": 2**40, "stop": 3},
    {"type": "CTC", "pad_token": "a", "word_delimiter_token": "b", "cleanup": True},
    _regex("(a+a+)+b", "x"),
]


def bases(directory: Path) -> list[Path]:
    """Small models' files as people have them: of each family, with all that may lie beside."""
    builtin = directory / "builtin"
    source = resolve("builtin", progress=False).directory
    shutil.copytree(source, builtin, ignore=shutil.ignore_patterns("*.safetensors"))
    made = [builtin, write_model(directory / "bpe")]
    for kind, geometry in (("wordpiece", BERT), ("unigram", XLM_ROBERTA)):
        model = write_tokenizer(directory / kind, kind)  # type: ignore[arg-type]
        files: dict[str, Any] = {
            "config.json": encoder_config(geometry),
            "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
            "modules.json": [
                {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            ],
            "sentence_bert_config.json": {"max_seq_length": 128, "do_lower_case": True},
            "config_sentence_transformers.json": {"prompts": {"query": "query: "}},
        }
        (model / "1_Pooling").mkdir()
        for name, value in files.items():
            (model / name).write_text(json.dumps(value))
        made.append(model)
    reranker = write_model(
        directory / "reranker", architectures=["Qwen3ForSequenceClassification"], num_labels=1
    )
    template = {"before": "<|im_start|>", "pair": "{query} {instruction}", "after": "<|im_end|>"}
    (reranker / "reranker.json").write_text(json.dumps(template))
    return [*made, reranker]


def changed(base: Path, target: Path, dice: random.Random) -> Path:
    """A copy of a model's files of which one or two are changed."""
    shutil.copytree(base, target)
    names = [name for name in SHARED_FILES if (target / name).exists()]
    weights = [6 if name == "tokenizer.json" else 1 for name in names]
    for name in set(dice.choices(names, weights, k=dice.choice((1, 1, 2)))):
        content = (target / name).read_bytes()
        kinds: list[Callable[[bytes, random.Random], bytes]] = [_bytes, _values]
        if name == "tokenizer.json":
            kinds += [_parts] * 5
        (target / name).write_bytes(dice.choice(kinds)(content, dice))
    return target


def _bytes(content: bytes, dice: random.Random) -> bytes:
    """Bits that flip, bytes that go, come, come twice, and an end that is missing."""
    found = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(max(1, len(found)))
        match dice.choice(("flip", "cut", "insert", "repeat", "end")):
            case "flip" if found:
                found[at] ^= 1 << dice.randrange(8)
            case "cut":
                del found[at : at + dice.randint(1, 50)]
            case "insert":
                found[at:at] = dice.randbytes(dice.randint(1, 20))
            case "repeat":
                found[at:at] = found[at : at + dice.randint(1, 200)]
            case _:
                del found[at:]
    return bytes(found)


def _values(content: bytes, dice: random.Random) -> bytes:
    """Values that are odd, missing, swapped, in too many lists or far too deep."""
    value = orjson.loads(content)
    for _ in range(dice.randint(1, 3)):
        places = [place for place in islice(_places(value), 2000) if 0 < len(place) < 12]
        if not places:
            break
        *at, last = dice.choice(places)
        holder = value
        for key in at:
            holder = holder[key]
        old = holder[last]
        match dice.choice(("odd", "odd", "remove", "swap", "repeat", "nest")):
            case "odd":
                like = [each for each in ODD if type(each) is type(old)]
                holder[last] = dice.choice(like if like and dice.random() < 0.6 else ODD)
            case "remove":
                del holder[last]
            case "swap":
                other: Any = value
                for key in dice.choice(places):
                    other = other[key]
                holder[last] = json.loads(json.dumps(other))
            case "repeat":
                holder[last] = [old] * dice.randint(0, 5)
            case _:
                for _ in range(dice.choice((1, 3, 200))):
                    old = (
                        [old] if dice.random() < 0.5 else {"type": "Sequence", "normalizers": [old]}
                    )
                holder[last] = old
    return json.dumps(value).encode()


def _places(value: Any, at: Path_ = ()) -> Iterator[Path_]:
    yield at
    if isinstance(value, dict):
        for key in list(value)[:60]:
            yield from _places(value[key], (*at, key))
    elif isinstance(value, list):
        for number, each in enumerate(value[:40]):
            yield from _places(each, (*at, number))


def _parts(content: bytes, dice: random.Random) -> bytes:
    """Parts of a tokenizer that the library takes, and that were not made for each other."""
    value = orjson.loads(content)
    for _ in range(dice.randint(1, 3)):
        match dice.choice(("normalizer", "pre_tokenizer", "model", "post", "decoder", "added")):
            case "normalizer":
                value["normalizer"] = _several(NORMALIZERS, "normalizers", dice)
            case "pre_tokenizer":
                value["pre_tokenizer"] = _several(PRE_TOKENIZERS, "pretokenizers", dice)
            case "model":
                value["model"] = dice.choice(MODELS)
            case "post":
                value["post_processor"] = dice.choice(POST_PROCESSORS)
            case "decoder":
                value["decoder"] = _several(DECODERS, "decoders", dice)
            case _:
                count = dice.choice((1, 1, 3, 200))
                kept = value.get("added_tokens", []) if dice.random() < 0.7 else []
                value["added_tokens"] = [_added(dice) for _ in range(count)] + kept
    return json.dumps(value).encode()


def _several(parts: list[dict[str, Any]], key: str, dice: random.Random) -> dict[str, Any] | None:
    chosen = [dice.choice(parts) for _ in range(dice.choice((0, 1, 1, 1, 2, 3, 12)))]
    if len(chosen) > 1:
        return {"type": "Sequence", key: chosen}
    return chosen[0] if chosen else None


def _added(dice: random.Random) -> dict[str, Any]:
    contents = ("", "a", "[CLS]", "the", " ", "\x00", "<|endoftext|>", "e" * 100_000, "(x")
    flags = {key: dice.random() < 0.3 for key in ("single_word", "lstrip", "rstrip", "special")}
    ids = (0, 1, 50, 129, 10**6, 2**31, 2**32 - 1)
    token = {"id": dice.choice(ids), "content": dice.choice(contents)}
    return token | flags | {"normalized": dice.random() < 0.5}
