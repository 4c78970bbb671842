"""The OpenAPI 3.1 document of the public API.

Limits are those of this service, error codes come from `error_codes.py`, and examples of errors
are what the parser reports for the invalid requests listed here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from embedfleet.api.formats.embedding_request import RequestLimits
from embedfleet.api.formats.openai_request import parse_request
from embedfleet.api.formats.openapi_contracts import (
    contract_paths,
    contract_schemas,
    deployed_request,
)
from embedfleet.api.formats.openapi_parts import BYTES, body_of, in_path, keyed, operation
from embedfleet.api.formats.openapi_schemas import Schema, embedding_request, schemas
from embedfleet.transport.errors import render_error
from embedfleet.vocabulary import CallerError

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

TOKENS_OF_TEI: dict[str, dict[str, Any]] = {"as TEI has it": {"inputs": "How are you today?"}}

WRONG: dict[str, dict[str, Any]] = {
    "an empty text": {"input": ["bread", ""]},
    "no input": {},
    "an unknown format": {"input": "bread", "encoding_format": "hex"},
}
"""Requests whose refusal is shown, without the model."""


@dataclass(frozen=True, slots=True)
class More:
    """What a service answers beyond vectors and scores."""

    tag: str
    paths: dict[str, Schema]
    schemas: dict[str, Schema]


def openapi_document(
    limits: RequestLimits,
    *,
    max_body_bytes: int,
    models: Sequence[str],
    version: str,
    rerankers: Sequence[str] = (),
    more: Sequence[More] = (),
) -> Schema:
    """Describe a service; `models` are the names by which callers may ask for vectors, and
    `rerankers` for scores, the usual one first.
    """
    model = models[0] if models else "embeddings"
    request = embedding_request(limits)
    known = schemas(limits) | contract_schemas(limits)
    known["DeployedRequest"] = deployed_request(request)
    for each in more:
        known |= each.schemas
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "embedfleet",
            "version": version,
            "summary": "Text embeddings and reranking through the APIs of OpenAI and others.",
            "description": f"At most {limits.max_texts} texts and {max_body_bytes} bytes a "
            "request. Unknown fields are ignored and named in the header `x-embedfleet-ignored`; "
            "a field that is null counts as left out.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"key": []}, {"apiKey": []}, {}],
        "paths": _paths(limits, model, rerankers[0] if rerankers else None, more),
        "components": {
            "schemas": known,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, where the service requires one.",
                },
                "apiKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "api-key",
                    "description": "The same key, as Azure's clients send it.",
                },
            },
        },
    }


def _paths(limits: RequestLimits, model: str, reranker: str | None, more: Sequence[More]) -> Schema:
    vectors = operation(
        "createEmbedding",
        "Create embeddings",
        "EmbeddingList",
        work=True,
        body=body_of("EmbeddingRequest", EXAMPLES | EXAMPLES_OF_VECTORS, model),
        errors=_wrong_examples(limits, model),
    )
    vectors["responses"]["200"]["content"][BYTES] = {"schema": {}}
    tokens = operation(
        "tokenize",
        "Tokenize texts: the token ids that embeddings would be computed from, and their number",
        "AnyTokens",
        body=body_of("AnyTokensRequest", EXAMPLES | TOKENS_OF_TEI, model),
        errors=_wrong_examples(limits, model),
        refusal="AnyTokensError",
    )
    shown = operation(
        "retrieveModel", "Retrieve a model", "Model", parameters=[in_path("model", model)]
    )
    by_tag: dict[str, Schema] = {
        "Embeddings": {"/v1/embeddings": {"post": vectors}},
        "Tokens": {
            "/v1/tokenize": {"post": tokens},
            "/tokenize": {"post": tokens | {"operationId": "tokenizeToo"}},
        },
        "Models": {
            "/v1/models": {"get": operation("listModels", "List models", "ModelList")},
            "/v1/models/{model}": {"get": shown},
        },
        "Health": {
            "/health": {"get": operation("health", "Same as /health/ready", "Health")},
            "/health/live": {"get": operation("live", "Liveness: the process responds", "Health")},
            "/health/ready": {"get": operation("ready", "Readiness: a replica is ready", "Health")},
        },
    }
    by_tag |= contract_paths(model, reranker, vectors) | {each.tag: each.paths for each in more}
    return {
        path: {method: {"tags": [tag], **each} for method, each in methods.items()}
        for tag, paths in by_tag.items()
        for path, methods in paths.items()
    }


def _wrong_examples(limits: RequestLimits, model: str) -> Schema:
    """Let the parser refuse the wrong requests, and show what it says."""
    examples: dict[str, Schema] = {}
    for name, wrong in WRONG.items():
        try:
            parse_request(json.dumps({"model": model} | wrong).encode(), limits)
        except CallerError as error:
            examples[name] = {"value": json.loads(render_error(error))}
    return keyed(examples)
