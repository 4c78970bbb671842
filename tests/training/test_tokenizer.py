"""What the tokenizer promises: no unknowns, one end token, prompt and text apart."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer
from training.tokenizer import END, encode, train_tokenizer

TEXTS = ["The river flows in 1998 and in 2018.", "河流在北京。", "Query: what is it?"] * 20


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 600)


@pytest.mark.parametrize(
    "text", ["", "naïve 😀 \u0000", "河　流", "\n\n  x\t", "a\u0301", "ÄÖ ß ﬁ"]
)
def test_any_text_comes_back_in_lower_case(tokenizer: Tokenizer, text: str) -> None:
    expected = tokenizer.normalizer.normalize_str(text)
    assert tokenizer.decode(tokenizer.encode(text).ids) == expected


def test_the_end_token_is_put_once(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("The river").ids
    assert tokenizer.token_to_id(END) == 0
    assert ids.count(0) == 1
    assert ids[-1] == 0


@pytest.mark.parametrize("text", ["what is it?", "河流在哪里？", "1998", "Étude"])
def test_instruction_and_text_have_the_tokens_of_both(tokenizer: Tokenizer, text: str) -> None:
    prompt = "Instruct: find the river\nQuery:"
    apart = encode(tokenizer, [prompt, text])
    assert encode(tokenizer, [prompt + text]) == [apart[0] + apart[1]]


def test_a_year_is_one_token_in_both_languages(tokenizer: Tokenizer) -> None:
    year = tokenizer.encode("1998").ids[0]
    assert year in tokenizer.encode("in 1998").ids
    assert year in tokenizer.encode("在1998年").ids
