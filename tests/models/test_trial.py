"""Model files from elsewhere: tried in a process that may die of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from embedfleet.models.source import resolve
from embedfleet.models.trial import try_files
from embedfleet.runtime.settings import Pool
from embedfleet.server.gateway.pool_setup import local_model
from embedfleet.vocabulary import ModelError

Definition = dict[str, Any]


def padded(to: int) -> Definition:
    return {
        "strategy": {"Fixed": to},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "x",
    }


def replacing(pattern: dict[str, str], content: str) -> Definition:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(kind: Definition, times: int) -> Definition:
    return {"type": "Sequence", "normalizers": [kind] * times}


def template(name: str) -> Definition:
    piece = {"SpecialToken": {"id": name, "type_id": 0}}
    single = [{"Sequence": {"id": "A", "type_id": 0}}, piece]
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}}


def nested(depth: int) -> Definition:
    inner: Definition = {"type": "Lowercase"}
    for _ in range(depth):
        inner = {"type": "Sequence", "normalizers": [inner]}
    return inner


FOURFOLD = replacing({"Regex": "."}, "zzzz")

HARMFUL: dict[str, Callable[[Definition], object]] = {
    "each character becomes 4^14": lambda d: d.update(normalizer=sequence(FOURFOLD, 14)),
    "each character becomes 256": lambda d: d.update(normalizer=sequence(FOURFOLD, 4)),
    "a mebibyte before each text": lambda d: d.update(
        normalizer={"type": "Prepend", "prepend": "z" * (1 << 20)}
    ),
    "a pattern that goes back for ever": lambda d: d.update(
        normalizer=replacing({"Regex": "(a+a+)+b"}, "z")
    ),
    "a special token that there is not": lambda d: d.update(post_processor=template("NOPE")),
    "merges of tokens that there are not": lambda d: d["model"].update(merges=[["a", "nope"]]),
    "a charsmap of noise": lambda d: d.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "/////w=="}
    ),
    "no model": lambda d: d.pop("model"),
    "an unknown token that there is not": lambda d: d.update(
        model=d["model"]
        | {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
    ),
    "pieces of no length": lambda d: d.update(pre_tokenizer={"type": "FixedLength", "length": 0}),
}

LONG = {"each character becomes 4^14"}
"""These take the processor time that they are allowed."""

SAID = {
    "each character becomes 4^14": "takes more than",
    "each character becomes 256": "tokens of 7 characters",
    "a special token that there is not": "can't be read",
    "an unknown token that there is not": "fails on a text: WordPiece error: Missing [UNK]",
    "pieces of no length": "chunk size must be non-zero",
}

TAMED: dict[str, Callable[[Definition], object]] = {
    "padding to 10^12 tokens": lambda d: d.update(padding=padded(10**12)),
    "padding to 2^64 - 1 tokens": lambda d: d.update(padding=padded(2**64 - 1)),
    "truncation": lambda d: d.update(
        truncation={"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    ),
    "dropout": lambda d: d["model"].update(dropout=0.5),
    "normalizers in normalizers": lambda d: d.update(normalizer=nested(50)),
}


def files(directory: Path, change: Callable[[Definition], object]) -> Path:
    """The built-in model's small files, with another tokenizer.json."""
    source = resolve("builtin", progress=False).directory
    target = directory / "model"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    path = target / "tokenizer.json"
    definition = orjson.loads(path.read_bytes())
    change(definition)
    path.write_bytes(orjson.dumps(definition))
    return target


@pytest.mark.parametrize(
    "harm", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in HARMFUL]
)
async def test_a_harmful_tokenizer_ends_a_process_of_its_own(tmp_path: Path, harm: str) -> None:
    """By a sentence, a signal or a bound of time; this process hears which file it was."""
    directory = files(tmp_path, HARMFUL[harm])
    with pytest.raises(ModelError) as raised:
        await try_files(directory)
    assert raised.value.message.startswith(f"{directory / 'tokenizer.json'}")
    assert SAID.get(harm, "") in raised.value.message


@pytest.mark.parametrize("part", TAMED)
async def test_what_is_no_part_of_tokenising_is_left_out(tmp_path: Path, part: str) -> None:
    """The file is taken without it."""
    await try_files(files(tmp_path, TAMED[part]))


async def test_the_built_in_model_passes(tmp_path: Path) -> None:
    await try_files(files(tmp_path, lambda _: None))


@pytest.mark.parametrize("field", ["model", "tokenizer_dir"])
def test_a_directory_is_tried_before_anything_of_a_gateway_is_started(
    tmp_path: Path, field: str
) -> None:
    harmful = files(tmp_path, HARMFUL["a special token that there is not"])
    pool = Pool(**{field: harmful if field == "tokenizer_dir" else str(harmful)})  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=str(harmful)):
        local_model(pool, None)
