"""The service does what its OpenAPI document says, examples included."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate

from tests.service import Service, posted

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)
"""Schemathesis' own, but those that a schema can't promise: blank is what Unicode says, and which
token ids there are is the model's."""


@pytest.fixture(scope="module")
def root(base_url: str) -> str:
    return base_url.removesuffix("/v1")


@pytest.fixture(scope="module")
def document(root: str) -> dict[str, Any]:
    return got(f"{root}/openapi.json")


def got(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
        found: dict[str, Any] = json.load(answer)
        return found


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Give path and operation of everything that takes a body."""
    return [(path, item["post"]) for path, item in document["paths"].items() if "post" in item]


def check_schema(document: dict[str, Any], response: dict[str, Any], value: object) -> None:
    schema = response["content"]["application/json"]["schema"]
    whole = schema | {"components": document["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)


def test_the_served_document_is_valid_and_names_the_model(
    document: dict[str, Any], model: str
) -> None:
    validate(document)
    assert f'"model": "{model}"' in json.dumps(document)


def test_every_example_of_a_request_is_answered_as_described(
    document: dict[str, Any], root: str
) -> None:
    for path, operation in operations(document):
        examples = operation["requestBody"]["content"]["application/json"]["examples"]
        assert examples
        for name, example in examples.items():
            status, answer = posted(root + path, example["value"])
            assert status == 200, f"{path}, {name}: {answer}"
            check_schema(document, operation["responses"]["200"], answer)


def test_every_example_of_an_error_is_what_is_answered(
    document: dict[str, Any], root: str, model: str
) -> None:
    wrong: dict[str, dict[str, Any]] = {
        "an-empty-text": {"input": ["bread", ""]},
        "no-input": {},
        "an-unknown-format": {"input": "bread", "encoding_format": "hex"},
    }
    for path, operation in operations(document):
        refusal = operation["responses"]["400"]
        examples = refusal["content"]["application/json"]["examples"]
        assert set(examples) == set(wrong)
        for name, example in examples.items():
            check_schema(document, refusal, example["value"])
            assert posted(root + path, {"model": model} | wrong[name]) == (400, example["value"])


@pytest.mark.slow
def test_nothing_that_can_be_sent_is_answered_otherwise_than_described(
    service: Service, tmp_path: Path
) -> None:
    known = tmp_path / "openapi.json"
    known.write_text(json.dumps(for_fuzzing(got(f"{service.root}/openapi.json"))))
    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "schemathesis", "run", known),
            *("--url", service.root),
            *("--checks", ",".join(CHECKS)),
            *("--phases", "examples,coverage,fuzzing"),
            *("--max-examples", "100"),
            *("--seed", "1"),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    tested = re.search(r"Tested: (\d+)", done.stdout)
    assert tested is not None
    assert int(tested[1]) == len(json.loads(known.read_text())["paths"])


def for_fuzzing(document: dict[str, Any]) -> dict[str, Any]:
    """Change what would keep a fuzzer from coming far: any name but one is answered 404, and a
    deadline of a millisecond rightly 504."""
    shown = document["paths"]["/v1/models/{model}"]["get"]["parameters"][0]
    for name in ("EmbeddingRequest", "TokenizeRequest"):
        fields = document["components"]["schemas"][name]["properties"]
        fields["model"] = {"const": shown["example"]}
    vectors = document["paths"]["/v1/embeddings"]["post"]
    vectors["parameters"] = [
        one for one in vectors["parameters"] if one["name"] != "x-request-deadline-ms"
    ]
    return document
