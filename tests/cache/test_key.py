"""A vector is found by everything that determines it, and by nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.api.formats.openai import EmbeddingRequest
from embedfleet.cache.key import KEY_BYTES, Keys, VectorIdentity
from embedfleet.vocabulary import ModelIdentity, Pooling, Precision, Truncation

IDENTITY = VectorIdentity(
    "p", "r", Precision.BF16, "t", (1,), (2, 3), "last", 1024, 512, "Query: ", Truncation.NONE
)

IN_THE_KEY = {
    "inputs": "the text itself",
    "queries": "as the prompt, or in the text of each pair",
    "role": "as its prompt",
    "instruction": "as the prompt",
    "truncate": "a field",
    "cut": "as `truncate`",
}
DERIVED = {
    "model": "as its pool, and what that promises: two names may be one model",
    "dimensions": "cut from the full vector",
    "forms": "written from the vector",
    "user": "says who asks",
    "by_item": "says what becomes of the other texts",
    "faults": "are of texts that have no vector",
    "faulty": "are places",
    "places": "are places",
    "field": "is a name for messages",
    "ignored": "means nothing",
}
OF_A_MODEL = {
    "revision": "as promised by the pool",
    "tokenizer": "a field",
    "width": "a field",
    "max_tokens": "a field",
    "prompts": "as the prompt",
    "name": "as the pool, which has its name from its configuration",
    "task": "the revision has it: a reranker's files are another model's",
    "vocabulary": "not: ids beyond it are refused, and the revision has it",
}
identities = st.builds(
    VectorIdentity,
    pool=st.text(max_size=4),
    revision=st.text(max_size=4),
    precision=st.sampled_from(Precision),
    tokenizer=st.text(max_size=4),
    before=st.lists(st.integers(0, 12), max_size=2).map(tuple),
    after=st.lists(st.integers(0, 12), max_size=2).map(tuple),
    pooling=st.sampled_from(Pooling),
    width=st.integers(1, 9),
    max_tokens=st.integers(1, 9),
    prompt=st.text(max_size=4),
    truncate=st.sampled_from(Truncation),
)
texts = st.one_of(st.text(max_size=6), st.lists(st.integers(0, 300), max_size=6))


def test_every_field_of_a_request_is_in_the_key_or_derived() -> None:
    """A new one that nobody thought of would give the wrong vector; say here which it is."""
    assert {*EmbeddingRequest.__struct_fields__} == IN_THE_KEY.keys() | DERIVED.keys()


def test_every_field_of_a_model_was_thought_of() -> None:
    """The same for what tells models apart."""
    assert {field.name for field in fields(ModelIdentity)} == OF_A_MODEL.keys()


@pytest.mark.parametrize("name", [field.name for field in fields(VectorIdentity)])
@given(identity=identities, other=identities)
def test_a_change_of_any_field_changes_the_key(
    name: str, identity: VectorIdentity, other: VectorIdentity
) -> None:
    """Also of one that is added later: fields are enumerated, not listed."""
    changed = replace(identity, **{name: getattr(other, name)})
    same = getattr(changed, name) == getattr(identity, name)
    assert (Keys(changed).of("text") == Keys(identity).of("text")) == same


@given(one=texts, other=texts)
def test_texts_have_the_same_key_only_if_they_are_the_same(
    one: str | Sequence[int], other: str | Sequence[int]
) -> None:
    """Text and ids, too: no string spells a list."""
    same = type(one) is type(other) and one == other
    assert (Keys(IDENTITY).of(one) == Keys(IDENTITY).of(other)) == same


@given(prompt=st.text(max_size=4), text=st.text(max_size=4), cut=st.integers(0, 4))
def test_nothing_moves_between_prompt_and_text(prompt: str, text: str, cut: int) -> None:
    """Both are put together for the tokenizer, but the same words cut elsewhere are others."""
    whole = prompt + text
    moved = Keys(replace(IDENTITY, prompt=whole[:cut])).of(whole[cut:])
    same = whole[:cut] == prompt
    assert (moved == Keys(replace(IDENTITY, prompt=prompt)).of(text)) == same


def test_a_text_that_looks_like_ids_in_memory_is_not_those_ids() -> None:
    """Their bytes are equal, their kinds are not."""
    ids = [0x64636261]
    assert Keys(IDENTITY).of("abcd\0\0\0\0") != Keys(IDENTITY).of(ids)


def test_keys_are_the_same_in_every_process() -> None:
    """Gateways share a Redis, so a key may not change without `_SCHEME`."""
    known = "0f0ff88393d2a2ca"
    assert Keys(IDENTITY).of("How are you?").hex().startswith(known)
    assert len(Keys(IDENTITY).of("")) == KEY_BYTES


def test_half_a_surrogate_pair_has_a_key() -> None:
    """The encoder refuses it, in words."""
    assert len(Keys(IDENTITY).of("\ud800")) == KEY_BYTES
