"""The OpenAPI 3.1 document of the public API.

Limits are those of this service, error codes come from `openai_errors.py`, and examples of errors
are what the parser reports for the invalid requests listed here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from embedfleet.api.formats.embedding_request import RequestLimits
from embedfleet.api.formats.error_codes import codes_of, statuses
from embedfleet.api.formats.openai_request import parse_request
from embedfleet.api.formats.openapi_schemas import Schema, reference, schemas
from embedfleet.transport.errors import render_error
from embedfleet.vocabulary import CallerError, Lane

JSON = "application/json"
BYTES = "application/octet-stream"

ONLY_OF_BODIES = {413}
ONLY_OF_WORK = {429, 500, 502, 504}
"""Statuses that come only where a body is read, or vectors are computed."""

EXAMPLES: dict[str, dict[str, Any]] = {
    "one text": {"input": "How are you today?"},
    "several texts": {"input": ["长城有多长?", "The Great Wall is 21,196 km long."]},
    "token ids": {"input": [5, 6, 7]},
    "several texts as token ids": {"input": [[5, 6, 7], [8]]},
    "a query": {"input": "How long is the Great Wall?", "input_type": "query"},
    "a query for a task": {
        "input": "How long is the Great Wall?",
        "instruction": "Given a question, find the passage that answers it",
    },
    "over-long texts are cut": {"input": "to and fro " * 20, "truncate": True},
}
"""Requests for vectors and for tokens, without the model."""

EXAMPLES_OF_VECTORS: dict[str, dict[str, Any]] = {
    "short vectors in base64": {"input": "bread", "dimensions": 32, "encoding_format": "base64"},
    "as other clients send it": {"input": "bread", "user": "someone", "encoding_format": "float"},
}

WRONG: dict[str, dict[str, Any]] = {
    "an empty text": {"input": ["bread", ""]},
    "no input": {},
    "an unknown format": {"input": "bread", "encoding_format": "hex"},
}
"""Requests whose refusal is shown, without the model."""


def openapi_document(
    limits: RequestLimits, *, max_body_bytes: int, models: Sequence[str], version: str
) -> Schema:
    """Describe a service; `models` are the names by which callers may ask, the usual one first."""
    model = models[0] if models else "embeddings"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "embedfleet",
            "version": version,
            "summary": "Text embeddings by OpenAI's API.",
            "description": f"At most {limits.max_texts} texts and {max_body_bytes} bytes a "
            "request. Fields that are not known are told in `x-embedfleet-ignored`, and null is "
            "like no field.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"key": []}, {}],
        "paths": _paths(limits, model),
        "components": {
            "schemas": schemas(limits),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, where the service asks for one.",
                }
            },
        },
    }


def _paths(limits: RequestLimits, model: str) -> Schema:
    vectors = _operation(
        "createEmbedding",
        "Vectors of texts",
        "EmbeddingList",
        headers=True,
        work=True,
        body=_body("EmbeddingRequest", EXAMPLES | EXAMPLES_OF_VECTORS, model),
        errors=_wrong_examples(limits, model),
    )
    vectors["responses"]["200"]["content"][BYTES] = {"schema": {}}
    tokens = _operation(
        "tokenize",
        "Token ids of texts, and their number: what vectors would be computed from and "
        "`usage` would say",
        "TokenList",
        body=_body("TokenizeRequest", EXAMPLES, model),
        errors=_wrong_examples(limits, model),
    )
    shown = _operation("retrieveModel", "One model", "Model")
    shown["parameters"] = [
        {
            "name": "model",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
            "example": model,
        }
    ]
    by_tag: dict[str, Schema] = {
        "Embeddings": {"/v1/embeddings": {"post": vectors}},
        "Tokens": {
            "/v1/tokenize": {"post": tokens},
            "/tokenize": {"post": tokens | {"operationId": "tokenizeToo"}},
        },
        "Models": {
            "/v1/models": {"get": _operation("listModels", "The models served", "ModelList")},
            "/v1/models/{model}": {"get": shown},
        },
        "Health": {
            "/health": {"get": _operation("health", "As /health/ready", "Health")},
            "/health/live": {"get": _operation("live", "Whether the process answers", "Health")},
            "/health/ready": {"get": _operation("ready", "Whether there is a replica", "Health")},
        },
    }
    return {
        path: {method: {"tags": [tag], **operation} for method, operation in methods.items()}
        for tag, paths in by_tag.items()
        for path, methods in paths.items()
    }


def _operation(
    name: str,
    summary: str,
    answer: str,
    *,
    headers: bool = False,
    work: bool = False,
    body: Schema | None = None,
    errors: Schema | None = None,
) -> Schema:
    left_out = (set() if work else ONLY_OF_WORK - {429}) | (set() if body else ONLY_OF_BODIES)
    responses: Schema = {"200": _answer(answer, "What was asked for.", _told() if work else {})}
    for status in statuses():
        if status not in left_out and status != 405:
            examples = errors if status == 400 else None
            responses[str(status)] = _refusal(status, examples)
    operation: Schema = {"operationId": name, "summary": summary, "responses": responses}
    if headers:
        operation["parameters"] = _headers()
    if body:
        operation["requestBody"] = body
    return operation


def _body(schema: str, examples: dict[str, dict[str, Any]], model: str) -> Schema:
    shown = {name: {"value": {"model": model} | one} for name, one in examples.items()}
    content = {"schema": reference(schema), "examples": _keyed(shown)}
    return {"required": True, "content": {JSON: content}}


def _keyed(examples: dict[str, Schema]) -> Schema:
    """Name examples as OpenAPI wants keys, and keep the words as summaries."""
    return {name.replace(" ", "-"): {"summary": name} | one for name, one in examples.items()}


def _answer(schema: str, description: str, headers: Schema) -> Schema:
    name = _header("string", "The request's name, for asking about it; the caller's own if sent.")
    return {
        "description": description,
        "headers": {"x-request-id": name} | headers,
        "content": {JSON: {"schema": reference(schema)}},
    }


def _refusal(status: int, examples: Schema | None) -> Schema:
    found = "; ".join(f"`{each.code}`: {each.meaning}" for each in codes_of(status))
    headers = {
        429: {"retry-after": _header("integer", "Seconds after which to try again.")},
        503: {"retry-after": _header("integer", "Seconds after which to try again.")},
        401: {"www-authenticate": _header("string", "How to send a key.")},
    }
    refusal = _answer("Error", found, headers.get(status, {}))
    if examples:
        refusal["content"][JSON]["examples"] = examples
    return refusal


def _wrong_examples(limits: RequestLimits, model: str) -> Schema:
    """Let the parser refuse the wrong requests, and show what it says."""
    told: dict[str, Schema] = {}
    for name, wrong in WRONG.items():
        try:
            parse_request(json.dumps({"model": model} | wrong).encode(), limits)
        except CallerError as error:
            told[name] = {"value": json.loads(render_error(error))}
    return _keyed(told)


def _headers() -> list[Schema]:
    return [
        {
            "name": "x-embedfleet-lane",
            "in": "header",
            "description": "`bulk` for traffic that can wait, so that it never delays other.",
            "schema": {"type": "string", "enum": [lane.value for lane in Lane]},
        },
        {
            "name": "x-request-deadline-ms",
            "in": "header",
            "description": "Milliseconds after which nobody waits for the answer any more.",
            "schema": {"type": "integer", "minimum": 1},
        },
        {
            "name": "cache-control",
            "in": "header",
            "description": "`no-cache`: compute anew; `no-store`: keep nothing of this request. "
            "Anything else is ignored.",
            "schema": {"type": "string", "examples": ["no-cache", "no-store"]},
        },
    ]


def _told() -> Schema:
    return {
        "server-timing": _header("string", "Milliseconds of waiting and of computing."),
        "x-embedfleet-overhead-ms": _header("number", "Milliseconds of everything else."),
        "x-embedfleet-cache": _header("string", "How many texts were known: `hit=2; miss=1`."),
        "x-embedfleet-space": _header("string", "Which space the vectors are in."),
        "x-embedfleet-ignored": _header("string", "Fields that mean nothing here."),
        "x-embedfleet-truncated": _header("string", "Places of the texts that were cut."),
        "x-embedfleet-errors": _header("integer", "Texts with an error in their place."),
    }


def _header(kind: str, description: str) -> Schema:
    return {"description": description, "schema": {"type": kind}}
