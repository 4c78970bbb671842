"""Ids that this tokenizer made are taken, whole and in parts; those of another one are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.encoding.token_ids import OwnIds
from embedfleet.models.encoding.tokenizer import finished
from embedfleet.vocabulary import CallerError, Truncation
from tests.small_tokenizer import CORPUS, loaded

BUILT_IN = Path(__file__).parents[3] / "src" / "embedfleet" / "models" / "builtin"

LIBRARY = Tokenizer.from_file(str(BUILT_IN / "tokenizer.json"))
LOADED = loaded(LIBRARY)


@pytest.fixture
def library() -> Tokenizer:
    return LIBRARY


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=60) | st.sampled_from(CORPUS), st.data())
def test_every_part_of_what_it_made_is_its_own(text: str, data: st.DataObject) -> None:
    ids = LIBRARY.encode(text, add_special_tokens=False).ids
    first = data.draw(st.integers(0, len(ids)))
    last = data.draw(st.integers(first, len(ids)))
    words = CORPUS[0]
    sliced = LIBRARY.encode(words, add_special_tokens=False).ids
    assert OwnIds(LOADED)(ids)
    # A part of letters, digits and spaces is made the same alone; odd characters may not be.
    assert OwnIds(LOADED)(sliced[min(first, len(sliced)) : last])


def test_ids_with_prompt_and_end_of_text_token_are_its_own(library: Tokenizer) -> None:
    text = f"Instruct: {CORPUS[1]}\nQuery:{CORPUS[2]}<|endoftext|>"
    assert OwnIds(LOADED)(library.encode(text, add_special_tokens=False).ids)


def test_a_torn_character_at_either_end_is_no_other_tokenizer_s(library: Tokenizer) -> None:
    ids = library.encode("🦩 the 🦩 sea 🦩", add_special_tokens=False).ids
    own = OwnIds(LOADED)
    assert all(own(ids[first:]) and own(ids[:first]) for first in range(len(ids)))


def test_ids_of_another_vocabulary_are_not_its_own(library: Tokenizer) -> None:
    """The same text, with ids that another tokenizer of the same kind would have."""
    own = OwnIds(LOADED)
    together = "\n".join(CORPUS)
    ids = library.encode(together, add_special_tokens=False).ids
    assert own(ids)
    for shift in range(1, 40):
        assert not own([(one * 37 + shift) % 12_000 for one in ids])


def test_where_decoding_loses_something_nothing_is_told() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    own = OwnIds(loaded(words))
    assert not own.knows
    assert own([1, 1, 0])


def test_an_encoder_names_each_text_of_foreign_ids_and_how_to_send_texts() -> None:
    encoder = Encoder(describe(BUILT_IN))
    own = encoder.encode(["\n".join(CORPUS)], prompt="", truncate=Truncation.NONE)[0].ids
    foreign = np.tile(own * 37 % 12_000, 4)
    found = finished(
        encoder.steps([own, foreign], prompt="", truncate=Truncation.NONE, own_ids=True)
    )
    assert not isinstance(found[0], CallerError)
    assert isinstance(found[1], CallerError)
    assert found[1].code == "foreign_token_ids"
    assert found[1].param == "input[1]"
    assert "check_embedding_ctx_length=False" in found[1].message
    (taken, _) = encoder.encode([own, foreign], prompt="", truncate=Truncation.NONE)
    assert taken.ids.tolist() == own.tolist()
