from __future__ import annotations

import base64
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.client.errors import AnswerError, RefusedError
from embedfleet.client.wire import (
    EmbedOptions,
    as_input,
    named_text,
    read_answer,
    read_bytes,
    read_models,
    read_refusal,
    read_scores,
    read_tokens,
    request_body,
    size_of,
)


def coded(*numbers: float) -> str:
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


def answer(*data: object) -> bytes:
    return orjson.dumps({"data": list(data), "usage": {"prompt_tokens": 7}})


def test_vectors_go_to_the_places_that_their_numbers_say() -> None:
    body = answer(
        {"index": 1, "embedding": coded(3, 4)},
        {"index": 0, "embedding": [1.0, 2.0]},
    )
    found = read_answer(body, 2)
    assert found.vectors.tolist() == [[1, 2], [3, 4]]
    assert found.vectors.dtype == np.float32
    assert found.tokens == 7


def test_slashes_may_be_escaped() -> None:
    just_below_one = np.nextafter(np.float32(1), np.float32(0))
    text = coded(just_below_one)
    assert text == "//9/Pw=="
    body = b'{"data":[{"embedding":"%b"}]}' % text.replace("/", "\\/").encode()
    assert read_answer(body, 1).vectors == just_below_one


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"{", "not in OpenAI's format"),
        (b"[" * 100_000, "not in OpenAI's format"),
        (answer({"embedding": coded(1)}), "1 vectors came back for 2 texts"),
        (answer({"embedding": coded(1)}, {"embedding": coded(1, 2)}), r"\[1, 2\] dimensions"),
        (
            answer({"index": 0, "embedding": coded(1)}, {"index": 0, "embedding": coded(1)}),
            "unexpected or repeated index",
        ),
        (
            answer({"index": 0, "embedding": coded(1)}, {"index": 2, "embedding": coded(1)}),
            "unexpected or repeated index",
        ),
        (answer({"embedding": coded(1)}, {"embedding": coded(float("nan"))}), "not finite"),
        (answer({"embedding": coded(1)}, {"embedding": "AAA"}), "can't be read"),
        (answer({"embedding": coded(1)}, {"embedding": {}}), "neither base64 nor"),
        (answer({"embedding": coded(1)}, {"embedding": ["x"]}), "can't be read"),
        (
            answer({"embedding": [[1.0, 2.0]]}, {"embedding": coded(1)}),
            "values that are not numbers",
        ),
        (answer({"embedding": coded()}, {"embedding": coded()}), r"\[0\] dimensions"),
    ],
)
def test_an_invalid_answer_is_described(body: bytes, complaint: str) -> None:
    with pytest.raises(AnswerError, match=complaint):
        read_answer(body, 2)


@pytest.mark.parametrize(
    ("results", "complaint"),
    [
        ([(0, 0.5)], "1 scores came back for 2 documents"),
        ([(0, 0.5), (0, 0.5)], "unexpected or repeated index"),
        ([(0, 0.5), (2, 0.5)], "unexpected or repeated index"),
        ([(0, 0.5), (1, "high")], "not in Jina's format"),
    ],
)
def test_scores_that_are_no_answer_are_named(results: list[Any], complaint: str) -> None:
    told = [{"index": index, "relevance_score": score} for index, score in results]
    with pytest.raises(AnswerError, match=complaint):
        read_scores(orjson.dumps({"results": told}), 2)


@pytest.mark.parametrize(
    ("shape", "body", "complaint"),
    [
        ("2, 2", bytes(15), "15 bytes are not 2 vectors of 2 numbers"),
        ("1, 4", bytes(16), "1 vectors came back for 2 texts"),
        ("2", bytes(16), "can't be read"),
        ("2, 0", b"", "not 2 vectors of 0"),
        ("2, 2", b"\x00\x00\xc0\x7f" * 4, "not finite"),
    ],
)
def test_bytes_that_are_no_answer_are_named(shape: str, body: bytes, complaint: str) -> None:
    with pytest.raises(AnswerError, match=complaint):
        read_bytes({"x-embedfleet-shape": shape}, body, 2)


RIGHT = (
    answer({"embedding": coded(0.5), "index": 0}),
    orjson.dumps({"data": [{"embedding": [0.5]}], "output_dtype": "float32", "scale": None}),
    orjson.dumps({"data": [{"id": "m", "task": "embed", "scales": {"32": 0.1}, "space": "s"}]}),
    orjson.dumps({"results": [{"index": 0, "relevance_score": 0.5}]}),
    orjson.dumps({"error": {"message": "no", "code": "c", "param": "input[3]"}}),
)
"""Answers of each kind."""


@st.composite
def nearly_right(draw: st.DrawFn) -> bytes:
    """An answer of which a few bytes are others."""
    body = draw(st.sampled_from(RIGHT))
    at = draw(st.integers(0, len(body)))
    other = draw(st.sampled_from([b"\xff", b"\xc3", b"[" * 50_000]) | st.binary(max_size=3))
    return body[:at] + other + body[at + draw(st.integers(0, 3)) :]


@given(st.binary(max_size=200) | nearly_right())
def test_any_bytes_are_an_answer_or_an_error(body: bytes) -> None:
    readers = (
        lambda: read_answer(body, 1),
        lambda: read_models(body),
        lambda: read_scores(body, 1),
        lambda: read_tokens(body),
        lambda: read_bytes({"x-embedfleet-shape": "1, 1"}, body, 1),
    )
    for read in readers:
        try:
            read()
        except (AnswerError, RefusedError):
            continue
    assert str(read_refusal(400, body)).startswith("status 400: ")


def test_headers_that_are_no_text_are_an_answer_that_can_not_be_read() -> None:
    headers = {"x-embedfleet-shape": "1, 1", "x-embedfleet-usage": '{"prompt_tokens":"\udcff"}'}
    with pytest.raises(AnswerError, match="the headers of the answer"):
        read_bytes(headers, bytes(4), 1)


def test_a_refusal_keeps_the_service_s_words_without_its_control_characters() -> None:
    told = {"error": {"message": "no\x1b[31m way", "code": "c", "param": "input[3]"}}
    error = read_refusal(400, orjson.dumps(told))
    assert str(error) == "status 400: no [31m way"
    assert (error.http_status, error.code, error.param) == (400, "c", "input[3]")
    assert named_text(error, 4) == 3
    assert named_text(error, 3) is None


def test_requests_hold_the_options_that_were_set_and_no_more() -> None:
    body = orjson.loads(request_body("m", ["a"], EmbedOptions()))
    assert body == {"model": "m", "input": ["a"], "encoding_format": "base64"}
    options = EmbedOptions(8, "query", "find", truncate=True)
    assert orjson.loads(request_body("m", ["a"], options)) | body == {
        **body,
        "dimensions": 8,
        "input_type": "query",
        "instruction": "find",
        "truncate": True,
    }


def test_texts_are_strings_or_ids() -> None:
    assert as_input("a") == "a"
    assert as_input(np.array([1, 2])) == [1, 2]
    mixed: Any = (1, np.int32(2))
    assert as_input(mixed) == [1, 2]
    assert size_of("é") == 2
    assert size_of([1, 2, 3]) == 3
    for wrong in (None, 3, [1.5], b"a"):
        if wrong == b"a":
            continue
        with pytest.raises(TypeError, match="a string or a list of token ids"):
            as_input(wrong)  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match="surrogate"):
        as_input("a\ud800")
