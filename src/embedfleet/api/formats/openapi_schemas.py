"""JSON schemas (2020-12) of requests, responses and errors, with the parser's own limits.

Two rules can't be expressed: blank texts are recognised by Unicode's white space, which regular
expressions define differently, and the longest text is counted in tokens.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from embedfleet.api.formats.embedding_request import LEAST_DIMENSIONS, RequestLimits
from embedfleet.api.formats.fields import ROLES
from embedfleet.api.formats.large_bodies import LARGEST_ID
from embedfleet.api.formats.vector_forms import KINDS, LAYOUTS

Schema: TypeAlias = dict[str, Any]


_ASKED_FOR: Schema = {"type": "string", "description": "The requested name."}


def reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def schemas(limits: RequestLimits) -> dict[str, Schema]:
    """Give every schema by its name."""
    return {
        "EmbeddingRequest": embedding_request(limits),
        "TokenizeRequest": tokenize_request(limits),
        "Input": _input(limits),
        "EmbeddingList": _list(
            "Embedding",
            {
                "id": {"const": "", "description": "For clients that require it."},
                "usage": reference("Usage"),
                "model": _ASKED_FOR,
            },
        )
        | {"description": "With `output_dtype` and `scale` where another form was requested."},
        "Embedding": _embedding(),
        "TokenList": _list(
            "Tokens",
            {
                "usage": reference("Usage"),
                "model": _ASKED_FOR,
                "max_tokens": count_of("Longest text that the model takes."),
            },
        ),
        "Tokens": _tokens(),
        "Usage": object_of({"prompt_tokens": count_of(""), "total_tokens": count_of("")}),
        "ModelList": _list("Model", {}),
        "Model": object_of(
            {
                "id": text_of("The name to request."),
                "object": {"const": "model"},
                "type": {"enum": ["embedding", "rerank"]},
                "created": count_of("When serving began, seconds since 1970."),
                "owned_by": text_of(""),
                "max_tokens": count_of("Longest text, in tokens."),
                "dimensions": count_of("Dimensions of a whole vector; not of a reranker."),
                "task": {"const": "rerank", "description": "Of a reranker alone."},
            }
        )
        | {"required": ["id", "object", "created", "owned_by", "max_tokens"]},
        "Error": _error(),
        "Health": object_of({"status": text_of("")}),
    }


def _embedding() -> Schema:
    found = object_of(
        {
            "object": {"enum": ["embedding", "error"]},
            "index": count_of("The text's place in `input`."),
            "embedding": {
                "description": "Of length 1; base64 holds its numbers, little-endian. Null where "
                "`error` says why.",
                "anyOf": [
                    {"type": "null"},
                    {"type": "array", "minItems": 1, "items": {"type": "number"}},
                    {"type": "string", "contentEncoding": "base64"},
                ],
            },
        }
    )
    found["properties"] |= {
        "truncated": {"const": True, "description": "The text was too long, and is cut."},
        "error": {"type": "object"},
    }
    return found


def _tokens() -> Schema:
    return object_of(
        {
            "object": {"const": "tokens"},
            "index": count_of("The text's place in `input`."),
            "tokens": {
                "description": "What is computed: prompt, text, end-of-text token.",
                "type": "array",
                "minItems": 1,
                "items": token_id(),
            },
            "count": count_of("Number of tokens; their sum is what `usage` says."),
            "truncated": {
                "type": "boolean",
                "description": "Whether the end of the text was cut off.",
            },
        }
    )


def embedding_request(limits: RequestLimits) -> Schema:
    """Describe the body of `POST /v1/embeddings`."""
    fields = _common_fields(limits) | {
        "dimensions": optional(
            {
                "type": "integer",
                "minimum": LEAST_DIMENSIONS,
                "description": "Length of the vectors, at most the model's width: the first "
                "numbers, renormalised to length 1.",
            }
        ),
        "encoding_format": optional(
            {
                "type": "string",
                "enum": list(LAYOUTS),
                "description": "`float` by default; `base64` holds the same numbers, little-"
                "endian; `bytes_only` is one body of them all, `bytes` the same with a header "
                "`metadata` that describes it.",
            }
        ),
        "output_dtype": optional(
            {
                "type": "string",
                "enum": ["float", *KINDS],
                "description": "What numbers are; integers come with their `scale`. `binary` and "
                "`ubinary` have eight dimensions to a number.",
            }
        ),
        "on_error": optional(
            {
                "type": "string",
                "enum": ["request", "item"],
                "description": "`item` answers the texts that are right where others are wrong.",
            }
        ),
        "output_dimension": optional(
            {
                "type": "integer",
                "minimum": LEAST_DIMENSIONS,
                "description": "Voyage's name for `dimensions`.",
            }
        ),
        "truncation": optional({"type": "boolean", "description": "Voyage's name for `truncate`."}),
        "user": optional({"type": "string", "description": "Accepted and not used."}),
    }
    return _request(fields)


def tokenize_request(limits: RequestLimits) -> Schema:
    """Describe the body of `POST /v1/tokenize`, which ignores what is of vectors."""
    return _request(_common_fields(limits))


def _request(fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": ["model", "input"]}


def _common_fields(limits: RequestLimits) -> dict[str, Schema]:
    return {
        "model": text_of("Name of a served model.") | {"minLength": 1},
        "input": reference("Input"),
        "input_type": optional(
            {
                "type": "string",
                "enum": list(ROLES),
                "description": "What the texts are for: the model's prompt for it goes before "
                "each of them.",
            }
        ),
        "instruction": optional(
            {
                "type": "string",
                "minLength": 1,
                "maxLength": limits.max_instruction_characters,
                "pattern": r"\S",
                "description": "The task that the texts are queries for; takes the place of the "
                "prompt.",
            }
        ),
        "truncate": optional(
            {
                "type": ["boolean", "string"],
                "enum": [True, False, "none", "start", "end", "NONE", "START", "END"],
                "description": "Which end of over-long texts is cut off: `true` is `end`. Without "
                "it the service's default holds.",
            }
        ),
    }


def _input(limits: RequestLimits) -> Schema:
    text: Schema = {"type": "string", "minLength": 1}
    if not limits.blank_texts:
        text["pattern"] = r"\S"
    ids = {"type": "array", "minItems": 1, "items": token_id()}
    several = {"type": "array", "minItems": 1, "maxItems": limits.max_texts}
    item = object_of({"text": text}) | {"additionalProperties": False}
    item["properties"]["type"] = {"const": "text"}
    return {
        "description": "The texts, as strings, as objects or as the model's token ids.",
        "anyOf": [
            text | {"title": "one text"},
            several | {"title": "several texts", "items": text},
            several | {"title": "several texts as objects", "items": item},
            ids | {"title": "one text as token ids"},
            several | {"title": "several texts as token ids", "items": ids},
        ],
    }


def token_id() -> Schema:
    return {"type": "integer", "minimum": 0, "maximum": LARGEST_ID}


def _error() -> Schema:
    nullable = ["string", "null"]
    fields: dict[str, Schema] = {
        "message": text_of("What was wrong, where, and what would be right."),
        "type": text_of("The class of the error, as OpenAI names it."),
        "param": {"type": nullable, "description": "The field that was wrong."},
        "code": {"type": nullable, "description": "For programs; it keeps its meaning."},
    }
    return object_of({"error": object_of(fields), "detail": text_of("The same message.")})


def optional(schema: Schema) -> Schema:
    """Let a field be null, which is like leaving it out."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    changed = schema | {"type": [*kinds, "null"]}
    if "enum" in schema:
        changed["enum"] = [*schema["enum"], None]
    return changed


def object_of(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(item: str, properties: dict[str, Schema]) -> Schema:
    data: Schema = {"type": "array", "items": reference(item)}
    head: dict[str, Schema] = {"object": {"const": "list"}, "data": data}
    return object_of(head | properties)


def text_of(description: str) -> Schema:
    return {"type": "string"} | _described(description)


def count_of(description: str) -> Schema:
    return {"type": "integer", "minimum": 0} | _described(description)


def _described(description: str) -> Schema:
    return {"description": description} if description else {}
