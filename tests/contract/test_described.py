"""The service does what its OpenAPI document says, examples included."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate

from embedfleet.api.batches.openapi import described
from embedfleet.api.batches.routes import BatchRoutes
from embedfleet.api.formats.embedding_request import RequestLimits
from embedfleet.api.formats.openapi import openapi_document
from embedfleet.api.routes import contract_routes
from tests.reranker_checkpoints import write_served_reranker
from tests.service import Service, posted, started

JSON = "application/json"

NAMES = ("model", "deployment", "engine")
"""Pieces of paths that name a model."""

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
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310
        found: dict[str, Any] = json.load(answer)
        return found


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Give path and operation of everything that takes JSON, with the names that paths hold."""
    found = []
    for path, item in document["paths"].items():
        operation = item.get("post", {})
        if JSON in operation.get("requestBody", {"content": ()})["content"]:
            for one in operation.get("parameters", []):
                if one["in"] == "path":
                    path = path.replace(f"{{{one['name']}}}", one["example"])  # noqa: PLW2901
            found.append((path, operation))
    return found


class Anything:
    """Has whatever is asked of it: routes are looked at, and not called."""

    def __getattr__(self, name: str) -> Anything:
        return self

    def __call__(self, *_: object) -> Anything:
        return self


def check_schema(document: dict[str, Any], response: dict[str, Any], value: object) -> None:
    schema = response["content"]["application/json"]["schema"]
    whole = schema | {"components": document["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)


def test_the_served_document_is_valid_and_names_the_model(
    document: dict[str, Any], model: str
) -> None:
    validate(document)
    assert f'"model": "{model}"' in json.dumps(document)


def test_every_contract_is_described(document: dict[str, Any]) -> None:
    answers: Any = Anything()
    routes, prefixes = contract_routes(answers, lambda route: route, lambda route, _: route)
    paths = set(document["paths"])
    left = {path for _, path in routes} - paths - {"/models", "/openapi.json"}
    assert not left
    for _, prefix in prefixes:
        assert any(path.startswith(prefix) for path in paths), prefix


def test_batches_are_described_where_they_are_answered() -> None:
    more = described(["/v1/embeddings", "/v1/rerank"])
    document = openapi_document(
        RequestLimits(), max_body_bytes=1, models=["m"], version="1", more=[more]
    )
    validate(document)
    answers: Any = Anything()
    for _, path in [*BatchRoutes.below(answers), *BatchRoutes.exact(answers)]:
        assert any(known.startswith(path) for known in document["paths"]), path
    assert (
        "/v1/files"
        not in openapi_document(RequestLimits(), max_body_bytes=1, models=["m"], version="1")[
            "paths"
        ]
    )


def test_every_example_of_a_request_is_answered_as_described(
    document: dict[str, Any], root: str
) -> None:
    tried: set[str] = set()
    for path, operation in operations(document):
        examples = operation["requestBody"]["content"][JSON]["examples"]
        for name, example in examples.items():
            status, answer = posted(root + path, example["value"])
            assert status == 200, f"{path}, {name}: {answer}"
            check_schema(document, operation["responses"]["200"], answer)
            tried.add(path)
    assert len(tried) >= 10


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
        examples = refusal["content"][JSON].get("examples", {})
        assert set(examples) in ({*wrong}, set())
        for name, example in examples.items():
            check_schema(document, refusal, example["value"])
            assert posted(root + path, {"model": model} | wrong[name]) == (400, example["value"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that answers every route there is."""
    folder = tmp_path_factory.mktemp("whole")
    reranker = write_served_reranker(folder / "small-reranker")
    settings = f"[batches]\ndirectory = {json.dumps(str(folder / 'shelf'))}\n"
    command = ["serve", "builtin", str(reranker), "--replicas", "1"]
    with started("", log=folder / "log", command=command, settings=settings) as running:
        yield running


@pytest.mark.slow
def test_nothing_that_can_be_sent_is_answered_otherwise_than_described(
    whole: Service, tmp_path: Path
) -> None:
    service, known = whole, tmp_path / "openapi.json"
    document = for_fuzzing(got(f"{service.root}/openapi.json"))
    known.write_text(json.dumps(document))
    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "schemathesis", "run", known),
            *("--url", service.root),
            *("--checks", ",".join(CHECKS)),
            *("--phases", "examples,coverage,fuzzing"),
            *("--max-examples", "25"),
            *("--seed", "1"),
            *("--request-timeout", "120"),  # seconds
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    tested = re.search(r"Tested: (\d+)", done.stdout)
    assert tested is not None
    assert int(tested[1]) == sum(map(len, document["paths"].values()))


def for_fuzzing(document: dict[str, Any]) -> dict[str, Any]:
    """Change what would keep a fuzzer from coming far: any name but one is answered 404, and a
    deadline of a millisecond rightly 504."""
    shown = document["paths"]["/v1/models/{model}"]["get"]["parameters"][0]
    for name, schema in document["components"]["schemas"].items():
        if "model" in (fields := schema.get("properties", {})) and "Request" in name:
            ranks = "Rerank" in name or "Score" in name
            right = ["small-reranker" if ranks else shown["example"]]
            left_out = [] if "model" in schema["required"] else [None]
            # Where the path names the model, the body may say anything.
            fields["model"] = {} if name == "DeployedRequest" else {"enum": right + left_out}
    for item in document["paths"].values():
        for operation in item.values():
            operation["parameters"] = [
                one | ({"schema": {"const": one["example"]}} if one["name"] in NAMES else {})
                for one in operation.get("parameters", ())
                if one["name"] != "x-request-deadline-ms"
            ]
    return document
