"""Large bodies read in pieces mean what they mean when they are read at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.api.formats import large_bodies as large
from embedfleet.api.formats.openai import (
    EmbeddingRequest,
    RequestLimits,
    is_quickly_read,
    parse_large_request,
    parse_request,
)
from embedfleet.vocabulary import CallerError, PackedText

LIMITS = RequestLimits(max_texts=4, max_instruction_characters=100)


def plain(request: EmbeddingRequest) -> EmbeddingRequest:
    """As it would be read at once."""
    inputs = tuple(
        str(one) if isinstance(one, PackedText | str) else np.asarray(one).tolist()
        for one in request.inputs
    )
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    return EmbeddingRequest(**fields | {"inputs": inputs})


@contextmanager
def pieces_of(slice_: int, chunk: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "SLICE", slice_)
        patch.setattr(large, "PIECE", slice_)
        patch.setattr(large, "CHUNK", chunk)
        yield


def outcome(body: bytes, *, whole: bool) -> EmbeddingRequest | str:
    try:
        parse = parse_request if whole else parse_large_request
        return plain(parse(body, LIMITS))
    except CallerError as error:
        return error.code or ""


def large_refusal(body: bytes, limits: RequestLimits = LIMITS) -> CallerError:
    with pytest.raises(CallerError) as caught:
        parse_large_request(body, limits)
    return caught.value


texts = st.text(max_size=60) | st.sampled_from(
    [
        "\\" * 40,
        '"' * 30,
        '\\"' * 20,
        "😀" * 30,
        "a\\u0041" * 9,
        "\x00\x1f" * 20,
        "é" * 50,
        " " * 40,
    ]
)
ids = st.integers(-2, 2**31 + 1)
items = st.fixed_dictionaries({"text": texts})
odd_items = st.fixed_dictionaries(
    {"text": texts | ids | st.none() | st.lists(texts, max_size=2)},
    optional={"type": st.sampled_from(["text", "image", 3]), "image": texts},
) | st.fixed_dictionaries({}, optional={"image": texts, "type": st.just("text")})
inputs = (
    texts
    | st.lists(texts, max_size=6)
    | st.lists(items, max_size=6)
    | st.lists(items | odd_items | texts, max_size=4)
    | st.lists(ids, max_size=40)
    | st.lists(st.lists(ids, max_size=12), max_size=6)
    | st.lists(texts | ids | st.lists(ids, max_size=3) | st.none() | st.booleans(), max_size=6)
    | st.none()
    | st.floats(allow_nan=False)
    | st.dictionaries(st.text(max_size=3), ids, max_size=3)
)
others = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["m", "", 3]),
        "dimensions": st.integers(-1, 5000),
        "truncate": st.booleans(),
        "x": st.recursive(texts | ids, lambda one: st.lists(one) | st.dictionaries(texts, one)),
        '"input': st.integers(),
    },
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    fields: dict[str, Any] = {"model": "m"} | draw(others)
    pairs = [*fields.items()]
    for _ in range(draw(st.sampled_from([1, 1, 1, 0, 2]))):
        pairs.insert(draw(st.integers(0, len(pairs))), ("input", draw(inputs)))
    indent = draw(st.sampled_from([None, 0, 3, 70]))
    ascii_only = draw(st.booleans())

    def written(value: Any) -> str:
        return json.dumps(value, ensure_ascii=ascii_only, indent=indent)

    space = draw(st.sampled_from(["", " ", "\n" * 50]))
    told = ",".join(f"{space}{written(key)}{space}:{space}{written(one)}" for key, one in pairs)
    return f"{space}{{{told}{space}}}{space}".encode("utf-8", "surrogatepass")


@given(body=bodies(), slice_=st.integers(32, 200), chunk=st.integers(1, 200))
@settings(max_examples=400, deadline=None)
def test_a_body_means_the_same_in_pieces_as_at_once(body: bytes, slice_: int, chunk: int) -> None:
    with pieces_of(slice_, chunk):
        found = outcome(body, whole=False)
    if body.count(b'"input"') <= 1 or not isinstance(outcome(body, whole=True), str):
        wanted = outcome(body, whole=True)
        assert isinstance(found, str) == isinstance(wanted, str), (body, found, wanted)
        if not isinstance(wanted, str):
            assert found == wanted


@given(
    body=bodies(),
    slice_=st.integers(32, 200),
    chunk=st.integers(1, 200),
    at=st.floats(0, 1),
    put=st.sampled_from([b"", b'"', b"\\", b"[", b"]", b"}", b",", b"\xff", b"\xc3", b"1", b"x"]),
    cut=st.integers(0, 3),
)
@settings(max_examples=600, deadline=None)
def test_a_damaged_body_is_never_believed(
    body: bytes, slice_: int, chunk: int, at: float, put: bytes, cut: int
) -> None:
    place = int(at * len(body))
    body = body[:place] + put + body[place + cut :]
    with pieces_of(slice_, chunk):
        found = outcome(body, whole=False)
    if not isinstance(found, str) and body.count(b'input"') <= 1:
        assert found == outcome(body, whole=True)


@pytest.mark.parametrize(
    ("unit", "code"),
    [
        (b"[1],", "array_above_max_length"),
        (b"[],", "array_above_max_length"),
        (b'"",', "array_above_max_length"),
        (b'"a",', "array_above_max_length"),
    ],
)
def test_too_many_texts_are_counted_and_not_parsed(
    unit: bytes, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parsed(*_: object) -> None:
        raise AssertionError("an element was looked at")

    monkeypatch.setattr(large, "elements", parsed)
    monkeypatch.setattr(large, "read_ids", parsed)
    error = large_refusal(b'{"model":"m","input":[' + unit * 100_000 + unit[:-1] + b"]}")
    assert error.code == code
    assert "100001 texts; at most 4" in error.message


def test_commas_and_brackets_in_texts_do_not_count() -> None:
    text = ('[],{}:\\" ' * 50_000)[:-1]
    body = json.dumps({"model": "m", "input": [text, text]}).encode()
    assert plain(parse_large_request(body, LIMITS)).inputs == (text, text)


@pytest.mark.parametrize(
    "beside",
    [
        b'"x":[' + b"[]," * 500_000 + b"[]]",
        b'"x":' + b"[" * 600_000 + b"]" * 600_000,
        b",".join([b'"input":"a"'] * 100_000),
        b'"encoding_format":"' + b" - at `$." * 150_000 + b'"',
        b'"x":1' + b" " * (1 << 20),
    ],
)
def test_what_stands_beside_the_input_is_bounded_and_not_parsed(
    beside: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parsed(*_: object) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr("embedfleet.api.formats.bodies.Reader._read_beside", parsed)
    error = large_refusal(b'{"model":"m",' + beside + b',"input":"a"}')
    assert error.code == "fields_too_large"
    assert "1048576 bytes" in error.message


def test_ids_of_a_large_body_are_arrays_and_its_texts_utf_8() -> None:
    ids = parse_large_request(b'{"model":"m","input":[' + b"7," * 99_999 + b"8]}", LIMITS).inputs
    assert isinstance(ids[0], np.ndarray)
    assert ids[0].nbytes == 400_000
    assert ids[0][-1] == 8
    text = "a" * 99_999 + "😀"
    body = json.dumps({"model": "m", "input": [text, "b"]}, ensure_ascii=False).encode()
    packed = parse_large_request(body, LIMITS).inputs[0]
    assert isinstance(packed, PackedText)
    assert len(packed) == 100_003
    assert str(packed) == text


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":"m","input":[' + b"1," * 50_000 + b"2.5]}", "input[50000]"),
        (b'{"model":"m","input":[' + b"1," * 50_000 + b'"a"]}', "input[50000]"),
        (b'{"model":"m","input":[[1],[' + b"1," * 50_000 + b"-1]]}", "input[1][50000]"),
        (b'{"model":"m","input":["' + b"a" * 50_000 + b'","a",3]}', "input[2]"),
        (b'{"model":"m","input":["' + b"a" * 50_000 + b'","a",""]}', "input[2]"),
        (b'{"model":"m","input":{"a":"' + b"a" * 50_000 + b'"}}', "input"),
        (b'{"model":"m","input":[[1],{"a":"' + b"a" * 50_000 + b'"}]}', "input[1]"),
        (
            b'{"model":"m","input":[{"text":"a"},{"text":"' + b"a" * 50_000 + b'","b":1}]}',
            "input[1]",
        ),
        (b'{"model":"m","input":[{"text":"a"},{"b":"' + b"a" * 50_000 + b'"}]}', "input[1]"),
        (b'{"model":"m","input":[{"text":"a"},{"text":""}]}', "input[1]"),
    ],
)
def test_a_refusal_names_the_element(body: bytes, param: str) -> None:
    assert large_refusal(body).param == param


@pytest.mark.parametrize(
    ("body", "at"),
    [
        (b'{"model":"m","input":"' + b"a" * 99_978 + b'\\q"}', 100_000),
        (b'{"model":"m","input":"' + b"a" * 99_978 + b'","x":q}', 99_978 + 22 + 6),
        (b'{"model":"m","input":"' + b"a" * 99_978 + b"\xff" + b'"}', 100_000),
    ],
)
def test_malformed_json_is_reported_with_its_position_in_the_whole_body(
    body: bytes, at: int
) -> None:
    said = int(large_refusal(body).message.rpartition(" ")[2].rstrip("."))
    assert abs(said - at) <= 2  # the parser points at what follows the backslash


def test_the_work_ends_where_its_caller_says_so() -> None:
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        parse_large_request(b'{"model":"m","input":[' + b"7," * 999_999 + b"8]}", LIMITS, step)
    assert steps == 5


def test_only_bodies_that_take_long_are_read_in_pieces() -> None:
    assert is_quickly_read(b"x" * 1000)
    assert is_quickly_read(b"x" * (1 << 20))
    assert not is_quickly_read(b"x" * ((1 << 20) + 1))
    assert not is_quickly_read(b"[1]," * 10_000)
