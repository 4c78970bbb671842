"""Which embeddings requests are read, and how the others are refused."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import structs

from embedfleet.api.formats.openai import (
    EmbeddingRequest,
    RequestLimits,
    check_dimensions,
    parse_request,
)
from embedfleet.api.formats.vector_forms import Form
from embedfleet.vocabulary import CallerError, Role, Truncation

LIMITS = RequestLimits(max_texts=4, max_instruction_characters=100)


def parse(**fields: Any) -> EmbeddingRequest:
    return parse_request(json.dumps({"model": "m", "input": "a"} | fields).encode(), LIMITS)


def refusal(body: bytes) -> CallerError:
    with pytest.raises(CallerError) as caught:
        parse_request(body, LIMITS)
    assert caught.value.status == 400
    assert caught.value.kind == "invalid_request_error"
    assert caught.value.message.endswith((".", ". Leave blank texts out."))
    return caught.value


def refused(**fields: Any) -> CallerError:
    return refusal(json.dumps({"model": "m", "input": "a"} | fields).encode())


class TestForms:
    def test_a_string_is_one_text(self) -> None:
        assert parse(input="the sea").inputs == ("the sea",)

    def test_a_list_of_strings_keeps_its_order(self) -> None:
        assert parse(input=["c", "a", "b", "a"]).inputs == ("c", "a", "b", "a")

    def test_a_list_of_ids_is_one_text(self) -> None:
        assert parse(input=[3, 1, 2]).inputs == ([3, 1, 2],)

    def test_a_list_of_lists_of_ids_is_several_texts(self) -> None:
        assert parse(input=[[3, 1], [2]]).inputs == ([3, 1], [2])

    def test_ids_go_up_to_32_bits(self) -> None:
        assert parse(input=[0, 2**31 - 1]).inputs == ([0, 2**31 - 1],)

    def test_a_list_of_ids_may_be_longer_than_the_number_of_texts(self) -> None:
        assert parse(input=[1] * 100).inputs == ([1] * 100,)

    def test_characters_outside_the_basic_plane_and_zeros_come_through(self) -> None:
        body = b'{"model":"m","input":["\\ud83d\\ude00","\xf0\x9f\x98\x80","a\\u0000b"]}'
        assert parse_request(body, LIMITS).inputs == ("😀", "😀", "a\0b")


class TestFields:
    def test_absent_fields_have_openai_s_defaults(self) -> None:
        assert parse() == EmbeddingRequest(
            model="m",
            inputs=("a",),
            dimensions=None,
            forms=(Form("float32", "float"),),
            role=None,
            instruction=None,
            truncate=None,
            user=None,
        )

    def test_null_means_absent(self) -> None:
        optional = ["dimensions", "encoding_format", "user", "input_type", "instruction"]
        assert parse(**dict.fromkeys([*optional, "truncate"])) == parse()

    def test_all_of_them_are_read(self) -> None:
        request = parse(
            dimensions=64,
            encoding_format="base64",
            user="u",
            input_type="query",
            instruction="Represent this document for retrieval:",
            truncate=True,
        )
        assert request == EmbeddingRequest(
            model="m",
            inputs=("a",),
            dimensions=64,
            forms=(Form("float32", "base64"),),
            role=Role.QUERY,
            instruction="Represent this document for retrieval:",
            truncate=Truncation.END,
            user="u",
        )

    def test_unknown_ones_are_ignored_whatever_is_in_them(self) -> None:
        body = b'{"model":"m","input":"a","zz":{"n":1e400,"i":' + b"9" * 6000 + b"}}"
        assert parse_request(body, LIMITS) == structs.replace(parse(), ignored=("zz",))

    def test_the_last_of_two_counts(self) -> None:
        assert parse_request(b'{"model":"x","input":"a","model":"m"}', LIMITS) == parse()


ARRAY = "a string, a list of strings, a list of token ids, or a list of lists of token ids"


class TestRefusedInput:
    @pytest.mark.parametrize(
        ("given", "param", "code"),
        [
            ("", "input", "empty_string"),
            ([], "input", "empty_array"),
            ([[]], "input[0]", "empty_array"),
            ([[1], []], "input[1]", "empty_array"),
            (["a", ""], "input[1]", "empty_string"),
            (None, "input", "invalid_type"),
            (1, "input", "invalid_type"),
            (True, "input", "invalid_type"),
            ({"text": "a"}, "input", "invalid_type"),
            ([None], "input[0]", "invalid_type"),
            (["a", {"text": "b"}], "input[1]", "invalid_type"),
            (["a", None], "input[1]", "invalid_type"),
            (["a", 1], "input[1]", "invalid_type"),
            ([1, "a"], "input[1]", "invalid_type"),
            (["a", [1]], "input[1]", "invalid_type"),
            ([[1], 1], "input[1]", "invalid_type"),
            ([[1], "a"], "input[1]", "invalid_type"),
            ([1.0], "input[0]", "invalid_type"),
            ([1, 2.5], "input[1]", "invalid_type"),
            ([True], "input[0]", "invalid_type"),
            ([1, -1], "input[1]", "invalid_value"),
            ([2**31], "input[0]", "invalid_value"),
            ([[1], [1, 10**30]], "input[1][1]", "invalid_value"),
            ([[1, 1.0]], "input[0][1]", "invalid_type"),
            ([[False]], "input[0][0]", "invalid_type"),
            ([["a"]], "input[0][0]", "invalid_type"),
            ([[[1]]], "input[0][0]", "invalid_type"),
            (["a"] * 5, "input", "array_above_max_length"),
            ([[1]] * 5, "input", "array_above_max_length"),
        ],
    )
    def test_is_named_by_its_place(self, given: object, param: str, code: str) -> None:
        error = refused(input=given)
        assert (error.param, error.code) == (param, code)
        assert f"`{param}`" in error.message

    def test_the_message_says_what_would_be_right(self) -> None:
        assert refused(input=1).message == f"`input` must be {ARRAY}; got an integer."
        assert refused(input=["a"] * 5).message == (
            "`input` has 5 texts; at most 4 may be sent at once."
        )
        assert refused(input=[[1], [-2]]).message == (
            "`input[1][0]` must be a token id, an integer from 0 to 2147483647."
        )
        assert refused(input=["a", 1]).message == (
            f"`input[1]` is a token id and `input[0]` a string; `input` must be {ARRAY}."
        )


class TestRefusedFields:
    @pytest.mark.parametrize(
        ("field", "value", "code"),
        [
            ("model", None, "invalid_type"),
            ("model", 1, "invalid_type"),
            ("model", "", "empty_string"),
            ("dimensions", "64", "invalid_type"),
            ("dimensions", True, "invalid_type"),
            ("dimensions", 0, "integer_below_min_value"),
            ("dimensions", -64, "integer_below_min_value"),
            ("dimensions", 10**40, "integer_above_max_value"),
            ("encoding_format", "hex", "invalid_value"),
            ("encoding_format", 1, "invalid_type"),
            ("user", 1, "invalid_type"),
            ("input_type", "clustering", "invalid_value"),
            ("instruction", 1, "invalid_type"),
            ("instruction", " ", "empty_string"),
            ("instruction", "x" * 101, "string_above_max_length"),
            ("truncate", 1, "invalid_type"),
            ("truncate", "true", "invalid_value"),
        ],
    )
    def test_are_named(self, field: str, value: object, code: str) -> None:
        error = refused(**{field: value})
        assert (error.param, error.code) == (field, code)
        assert f"`{field}`" in error.message

    @pytest.mark.parametrize("field", ["model", "input"])
    def test_required_ones_must_be_there(self, field: str) -> None:
        body = json.dumps({key: "a" for key in ("model", "input") if key != field}).encode()
        error = refusal(body)
        assert (error.param, error.code) == (field, "missing_required_parameter")

    def test_the_message_says_what_would_be_right(self) -> None:
        assert refused(encoding_format="hex").message == (
            '`encoding_format` must be one of "float", "base64", "bytes" and "bytes_only"; '
            "got 'hex'."
        )

    def test_a_huge_value_is_not_repeated_in_full(self) -> None:
        assert len(refused(encoding_format="h" * 100_000).message) < 200


class TestRefusedBodies:
    @pytest.mark.parametrize(
        ("body", "code", "complaint"),
        [
            (b"", "invalid_json", "The body is empty"),
            (b"{", "invalid_json", "ends too early, at byte 1"),
            (b'{"model":"m","input":"a"} x', "invalid_json", "at byte 27"),
            (b'{"model":"m",}', "invalid_json", "trailing comma in object, at byte 13"),
            (b'{"model":"m","input":NaN}', "invalid_json", "at byte 21"),
            (b"\xef\xbb\xbfx", "invalid_json", "at byte 0"),
            (b"model=m&input=a", "invalid_json", "at byte 0"),
            (b"[]", "invalid_type", "must be a JSON object; got a list"),
            (b'"a"', "invalid_type", "must be a JSON object; got a string"),
            (b"null", "invalid_type", "must be a JSON object; got null"),
            (b'{"model":"m","input":"ab\xff"}', "invalid_utf8", "at byte 24"),
            (b'{"model":"m","input":"\xed\xa0\x80"}', "invalid_utf8", "at byte 22"),
            (b'{"model":"m","input":"\\ud800"}', "invalid_unicode", "surrogate pair, at byte 22"),
            (b'{"model":"m","input":"\\udc00a"}', "invalid_unicode", "surrogate pair"),
            (b'{"model":"m","input":"\\ud800\\u0041"}', "invalid_unicode", "surrogate pair"),
        ],
    )
    def test_errors_say_what_is_wrong_and_where(
        self, body: bytes, code: str, complaint: str
    ) -> None:
        error = refusal(body)
        assert error.code == code
        assert error.param is None
        assert complaint in error.message

    @pytest.mark.parametrize("opening", [b"[", b'{"a":'])
    def test_deep_nesting_is_an_error_like_others(self, opening: bytes) -> None:
        deep = opening * 100_000
        assert refusal(deep).code in {"invalid_json", "invalid_type"}
        assert refusal(b'{"input":' + deep).code in {"invalid_json", "invalid_type"}
        assert refusal(b'{"unknown":' + deep).message == "The body is nested too deeply."


class TestDimensions:
    @pytest.mark.parametrize("wanted", [None, 32, 33, 500, 1024])
    def test_from_32_to_the_width_are_right(self, wanted: int | None) -> None:
        check_dimensions(parse(dimensions=wanted), 1024)

    @pytest.mark.parametrize(
        ("wanted", "code"),
        [
            (31, "integer_below_min_value"),
            (1, "integer_below_min_value"),
            (1025, "integer_above_max_value"),
            (2**31 - 1, "integer_above_max_value"),
        ],
    )
    def test_other_dimensions_are_refused_with_the_bounds(self, wanted: int, code: str) -> None:
        with pytest.raises(CallerError, match="must be from 32 to 1024") as caught:
            check_dimensions(parse(dimensions=wanted), 1024)
        assert (caught.value.param, caught.value.code) == ("dimensions", code)

    @pytest.mark.parametrize("name", ["dimensions", "output_dimension", "dims"])
    @given(value=st.integers(-(2**70), 2**70) | st.floats(-(2.0**70), 2.0**70))
    def test_any_number_is_read_as_json_means_it(self, name: str, value: float) -> None:
        """64.0 is an integer in JSON; what is none, or too small or large, is told as that."""
        if value != int(value):
            assert refused(**{name: value}).code == "invalid_type"
        elif value < 1:
            assert refused(**{name: value}).code == "integer_below_min_value"
        elif value > 2**31 - 1:
            assert refused(**{name: value}).code == "integer_above_max_value"
        else:
            assert parse(**{name: value}).dimensions == int(value)

    def test_of_a_narrow_model_are_its_width(self) -> None:
        check_dimensions(parse(dimensions=16), 16)


texts = st.text(min_size=1, max_size=20).filter(lambda text: not text.isspace())
ids = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20)
requests = st.fixed_dictionaries(
    {
        "model": st.text(min_size=1, max_size=20),
        "input": texts
        | ids
        | st.lists(texts, min_size=1, max_size=4)
        | st.lists(ids, min_size=1, max_size=4),
    },
    optional={
        "dimensions": st.none() | st.integers(32, 4096),
        "encoding_format": st.sampled_from([None, "float", "base64"]),
        "user": st.none() | st.text(max_size=5),
        "input_type": st.sampled_from([None, "query", "document"]),
        "instruction": st.none() | texts,
        "truncate": st.none() | st.booleans(),
    },
)


@settings(deadline=None)
@given(requests, st.booleans())
def test_what_a_client_writes_is_what_is_read(fields: dict[str, Any], ascii_only: bool) -> None:
    body = json.dumps(fields, ensure_ascii=ascii_only).encode()
    request = parse_request(body, LIMITS)
    truncate = {None: None, True: Truncation.END, False: Truncation.NONE}[fields.get("truncate")]
    one_text = isinstance(fields["input"], str) or isinstance(fields["input"][0], int)
    assert request == EmbeddingRequest(
        model=fields["model"],
        inputs=(fields["input"],) if one_text else tuple(fields["input"]),
        dimensions=fields.get("dimensions"),
        forms=(Form("float32", fields.get("encoding_format") or "float"),),
        role=Role(fields["input_type"]) if fields.get("input_type") else None,
        instruction=fields.get("instruction"),
        truncate=truncate,
        user=fields.get("user"),
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)
field_names = st.sampled_from(
    ["model", "input", "dimensions", "encoding_format", "user", "input_type", "instruction"]
)


def survives(body: bytes) -> None:
    with suppress(CallerError):
        assert 1 <= len(parse_request(body, LIMITS).inputs) <= LIMITS.max_texts


@settings(deadline=None)
@given(st.binary(max_size=200))
@example(b"\\ud800")
@example(b'{"model":"m","input":"\\ud800')
def test_no_bytes_raise_anything_but_our_errors(body: bytes) -> None:
    survives(body)


@settings(deadline=None)
@given(st.dictionaries(field_names | st.text(max_size=5), json_values, max_size=6))
def test_no_json_raises_anything_but_our_errors(fields: dict[str, Any]) -> None:
    survives(json.dumps({"model": "m", "input": "a"} | fields).encode())


@settings(deadline=None)
@given(requests, st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_no_damaged_request_raises_anything_but_our_errors(
    fields: dict[str, Any], at: int, damage: bytes
) -> None:
    body = json.dumps(fields).encode()
    survives(body[:at] + damage + body[at + 1 :])
