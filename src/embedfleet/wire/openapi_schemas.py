"""JSON schemas (2020-12) of what travels: requests, answers, errors.

This module decides how the parser's rules are written as schemas; numbers come from the parser's
own constants. It refuses to know paths and HTTP.

A schema can't say everything: blank texts are told by Unicode's white space, which patterns of
regular expressions know differently, and the longest text is counted in tokens.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from embedfleet.vocabulary import Role
from embedfleet.wire.openai_large import LARGEST_ID
from embedfleet.wire.openai_request import (
    ENCODING_FORMATS,
    LEAST_DIMENSIONS,
    RequestLimits,
)

Schema: TypeAlias = dict[str, Any]


_ASKED_FOR: Schema = {"type": "string", "description": "The name asked for."}


def reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def schemas(limits: RequestLimits) -> dict[str, Schema]:
    """Give every schema by its name."""
    return {
        "EmbeddingRequest": embedding_request(limits),
        "TokenizeRequest": tokenize_request(limits),
        "Input": _input(limits),
        "EmbeddingList": _list("Embedding", {"usage": reference("Usage"), "model": _ASKED_FOR}),
        "Embedding": _embedding(),
        "TokenList": _list(
            "Tokens",
            {
                "usage": reference("Usage"),
                "model": _ASKED_FOR,
                "max_tokens": _count("Longest text that the model takes."),
            },
        ),
        "Tokens": _tokens(),
        "Usage": _object({"prompt_tokens": _count(""), "total_tokens": _count("")}),
        "ModelList": _list("Model", {}),
        "Model": _object(
            {
                "id": _text("The name to ask for."),
                "object": {"const": "model"},
                "created": _count("When serving began, seconds since 1970."),
                "owned_by": _text(""),
                "max_tokens": _count("Longest text, in tokens."),
                "dimensions": _count("Dimensions of a whole vector."),
            }
        ),
        "Error": _error(),
        "Health": _object({"status": _text("")}),
    }


def _embedding() -> Schema:
    return _object(
        {
            "object": {"const": "embedding"},
            "index": _count("The text's place in `input`."),
            "embedding": {
                "description": "Of length 1; base64 holds little-endian float32.",
                "anyOf": [
                    {"type": "array", "minItems": 1, "items": {"type": "number"}},
                    {"type": "string", "contentEncoding": "base64"},
                ],
            },
        }
    )


def _tokens() -> Schema:
    return _object(
        {
            "object": {"const": "tokens"},
            "index": _count("The text's place in `input`."),
            "tokens": {
                "description": "What is computed: prompt, text, end-of-text token.",
                "type": "array",
                "minItems": 1,
                "items": _token_id(),
            },
            "count": _count("Number of tokens; their sum is what `usage` says."),
            "truncated": {
                "type": "boolean",
                "description": "Whether the end of the text was cut off.",
            },
        }
    )


def embedding_request(limits: RequestLimits) -> Schema:
    """Describe the body of `POST /v1/embeddings`."""
    fields = _common_fields(limits) | {
        "dimensions": _optional(
            {
                "type": "integer",
                "minimum": LEAST_DIMENSIONS,
                "description": "Length of the vectors, at most the model's width: the first "
                "numbers, brought to length 1.",
            }
        ),
        "encoding_format": _optional(
            {
                "type": "string",
                "enum": list(ENCODING_FORMATS),
                "description": "`float` by default; `base64` holds the same float32 numbers.",
            }
        ),
        "user": _optional({"type": "string", "description": "Accepted and not used."}),
    }
    return _request(fields)


def tokenize_request(limits: RequestLimits) -> Schema:
    """Describe the body of `POST /v1/tokenize`, which ignores what is of vectors."""
    return _request(_common_fields(limits))


def _request(fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": ["model", "input"]}


def _common_fields(limits: RequestLimits) -> dict[str, Schema]:
    return {
        "model": _text("Name of a served model.") | {"minLength": 1},
        "input": reference("Input"),
        "input_type": _optional(
            {
                "type": "string",
                "enum": [role.value for role in Role],
                "description": "What the texts are for: the model's prompt for it goes before "
                "each of them.",
            }
        ),
        "instruction": _optional(
            {
                "type": "string",
                "minLength": 1,
                "maxLength": limits.max_instruction_characters,
                "pattern": r"\S",
                "description": "The task that the texts are queries for; takes the place of the "
                "prompt.",
            }
        ),
        "truncate": _optional(
            {
                "type": "boolean",
                "description": "Whether the end of over-long texts is cut off; by default they "
                "are refused.",
            }
        ),
    }


def _input(limits: RequestLimits) -> Schema:
    text = {"type": "string", "minLength": 1, "pattern": r"\S"}
    ids = {"type": "array", "minItems": 1, "items": _token_id()}
    several = {"type": "array", "minItems": 1, "maxItems": limits.max_texts}
    return {
        "description": "The texts, as strings or as the model's token ids.",
        "anyOf": [
            text | {"title": "one text"},
            several | {"title": "several texts", "items": text},
            ids | {"title": "one text as token ids"},
            several | {"title": "several texts as token ids", "items": ids},
        ],
    }


def _token_id() -> Schema:
    return {"type": "integer", "minimum": 0, "maximum": LARGEST_ID}


def _error() -> Schema:
    nullable = ["string", "null"]
    fields: dict[str, Schema] = {
        "message": _text("What was wrong, where, and what would be right."),
        "type": _text("Whose fault it is, in OpenAI's words."),
        "param": {"type": nullable, "description": "The field that was wrong."},
        "code": {"type": nullable, "description": "For programs; it keeps its meaning."},
    }
    return _object({"error": _object(fields)})


def _optional(schema: Schema) -> Schema:
    """Let a field be null, which is like leaving it out."""
    changed = schema | {"type": [schema["type"], "null"]}
    if "enum" in schema:
        changed["enum"] = [*schema["enum"], None]
    return changed


def _object(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(item: str, properties: dict[str, Schema]) -> Schema:
    data: Schema = {"type": "array", "items": reference(item)}
    head: dict[str, Schema] = {"object": {"const": "list"}, "data": data}
    return _object(head | properties)


def _text(description: str) -> Schema:
    return {"type": "string"} | _described(description)


def _count(description: str) -> Schema:
    return {"type": "integer", "minimum": 0} | _described(description)


def _described(description: str) -> Schema:
    return {"description": description} if description else {}
