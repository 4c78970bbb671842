"""Parts of an OpenAPI document: operations, bodies, answers, refusals, headers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embedfleet.api.formats.error_codes import codes_of, statuses
from embedfleet.api.formats.openapi_schemas import Schema, reference
from embedfleet.vocabulary import Lane

JSON = "application/json"
BYTES = "application/octet-stream"

ONLY_OF_BODIES = {413, 415}
ONLY_OF_WORK = {429, 500, 502, 504}
"""Statuses that come only where a body is read, or vectors are computed."""


def operation(
    name: str,
    summary: str,
    answer: str,
    *,
    work: bool = False,
    body: Schema | None = None,
    errors: Schema | None = None,
    refusal: str = "Error",
    parameters: Sequence[Schema] = (),
) -> Schema:
    """One operation. `answer` and `refusal` are names of schemas, `work` says that it computes, and
    `errors` are examples of refusals.
    """
    left_out = (set() if work else ONLY_OF_WORK - {429}) | (set() if body else ONLY_OF_BODIES)
    responses: Schema = {"200": _answer(answer, "The requested result.", _told() if work else {})}
    for status in statuses():
        if status not in left_out and status != 405:
            examples = errors if status == 400 else None
            responses[str(status)] = _refusal(status, examples, refusal)
    found: Schema = {"operationId": name, "summary": summary, "responses": responses}
    if told := [*parameters, *(work_headers() if work else ())]:
        found["parameters"] = told
    if body:
        found["requestBody"] = body
    return found


def body_of(schema: str, examples: dict[str, dict[str, Any]], model: str | None) -> Schema:
    """A body of JSON; examples get the model's name, where bodies have one."""
    named = {} if model is None else {"model": model}
    shown = {name: {"value": named | one} for name, one in examples.items()}
    content = {"schema": reference(schema), "examples": keyed(shown)}
    return {"required": True, "content": {JSON: content}}


def keyed(examples: dict[str, Schema]) -> Schema:
    """Name examples as OpenAPI wants keys, and keep the words as summaries."""
    return {name.replace(" ", "-"): {"summary": name} | one for name, one in examples.items()}


def _answer(schema: str, description: str, headers: Schema) -> Schema:
    name = _header("string", "The id of the request, as logs have it; the caller's own if sent.")
    return {
        "description": description,
        "headers": {"x-request-id": name} | headers,
        "content": {JSON: {"schema": reference(schema)}},
    }


def _refusal(status: int, examples: Schema | None, schema: str) -> Schema:
    found = "; ".join(f"`{each.code}`: {each.meaning}" for each in codes_of(status))
    headers = {
        429: {"retry-after": _header("integer", "Seconds after which to try again.")},
        503: {"retry-after": _header("integer", "Seconds after which to try again.")},
        401: {"www-authenticate": _header("string", "How to send a key.")},
    }
    refusal = _answer(schema, found, headers.get(status, {}))
    if examples:
        refusal["content"][JSON]["examples"] = examples
    return refusal


def in_path(name: str, example: str, description: str = "") -> Schema:
    """A parameter that is a piece of the path."""
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string", "minLength": 1},
        "example": example,
    }


def work_headers() -> list[Schema]:
    """Headers of requests that compute."""
    return [
        {
            "name": "x-embedfleet-lane",
            "in": "header",
            "description": "`bulk` for traffic that can wait and must not delay other traffic.",
            "schema": {"type": "string", "enum": [lane.value for lane in Lane]},
        },
        {
            "name": "x-request-deadline-ms",
            "in": "header",
            "description": "Deadline of the request, in milliseconds from now.",
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
