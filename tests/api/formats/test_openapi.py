"""The OpenAPI document is valid, and says what the parser does."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate

from embedfleet.api.formats.error_codes import CODES, as_table
from embedfleet.api.formats.large_bodies import LARGEST_ID
from embedfleet.api.formats.openai import LEAST_DIMENSIONS, RequestLimits, parse_request
from embedfleet.api.formats.openapi import EXAMPLES, EXAMPLES_OF_VECTORS, WRONG, openapi_document
from embedfleet.vocabulary import CallerError

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "src" / "embedfleet"
LIMITS = RequestLimits(max_texts=7, max_instruction_characters=9)

NOT_FOR_CALLERS = {
    "file_changed": "a replica's files, for its gateway",
    "loading": "a replica that starts, seen by its gateway alone",
    "no_cache": "an operator's routes",
    "unfit_replica": "a replica that may not join its pool",
    "unknown_file": "a replica's files, for its gateway",
}
"""Codes that never leave the fleet."""


def document(limits: RequestLimits = LIMITS) -> dict[str, Any]:
    return openapi_document(limits, max_body_bytes=1234, models=["m"], version="1.2.3")


def schema_of(name: str, limits: RequestLimits = LIMITS) -> jsonschema.Draft202012Validator:
    found = document(limits)
    schema = {"$ref": f"#/components/schemas/{name}", "components": found["components"]}
    return jsonschema.Draft202012Validator(schema)


def codes_in(tree: ast.Module) -> Iterator[str]:
    """What is given to `code=`, or set as the `code` of a class or in a variable."""
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg="code", value=ast.Constant(value=str(code))):
                yield code
            case ast.Assign(targets=[ast.Name(id="code")], value=value):
                either = (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,)
                for each in either:
                    if isinstance(each, ast.Constant) and isinstance(each.value, str):
                        yield each.value
            case ast.AnnAssign(target=ast.Name(id="code"), value=ast.Constant(value=str(code))):
                yield code


def test_it_is_a_valid_document_of_openapi_3_1() -> None:
    found = document()
    validate(found)
    assert found["openapi"] == "3.1.0"
    assert found["info"]["version"] == "1.2.3"


def test_limits_in_it_are_those_of_the_parser() -> None:
    found = json.dumps(document())
    for number in (LIMITS.max_texts, LIMITS.max_instruction_characters, LARGEST_ID, 1234):
        assert str(number) in found
    fields = document()["components"]["schemas"]["EmbeddingRequest"]["properties"]
    assert fields["dimensions"]["minimum"] == LEAST_DIMENSIONS


@pytest.mark.parametrize("given", [*EXAMPLES.values(), *EXAMPLES_OF_VECTORS.values()])
def test_examples_are_taken_by_the_parser_and_by_the_schema(given: dict[str, Any]) -> None:
    body = {"model": "m"} | given
    parse_request(json.dumps(body).encode(), RequestLimits())
    schema_of("EmbeddingRequest", RequestLimits()).validate(body)


@pytest.mark.parametrize("given", WRONG.values())
def test_wrong_examples_are_refused_by_the_parser_and_by_the_schema(given: dict[str, Any]) -> None:
    body = {"model": "m"} | given
    with pytest.raises(CallerError):
        parse_request(json.dumps(body).encode(), RequestLimits())
    with pytest.raises(jsonschema.ValidationError):
        schema_of("EmbeddingRequest").validate(body)


@pytest.mark.parametrize(
    "given",
    [
        {"input": "a", "dimensions": None, "encoding_format": None, "truncate": None, "user": None},
        {"input": "a", "zz_unknown": 1},
        {"input": ["a"] * 7},
        {"input": [{"text": "a"}, {"text": "b", "type": "text"}]},
        {"input": [LARGEST_ID]},
        {"input": "a", "instruction": "x" * 9},
    ],
)
def test_schema_and_parser_take_the_same(given: dict[str, Any]) -> None:
    body = {"model": "m"} | given
    parse_request(json.dumps(body).encode(), LIMITS)
    schema_of("EmbeddingRequest").validate(body)


@pytest.mark.parametrize(
    "given",
    [
        {"input": ["a"] * 8},
        {"input": [LARGEST_ID + 1]},
        {"input": [-1]},
        {"input": []},
        {"input": [[]]},
        {"input": ["a", 1]},
        {"input": ["a", {"text": "a"}]},
        {"input": [{"text": ""}]},
        {"input": [{"image": "a"}]},
        {"input": [{"text": "a", "image": "a"}]},
        {"input": [{"text": "a", "type": "image"}]},
        {"input": True},
        {"input": "a", "instruction": "x" * 10},
        {"input": "a", "instruction": ""},
        {"input": "a", "input_type": "clustering"},
        {"input": "a", "truncate": 1},
        {"input": "a", "user": 1},
        {"input": "a", "dimensions": 0},
        {"input": "a", "dimensions": 64.5},
        {"input": "a", "model": ""},
    ],
)
def test_schema_and_parser_refuse_the_same(given: dict[str, Any]) -> None:
    body = {"model": "m"} | given
    with pytest.raises(CallerError):
        parse_request(json.dumps(body).encode(), LIMITS)
    with pytest.raises(jsonschema.ValidationError):
        schema_of("EmbeddingRequest").validate(body)


def test_every_code_of_the_source_has_its_meaning_written_down() -> None:
    used = {
        code
        for path in SOURCE.rglob("*.py")
        if "conformance" not in path.parts
        for code in codes_in(ast.parse(path.read_text(encoding="utf-8")))
    }
    known = {each.code for each in CODES}
    assert used - known - set(NOT_FOR_CALLERS) == set(), "add them to api/formats/error_codes.py"


def test_the_documentation_has_the_table_of_codes() -> None:
    page = (ROOT / "docs" / "openai-api.md").read_text(encoding="utf-8")
    assert as_table() in page, f"the table of errors must be\n{as_table()}"
