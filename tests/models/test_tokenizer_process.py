"""Tokenizers of no known kind: they tokenise in a process of their own, which may die of them."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.encoding.tokenizer import finished
from embedfleet.models.source import resolve
from embedfleet.models.tokenizer_library import TokenizerError
from embedfleet.runtime.settings import Pool
from embedfleet.server.gateway.pools.setup import local_model
from embedfleet.vocabulary import ModelError, Truncation
from tests.processes import living_children

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
    "a special token that there is not": lambda d: d.update(post_processor=template("NOPE")),
    "merges of tokens that there are not": lambda d: d["model"].update(merges=[["a", "nope"]]),
    "a charsmap of noise": lambda d: d.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "/////w=="}
    ),
    "no model": lambda d: d.pop("model"),
    "pieces of no length": lambda d: d.update(pre_tokenizer={"type": "FixedLength", "length": 0}),
}

SAID = {
    "each character becomes 4^14": "on a text",
    "each character becomes 256": "makes 256 tokens of 1 characters",
    # A slow processor does not get to count them.
    "a mebibyte before each text": "of 1 characters|processor time on a text",
    "a special token that there is not": "fails on a text",
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


def encoder(directory: Path) -> Encoder:
    return Encoder(describe(directory))


def encoded(of: Encoder, text: str) -> list[int]:
    (found,) = of.encode([text], prompt="", truncate=Truncation.END)
    ids: list[int] = found.ids.tolist()
    return ids


@pytest.fixture(scope="module")
def plain() -> Encoder:
    return encoder(resolve("builtin", progress=False).directory)


@pytest.mark.parametrize("harm", HARMFUL)
def test_a_file_that_can_not_be_used_is_named(tmp_path: Path, harm: str) -> None:
    """Whether it fails, ends its process, or would take all time or memory that there is."""
    directory = files(tmp_path, HARMFUL[harm])
    with pytest.raises(ModelError) as raised:
        encoder(directory)
    assert raised.value.message.startswith(f"{directory / 'tokenizer.json'}")
    assert re.search(SAID.get(harm, ""), raised.value.message)


@pytest.mark.parametrize("part", TAMED)
def test_what_is_no_part_of_tokenising_is_left_out(
    tmp_path: Path, part: str, plain: Encoder
) -> None:
    assert encoded(encoder(files(tmp_path, TAMED[part])), "The sea") == encoded(plain, "The sea")


@pytest.mark.parametrize("field", ["model", "tokenizer_dir"])
def test_a_file_is_refused_before_anything_of_a_gateway_is_started(
    tmp_path: Path, field: str
) -> None:
    harmful = files(tmp_path, HARMFUL["a special token that there is not"])
    pool = Pool(**{field: harmful if field == "tokenizer_dir" else str(harmful)})  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=str(harmful)):
        local_model(pool, None)


CUBIC = replacing({"Regex": ".*?.*?(?!.)(?<=b)"}, "z")
"""Takes minutes for some thousand characters, and at no place more steps than are allowed."""


def unusual(definition: Definition) -> None:
    """The same tokens by a part that is not known: it replaces what no text has."""
    nothing = replacing({"Regex": "\\x{10FFFE}{7}"}, "")
    definition["normalizer"]["normalizers"].insert(0, nothing)


def cubic(definition: Definition) -> None:
    definition["normalizer"]["normalizers"].insert(0, CUBIC)


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
    found = encoder(files(tmp_path_factory.mktemp("apart"), unusual))
    assert not found.linear
    yield found
    found.close()


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=200), st.sampled_from(["", "query: "]))
def test_another_process_makes_the_same_tokens(
    apart: Encoder, plain: Encoder, text: str, prompt: str
) -> None:
    texts = [f"{text}.", "The sea" * 100, f"a {text}"]
    for truncate in Truncation:
        found, expected = (
            each.encode(texts, prompt=prompt, truncate=truncate) for each in (apart, plain)
        )
        assert [one.ids.tolist() for one in found] == [one.ids.tolist() for one in expected]


def test_long_texts_ids_and_places_come_from_another_process_as_well(
    apart: Encoder, plain: Encoder
) -> None:
    text = "The river rises in the mountains. 河流从山上流到大海。" * 2_000
    assert encoded(apart, text) == encoded(plain, text)
    spelled = [
        finished(each.spelled(["The sea is wide"], prompt="a ", template=True))
        for each in (apart, plain)
    ]
    assert spelled[0] == spelled[1]
    own = plain.encode(["The river rises in the mountains"], prompt="", truncate=Truncation.NONE)
    ids = own[0].ids.tolist()
    foreign = [each + 37 for each in ids] * 4
    found = [
        finished(each.steps([ids, foreign], prompt="", truncate=Truncation.NONE, own_ids=True))
        for each in (apart, plain)
    ]
    assert [type(one) for one in found[0]] == [type(one) for one in found[1]]
    with pytest.raises(Exception, match="half of a surrogate pair"):
        encoded(apart, "\ud800")


def test_a_text_that_takes_too_long_is_an_error_and_the_next_one_is_not(
    tmp_path: Path, plain: Encoder
) -> None:
    slow = encoder(files(tmp_path, cubic))
    with pytest.raises(TokenizerError, match=r"takes more than 1\.2 s of processor time on a text"):
        encoded(slow, "a" * 4_000)
    assert encoded(slow, "The sea") == encoded(plain, "The sea")
    slow.close()


def test_a_process_that_is_gone_is_started_again(tmp_path: Path, plain: Encoder) -> None:
    found = encoder(files(tmp_path, unusual))
    (child,) = children(tmp_path)
    child.kill()
    with pytest.raises(TokenizerError, match="ends its process on a text"):
        encoded(found, "The sea")
    assert encoded(found, "The sea") == encoded(plain, "The sea")
    found.close()
    with pytest.raises(TokenizerError, match="was closed"):
        encoded(found, "The sea")


def test_an_unreferenced_encoder_leaves_no_process(tmp_path: Path) -> None:
    found = encoder(files(tmp_path, unusual))
    assert len(children(tmp_path)) == 1
    del found
    assert not children(tmp_path)


def expression(dice: random.Random, depth: int = 0) -> str:
    """A regular expression put together by chance, most of them slow for some text."""
    atoms = [
        "a",
        "b",
        ".",
        r"\w",
        "[ab]",
        r"\s",
        "(?:a|a)",
        "(a|ab|b)",
        "(?!.)",
        "(?<=b)",
        "^",
        "$",
    ]
    if depth > 2 or dice.random() < 0.3:
        return dice.choice(atoms)
    inner = expression(dice, depth + 1)
    shapes = (
        *(f"(?:{inner})*", f"(?:{inner})+?", f"(?={inner})", f"(?!{inner})", f"(?:{inner}){{2,9}}"),
        *(rf"(?<n>{inner})+\k<n>", f"{inner}{expression(dice, depth + 1)}", f"(?>{inner})+"),
        *("|".join(f"{inner}{each}" for each in range(200)), f".*?.*?{inner}"),
    )
    return dice.choice(shapes)


def by_chance(dice: random.Random) -> Callable[[Definition], object]:
    """Hostile parts before those of a tokenizer."""
    content = dice.choice(["", "z", "ab", "a" * 1_000])
    part = replacing({"Regex": expression(dice)}, content)
    split = {"type": "Split", "pattern": part["pattern"], "behavior": "Isolated", "invert": False}
    if dice.random() < 0.5:
        return lambda d: d.update(normalizer=sequence(part, dice.randint(1, 3)))
    return lambda d: d.update(pre_tokenizer=split)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_whatever_expressions_a_file_has_a_text_has_its_tokens_or_an_error(
    tmp_path: Path, seed: int
) -> None:
    """And the process that serves has never had it: it may not come back from such a text."""
    dice = random.Random(seed)
    directory = files(tmp_path, by_chance(dice))
    by_letter = "".join(dice.choice("ab \n") for _ in range(2_000))
    told = ""
    try:
        found = encoder(directory)
    except ModelError as error:
        told = error.message
    else:
        assert not found.linear
        for text in ("The sea", "a" * 3_000, "ab" * 1_500 + "c", "b a " * 800, by_letter):
            with contextlib.suppress(TokenizerError):
                assert encoded(found, text)
        found.close()
    assert not told or told.startswith(f"{directory / 'tokenizer.json'}")


def test_closing_ends_what_is_under_way(tmp_path: Path) -> None:
    found = encoder(files(tmp_path, unusual))
    (child,) = children(tmp_path)
    child.suspend()
    errors: list[TokenizerError] = []

    def wait() -> None:
        try:
            encoded(found, "The sea")
        except TokenizerError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    found.close()
    waiting.join(60)
    assert len(errors) == 1


def children(directory: Path) -> list[psutil.Process]:
    """Processes of tokenizers that lie there."""
    return living_children(os.getpid(), str(directory))
