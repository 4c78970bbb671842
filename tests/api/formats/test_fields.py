"""Fields of other APIs: what they mean here, which are refused, which are told to mean nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from embedfleet.api.formats.embedding_request import EmbeddingRequest, RequestLimits
from embedfleet.api.formats.fields import KNOWN
from embedfleet.api.formats.openai import parse_large_request, parse_request
from embedfleet.api.formats.vector_forms import KINDS, Form
from embedfleet.vocabulary import CallerError, Role, Truncation

LIMITS = RequestLimits()


def parse(limits: RequestLimits = LIMITS, /, **fields: Any) -> EmbeddingRequest:
    """Read a body at once, and in pieces, with the same result."""
    body = json.dumps({"model": "m", "input": ["a", "b"]} | fields).encode()
    found = parse_request(body, limits)
    in_pieces = parse_large_request(body, limits)
    for name in set(found.__struct_fields__) - {"inputs", "faults"}:
        assert getattr(found, name) == getattr(in_pieces, name), name
    return found


def refused(limits: RequestLimits = LIMITS, /, **fields: Any) -> CallerError:
    with pytest.raises(CallerError) as caught:
        parse(limits, **fields)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({"output_dimension": 64}, {"dimensions": 64}),
        ({"dimension": 64, "dimensions": 64}, {"dimensions": 64}),
        ({"input_type": "passage"}, {"role": Role.DOCUMENT}),
        ({"input_type": "search_query"}, {"role": Role.QUERY}),
        ({"prompt_name": "query"}, {"role": Role.QUERY}),
        ({"text_type": "document"}, {"role": Role.DOCUMENT}),
        ({"task": "retrieval.passage"}, {"role": Role.DOCUMENT}),
        ({"task_type": "RETRIEVAL_QUERY"}, {"role": Role.QUERY}),
        ({"task_type": "search_document"}, {"role": Role.DOCUMENT}),
        ({"task": "embed"}, {"role": None}),
        ({"encoding_type": "ubinary"}, {"forms": (Form("ubinary"),)}),
        ({"truncate": "END"}, {"truncate": Truncation.END}),
        ({"truncate": "start"}, {"truncate": Truncation.START}),
        ({"truncate": "NONE"}, {"truncate": Truncation.NONE}),
        ({"truncation": True}, {"truncate": Truncation.END}),
        ({"truncate_prompt_tokens": -1}, {"truncate": Truncation.END}),
        ({"truncation_direction": "Left"}, {"cut": Truncation.START, "truncate": None}),
        ({"output_dtype": "float"}, {"forms": (Form(),)}),
        (
            {"output_dtype": "int8", "encoding_format": "base64"},
            {"forms": (Form("int8", "base64"),)},
        ),
        ({"embedding_type": "base64"}, {"forms": (Form(layout="base64"),)}),
        ({"embedding_types": ["ubinary"]}, {"forms": (Form("ubinary"),)}),
        (
            {"encoding_format": "bytes_only", "embed_dtype": "float16", "endianness": "big"},
            {"forms": (Form("float16", "bytes_only", big_endian=True),)},
        ),
        ({"on_error": "item"}, {"by_item": True}),
        ({"normalize": True, "add_special_tokens": True}, {"ignored": ()}),
        ({"prompt": "", "images": []}, {"ignored": ()}),
        (
            {"embedContentConfig": {"taskType": "RETRIEVAL_QUERY", "outputDimensionality": 64}},
            {"role": Role.QUERY, "dimensions": 64},
        ),
        ({"embedContentConfig": {"documentOcr": True, "title": None}}, {"ignored": ()}),
        (dict.fromkeys(KNOWN), {"ignored": (), "forms": (Form(),)}),
    ],
)
def test_a_name_that_means_one_thing_means_it_here(
    fields: dict[str, Any], meant: dict[str, Any]
) -> None:
    found = parse(**fields)
    for name, value in meant.items():
        assert getattr(found, name) == value


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_number_can_be_asked_for(kind: str) -> None:
    assert parse(output_dtype=kind).form.kind == kind
    assert parse(embed_dtype=kind).form.kind == kind


def test_texts_come_as_objects_too_but_nothing_else_does() -> None:
    texts = [{"text": "a"}, {"text": "b", "type": "text"}]
    assert [str(each) for each in parse(input=texts).inputs] == ["a", "b"]
    for image in ({"image": "x"}, {"text": "a", "image": "x"}):
        error = refused(input=[{"text": "a"}, image])
        assert (error.param, error.code) == ("input[1]", "unsupported_parameter")
        assert "`image`" in error.message
    assert refused(input=[{"text": "a"}, {}]).code == "missing_required_parameter"
    assert refused(input=[{"text": "a"}, {"text": ""}]).param == "input[1]"


@pytest.mark.parametrize(
    ("field", "value", "right"),
    [
        ("encoding_type", "int4", '"int8"'),
        ("normalize", False, "true, or left out"),
        ("normalize", 1, "true, or left out"),
        ("embd_normalize", 1, "2, or left out"),
        ("add_special_tokens", False, "end-of-text"),
        ("prompt", "query: ", "`instruction`"),
        ("instruct", "Find it", "`instruction`"),
        ("prompt_name", "s2p_query", '"query"'),
        ("task", "classification", "`instruction`"),
        ("text_type", 1, '"document"'),
        ("input_type", "clustering", "`instruction`"),
        ("output_dimension", "64", "an integer"),
        ("output_dimension", True, "an integer"),
        ("truncate_prompt_tokens", 4, "-1"),
        ("truncation_side", "middle", '"left"'),
        ("output_dtype", "int4", '"int8"'),
        ("embedding_types", ["float", "int8"], "/v2/embed"),
        ("endianness", "middle", '"little"'),
        ("pooling", "mean", "the model's own"),
        ("late_chunking", True, "false"),
        ("return_multivector", True, "false"),
        ("embedContentConfig", [1], "an object"),
        ("on_error", "skip", '"item"'),
        ("truncate", "middle", '"end"'),
        ("messages", [{"role": "user"}], "`input`"),
    ],
)
def test_what_would_be_another_vector_is_refused_with_what_is_right(
    field: str, value: object, right: str
) -> None:
    error = refused(**{field: value})
    assert error.param == field
    assert right in error.message


def test_what_is_wrong_within_an_object_of_fields_is_named() -> None:
    error = refused(embedContentConfig={"title": "x"})
    assert (error.param, error.code) == ("embedContentConfig.title", "unsupported_parameter")
    error = refused(embedContentConfig={"outputDimensionality": -1})
    assert error.param == "embedContentConfig.outputDimensionality"


@pytest.mark.parametrize(
    ("fields", "later", "earlier"),
    [
        ({"dimensions": 64, "output_dimension": 128}, "output_dimension", "dimensions"),
        ({"input_type": "query", "prompt_name": "document"}, "prompt_name", "input_type"),
        ({"output_dtype": "int8", "embed_dtype": "float16"}, "embed_dtype", "output_dtype"),
        ({"truncate": False, "truncation": True}, "truncation", "truncate"),
        (
            {"dimensions": 64, "embedContentConfig": {"outputDimensionality": 128}},
            *("embedContentConfig", "dimensions"),
        ),
        (
            {"embedContentConfig": {"outputDimensionality": 128, "dimension": 64}},
            *("embedContentConfig.dimension", "embedContentConfig"),
        ),
    ],
)
def test_two_names_of_one_thing_must_say_the_same(
    fields: dict[str, Any], later: str, earlier: str
) -> None:
    error = refused(**fields)
    assert error.param == later
    assert f"`{later}` and `{earlier}`" in error.message


def test_unknown_names_are_listed_in_order_and_escaped() -> None:
    found = parse(zz=1, user="u", **{"a\r\nset-cookie: b": 2, "x" * 100: 3, "bar": None})
    assert found.ignored == ("zz", "?", "?", "bar")
    assert len(parse(**{f"f{number}": 1 for number in range(50)}).ignored) == 16


def test_unknown_names_are_refused_where_the_limits_say_so() -> None:
    strict = RequestLimits(unknown_fields=False)
    error = refused(strict, zz=1)
    assert (error.param, error.code) == ("zz", "unknown_parameter")
    assert parse(strict, output_dimension=64, user="u").dimensions == 64


def test_all_texts_that_are_wrong_are_named() -> None:
    error = refused(input=["", "a", "", "", "b"])
    assert (error.param, error.code) == ("input[0]", "empty_string")
    assert "3 texts are wrong; the others: `input[2]`, `input[3]`." in error.message
    assert [each.param for each in error.parts] == ["input[0]", "input[2]", "input[3]"]


def test_texts_that_are_wrong_are_left_out_where_each_is_for_itself() -> None:
    found = parse(input=["", "a", ""], on_error="item")
    assert [str(one) for one in found.inputs] == ["a"]
    assert (found.places, found.faulty, found.texts) == ((1,), (0, 2), 3)


def test_token_ids_are_refused_where_the_limits_say_so() -> None:
    texts_only = RequestLimits(input_ids="refuse")
    for given, param in (([1, 2], "input"), ([[1], [2]], "input[0]")):
        error = refused(texts_only, input=given)
        assert (error.param, error.code) == (param, "token_ids_refused")
        assert "check_embedding_ctx_length=False" in error.message
    assert parse(texts_only).inputs == ("a", "b")


def test_white_space_is_a_text_unless_the_limits_say_otherwise() -> None:
    assert parse(input=["a", " \n"]).inputs == ("a", " \n")
    error = refused(RequestLimits(blank_texts=False), input=["a", " \n"])
    assert (error.param, error.code) == ("input[1]", "blank_string")
