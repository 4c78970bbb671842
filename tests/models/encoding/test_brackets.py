"""Texts of BERT and XLM-RoBERTa: between `[CLS]` and `[SEP]`, as transformers puts them.

What transformers computes is what the tokenizers library does with the file's own post-processor
and truncation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library

from embedfleet.models.description import Template, describe
from embedfleet.models.encoding import tokenizer as module
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.encoding.tokenizer import Tokenizer
from embedfleet.vocabulary import CallerError, ModelError, PackedText, TextOrIds, Truncation
from tests.encoder_checkpoints import BERT, XLM_ROBERTA, encoder_config
from tests.encoder_tokenizers import BRACKETS, KINDS, Kind, tokenizer, write_tokenizer
from tests.real_texts import passages
from tests.small_tokenizer import loaded

LANGUAGES = ["en", "zh", "es", "de", "ar"]
LIMIT = 512


def write_model(directory: Path, kind: Kind, *, built: Library | None = None, **more: Any) -> Path:
    """What a gateway needs of a model: no weights."""
    geometry = BERT if kind == "wordpiece" else XLM_ROBERTA
    write_tokenizer(directory, kind, built=built, **more)
    config = encoder_config(geometry, vocab_size=tokenizer(kind).get_vocab_size())
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def upstream(kind: Kind, text: str, limit: int = LIMIT) -> list[int]:
    library = tokenizer(kind)
    library.enable_truncation(limit)
    ids: list[int] = library.encode(text).ids
    return ids


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(scope="module")
def encoder(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(describe(write_model(tmp_path_factory.mktemp(kind), kind)))


def encoded(encoder: Encoder, text: TextOrIds, *, prompt: str = "") -> list[int]:
    (one,) = encoder.encode([text], prompt=prompt, truncate=Truncation.END)
    ids: list[int] = one.ids.tolist()
    return ids


def ends(kind: Kind) -> tuple[int, int]:
    first, last = (tokenizer(kind).token_to_id(token) for token in BRACKETS[kind])
    assert first is not None
    assert last is not None
    return first, last


@pytest.mark.parametrize("language", LANGUAGES)
def test_real_texts_are_encoded_as_upstream_whole_and_cut(
    encoder: Encoder, kind: Kind, language: str
) -> None:
    texts = passages(f"xquad/xquad.{language}.json")
    texts = [*texts[:60], " ".join(texts), "\n".join(texts[:40]), texts[0].upper()]
    found = encoder.encode(texts, prompt="", truncate=Truncation.END)
    for text, one in zip(texts, found, strict=True):
        assert one.ids.tolist() == upstream(kind, text)
    assert found[60].truncated


@pytest.mark.parametrize("language", LANGUAGES)
def test_long_texts_are_tokenised_in_pieces_with_the_same_ids(
    kind: Kind, language: str, tmp_path: Path
) -> None:
    text = "  ".join(passages(f"xquad/xquad.{language}.json"))[: 5 * module._PIECE]
    assert len(text) > 3 * module._PIECE
    ours = Tokenizer(write_tokenizer(tmp_path, kind) / "tokenizer.json", 10_000)
    ids = ours.ids([text], most=10**9)[0]
    assert ids.tolist() == tokenizer(kind).encode(text, add_special_tokens=False).ids


words = st.sampled_from(
    [
        "river",
        "don't",
        "Straße",
        "ÀÉ",
        "中文",
        "。",
        ",",
        "!",
        "  ",
        "\n",
        " ",
        "7",
        "e\u0301",
        "a.b",
    ]
)


@settings(deadline=None)
@given(st.lists(words | st.text(max_size=4), max_size=40).map("".join))
def test_pieces_never_show(kind: Kind, text: str) -> None:
    library = tokenizer(kind)
    cut = module._cut(loaded(library).kind)
    pieces = list(module._pieces([text], cut, piece=8))
    assert "".join(pieces) == text

    def ids(one: str) -> list[int]:
        found: list[int] = library.encode(one, add_special_tokens=False).ids
        return found

    assert [each for piece in pieces for each in ids(piece)] == ids(text)


@settings(deadline=None)
@given(st.text(min_size=1, max_size=30).filter(lambda text: not text.isspace()))
def test_any_text_is_encoded_as_upstream(encoder: Encoder, kind: Kind, text: str) -> None:
    assert encoded(encoder, text) == upstream(kind, text)


def test_ids_have_the_brackets_once_whether_the_caller_put_them_or_not(
    encoder: Encoder, kind: Kind
) -> None:
    first, last = ends(kind)
    for ids in ([7, 8, 9], [first, 7, 8, 9, last], [first, 7, 8, 9], [7, 8, 9, last]):
        assert encoded(encoder, ids) == [first, 7, 8, 9, last]
        assert encoded(encoder, np.array(ids, np.int32).tolist()) == [first, 7, 8, 9, last]
    long = [first, *[9] * (5 * LIMIT), last]
    assert encoded(encoder, long) == [first, *[9] * (LIMIT - 2), last]


def test_a_text_may_have_all_of_the_limit_and_one_token_more_is_refused_with_its_count(
    encoder: Encoder, kind: Kind
) -> None:
    first, last = ends(kind)
    assert encoded(encoder, [9] * (LIMIT - 2)) == [first, *[9] * (LIMIT - 2), last]
    with pytest.raises(CallerError, match="has 513 with prompt and special tokens") as caught:
        encoder.encode([[9] * (LIMIT - 1)], prompt="", truncate=Truncation.NONE)
    assert caught.value.code == "context_length_exceeded"


def test_a_prompt_stands_between_the_bracket_and_the_text(encoder: Encoder, kind: Kind) -> None:
    text = "The river rises in the mountains."
    assert encoded(encoder, text, prompt="query: ") == upstream(kind, f"query: {text}")


@pytest.mark.parametrize("post_processor", [True, False])
def test_the_brackets_are_known_without_a_post_processor(
    kind: Kind, tmp_path: Path, post_processor: bool
) -> None:
    built = tokenizer(kind, post_processor=post_processor)
    first, last = ends(kind)
    found = describe(write_model(tmp_path, kind, built=built)).template
    assert found == Template((first,), (last,))


def test_a_tokenizer_that_has_no_brackets_at_all_is_refused(tmp_path: Path) -> None:
    built = tokenizer("unigram", post_processor=False)
    directory = write_model(tmp_path, "wordpiece", built=built)
    (directory / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"lacks \[CLS\] or \[SEP\], which BERT models want"):
        describe(directory)


def test_positions_behind_padding_are_the_limit_of_xlm_roberta(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "unigram", model_max_length=10**30)
    assert json.loads((directory / "config.json").read_text())["max_position_embeddings"] == 514
    assert describe(directory).identity.max_tokens == 512
    with pytest.raises(ModelError, match="from 2 to 512"):
        describe(directory, max_tokens=513)


def test_texts_of_a_lower_casing_model_are_lower_cased_with_their_prompt(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "unigram")
    (directory / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    encoder = Encoder(describe(directory))
    text = "The RIVER Rises. ΌΣΟΣ"
    assert encoded(encoder, text, prompt="Query: ") == upstream("unigram", f"query: {text.lower()}")
    long = "The RIVER rises, and Falls. " * 2_000
    packed = PackedText((long[:20_001].encode(), long[20_001:].encode()))
    assert encoded(encoder, packed) == encoded(encoder, long) == upstream("unigram", long.lower())


def test_families_but_qwen3_have_no_prompts_unless_their_files_tell(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "unigram")
    assert describe(directory).identity.prompts == {}
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    assert describe(directory).identity.prompts == {"query": "query: ", "document": "passage: "}
