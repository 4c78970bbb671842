"""Answers are read strictly, and what is wrong with them is said."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.conformance.exchange import Answer, Ask, Violation, accepted, clipped, refused
from embedfleet.conformance.transport import api_base
from embedfleet.vocabulary import SetupError

JSON = {"content-type": "application/json; charset=utf-8"}


def answered(value: object, status: int = 200, headers: dict[str, str] = JSON) -> Answer:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Answer(Ask("POST", "/embeddings", b"{}"), status, headers, body)


def vectors(*embeddings: Any, **changes: Any) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": one}
            for index, one in enumerate(embeddings)
        ],
        "model": "m",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    } | changes


numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(numbers, min_size=1, max_size=8))
def test_base64_and_floats_are_read_as_the_same_bits(row: list[float]) -> None:
    vector = np.array(row, np.float32)
    packed = pybase64.b64encode(vector.tobytes()).decode()
    from_text = accepted(answered(vectors(packed))).vectors
    from_numbers = accepted(answered(vectors([float(one) for one in vector]))).vectors
    assert from_text.tobytes() == from_numbers.tobytes() == vector.tobytes()


@pytest.mark.parametrize(
    ("value", "right"),
    [
        (b"<html>", "must be JSON"),
        ([], "must be an object"),
        (vectors([1.0], object="embedding"), '`object` must be "list"'),
        (vectors([1.0], model=None), "`model` must name"),
        (vectors([1.0], data={}), "`data` must be a list"),
        (vectors(), "`data` must hold"),
        (vectors([]), "must have numbers"),
        (vectors([1e300]), "must be finite"),
        (vectors([1.0], data=[1]), r"`data\[0\]` must be an object"),
        (vectors([1.0], [1.0, 2.0]), "must be of one length"),
        (vectors([1.0], None), "list of numbers or base64"),
        (vectors([None]), "list of numbers or base64"),
        (vectors(["1"]), "list of numbers or base64"),
        (vectors([True]), "list of numbers or base64"),
        (vectors("?"), "must be base64"),
        (vectors("AAAA"), "has 3 bytes"),
        (vectors("AADAfw=="), "must be finite"),
        (vectors("AACAPw==", [1.0]), "in one format"),
        (vectors([1.0], usage=None), "`usage` must have"),
        (vectors([1.0], usage={"prompt_tokens": 3}), "`usage` must have"),
        (vectors([1.0], usage={"prompt_tokens": 3, "total_tokens": 4}), "`usage` must have"),
        (vectors([1.0], usage={"prompt_tokens": 0, "total_tokens": 0}), "`usage` must have"),
    ],
)
def test_an_answer_that_is_wrong_is_a_violation(value: object, right: str) -> None:
    with pytest.raises(Violation, match=right):
        accepted(answered(value))


def test_another_status_or_content_type_is_a_violation() -> None:
    with pytest.raises(Violation, match="status must be 200"):
        accepted(answered(vectors([1.0]), status=201))
    with pytest.raises(Violation, match="content type"):
        accepted(answered(vectors([1.0]), headers={"content-type": "text/plain"}))
    with pytest.raises(Violation, match="2 vectors, not 1"):
        accepted(answered(vectors([1.0])), texts=2)


ERROR = {"message": "wrong", "type": "invalid_request_error", "param": "input", "code": "c"}


@pytest.mark.parametrize(
    ("change", "right"),
    [
        ({"type": "BadRequestError"}, "`type` must be"),
        ({"message": ""}, "`message` must be a text"),
        ({"param": 1}, "`param` must be a string or null"),
        ({"code": 400}, "`code` must be a string or null"),
        ({"param": "model"}, '`param` must be "input"'),
        ({"code": "d"}, '`code` must be "c"'),
    ],
)
def test_an_error_in_another_shape_is_a_violation(change: dict[str, Any], right: str) -> None:
    assert refused(answered({"error": ERROR}, 400), param="input", code="c").message == "wrong"
    with pytest.raises(Violation, match=right):
        refused(answered({"error": ERROR | change}, 400), param="input", code="c")


def test_an_error_without_its_object_or_a_field_is_a_violation() -> None:
    for value in ({"detail": "wrong"}, {"error": "wrong"}, ["wrong"]):
        with pytest.raises(Violation, match="object `error`"):
            refused(answered(value, 400))
    with pytest.raises(Violation, match="must have code, param too"):
        refused(answered({"error": {"message": "wrong", "type": "t"}}, 400))


def test_a_long_body_is_clipped_and_its_size_shown() -> None:
    assert clipped(b"short") == "short"
    assert clipped(b"\xff") == "\\xff"
    assert clipped(b'{\r\n  "a": 1\n}') == '{ "a": 1 }'
    long = clipped(b"a" * 10_000)
    assert len(long) < 200
    assert long.endswith("… (10,000 bytes)")


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
        ("https://host/v1beta/openai", "https://host/v1beta/openai"),
    ],
)
def test_a_base_url_is_taken_as_clients_take_it(url: str, base: str) -> None:
    assert api_base(url) == base


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://host", "http://"])
def test_an_invalid_address_is_refused(url: str) -> None:
    with pytest.raises(SetupError, match="is not an address"):
        api_base(url)
