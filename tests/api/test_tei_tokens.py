"""`/tokenize` answers in TEI's form where the body is TEI's, and in ours where it is ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.api.contracts.tei import is_for_tokens
from tests.contract.computed_in_place import answering
from tests.service import posted


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with answering(tmp_path_factory.mktemp("model")) as url:
        yield url.removesuffix("/v1")


def ours(root: str, **body: Any) -> Any:
    status, answer = posted(f"{root}/tokenize", {"model": "bag-of-tokens", **body})
    assert status == 200, answer
    return [each["tokens"] for each in answer["data"]]


TEXTS = ["the river runs to the sea", "长城有多长?", "a " * 9000 + "end", "naïve café 🙂"]


def test_tokens_are_those_that_are_computed_with_their_texts_and_places(root: str) -> None:
    for path in ("/tokenize", "/v1/tokenize"):
        status, answer = posted(root + path, {"inputs": TEXTS[:2] + TEXTS[3:]})
        assert status == 200, answer
        assert [[one["id"] for one in tokens] for tokens in answer] == ours(
            root, input=TEXTS[:2] + TEXTS[3:]
        )
        for text, tokens in zip(TEXTS[:2] + TEXTS[3:], answer, strict=True):
            for one in tokens:
                assert one["special"] == (one["start"] is None)
                if not one["special"]:
                    assert one["text"] == text[one["start"] : one["stop"]]
            assert {
                place
                for one in tokens
                if not one["special"]
                for place in range(one["start"], one["stop"])
            } >= {place for place, each in enumerate(text) if not each.isspace()}


def test_a_string_is_a_list_of_one_and_tokens_around_it_may_be_left_out(root: str) -> None:
    _, whole = posted(f"{root}/tokenize", {"inputs": "the sea"})
    _, bare = posted(f"{root}/tokenize", {"inputs": "the sea", "add_special_tokens": False})
    assert [one for one in whole[0] if not one["special"]] == bare[0]
    assert len(whole[0]) > len(bare[0])


def test_places_go_on_where_long_texts_are_tokenised_in_pieces(root: str) -> None:
    text = "the river runs to the sea " * 60
    _, answer = posted(
        f"{root}/tokenize", {"inputs": [text, "x " * 20], "add_special_tokens": False}
    )
    assert all(one["text"] == text[one["start"] : one["stop"]] for one in answer[0])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"inputs": [""]}, "inputs[0]"),
        ({"inputs": 5}, "`inputs` must be"),
        ({"inputs": "x", "add_special_tokens": "no"}, "true or false"),
        ({"inputs": TEXTS[2] * 5}, "inputs[0]"),
        ({"inputs": "x", "prompt_name": "poem"}, "prompt_name"),
        ({"inputs": "x", "model": "other"}, "other"),
    ],
)
def test_errors_are_written_as_tei_writes_them(root: str, body: Any, words: str) -> None:
    status, answer = posted(f"{root}/tokenize", body)
    assert status in {400, 404}
    assert set(answer) == {"error", "error_type"}
    assert words in answer["error"]


def test_a_body_of_both_names_is_ours_and_refused(root: str) -> None:
    status, answer = posted(f"{root}/tokenize", {"model": "m", "input": "x", "inputs": "x"})
    assert (status, answer["error"]["param"]) == (400, "inputs")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["inputs", "input", "a"]), inner, max_size=3)
    ),
    max_leaves=9,
)


@given(JSON, st.binary(max_size=40))
@settings(max_examples=200, deadline=None)
def test_only_a_name_at_the_top_decides(value: Any, junk: bytes) -> None:
    told = isinstance(value, dict) and "inputs" in value and "input" not in value
    assert is_for_tokens(json.dumps(value).encode()) == told
    assert not is_for_tokens(junk + b'"inputs"')
