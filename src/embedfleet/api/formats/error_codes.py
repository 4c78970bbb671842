"""The table of every `error.code`, with its HTTP status and meaning.

Programs branch on codes, so a code never changes its meaning. The documentation, the OpenAPI
document and a test that searches the source for codes all read this table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """A code, and what it promises."""

    status: int
    code: str
    meaning: str


CODES = (
    ErrorCode(400, "invalid_json", "the body is not a JSON object"),
    ErrorCode(400, "invalid_utf8", "the body is not valid UTF-8"),
    ErrorCode(400, "invalid_unicode", "a text holds half of a surrogate pair"),
    ErrorCode(400, "missing_required_parameter", "`model` or `input` is missing"),
    ErrorCode(400, "invalid_type", "a field or an element of `input` is of another kind"),
    ErrorCode(400, "invalid_value", "a field has none of its possible values"),
    ErrorCode(400, "empty_string", "a text, the model's name or the instruction is empty"),
    ErrorCode(400, "blank_string", "a text is only white space (`gateway.blank_texts`)"),
    ErrorCode(400, "string_above_max_length", "the instruction is too long"),
    ErrorCode(400, "unknown_parameter", "a field is not known (`gateway.unknown_fields`)"),
    ErrorCode(400, "unsupported_parameter", "a field that would change vectors is not supported"),
    ErrorCode(400, "empty_array", "`input` or a list of token ids in it is empty"),
    ErrorCode(400, "array_above_max_length", "too many texts in one request"),
    ErrorCode(400, "fields_too_large", "fields beside `input` take more than 1 MiB together"),
    ErrorCode(400, "integer_below_min_value", "`dimensions` is too small"),
    ErrorCode(400, "integer_above_max_value", "`dimensions` is more than the model's width"),
    ErrorCode(400, "invalid_token_id", "a token id is not in the model's vocabulary"),
    ErrorCode(400, "foreign_token_ids", "token ids are those of another model's tokenizer"),
    ErrorCode(400, "token_ids_refused", "token ids are not accepted (`gateway.input_ids`)"),
    ErrorCode(400, "context_length_exceeded", "a text has more tokens than the model accepts"),
    ErrorCode(
        400, "wrong_task", "a reranker was requested to embed, or an embedding model to rerank"
    ),
    ErrorCode(400, "invalid_header", "a header has an invalid value"),
    ErrorCode(400, "invalid_status", "a batch that has ended can't be cancelled"),
    ErrorCode(400, "storage_full", "the key's quota for files is used up"),
    ErrorCode(
        401,
        "invalid_api_key",
        "a key that is unknown, revoked or expired; without any key the code is null",
    ),
    ErrorCode(403, "model_not_found", "the key does not allow this model"),
    ErrorCode(
        403,
        "origin_not_allowed",
        "a web page of another origin made the request; `gateway.cors_origins` lists those allowed",
    ),
    ErrorCode(403, "host_not_allowed", "the header `host` must be localhost or an IP address here"),
    ErrorCode(404, "model_not_found", "no model of this name is served"),
    ErrorCode(404, "file_not_found", "the key has no such file"),
    ErrorCode(404, "batch_not_found", "the key has no such batch"),
    ErrorCode(404, "unknown_url", "there is nothing at this path"),
    ErrorCode(405, "method_not_allowed", "the path answers other methods; `allow` names them"),
    ErrorCode(413, "body_too_large", "the body is too large"),
    ErrorCode(415, "unsupported_media_type", "the body is compressed or written in another way"),
    ErrorCode(429, "overloaded", "more work waits than can be served in time"),
    ErrorCode(429, "rate_limit_exceeded", "a limit of the key is used up"),
    ErrorCode(500, "invalid_vector", "the engine computed no vector for a text"),
    ErrorCode(502, "replica_failed", "several replicas failed a text"),
    ErrorCode(
        503, "answers_in_flight", "too many bytes of responses wait for clients to read them"
    ),
    ErrorCode(503, "no_replica", "no replica can take the request now"),
    ErrorCode(503, "storage_unavailable", "files can't be read or written now"),
    ErrorCode(503, "draining", "the service is shutting down"),
    ErrorCode(504, "deadline_exceeded", "the deadline passed before the answer was ready"),
)
"""In the order of their statuses."""


def codes_of(status: int) -> list[ErrorCode]:
    """Find the codes that a status comes with."""
    return [each for each in CODES if each.status == status]


def statuses() -> list[int]:
    """List the statuses of errors, each once."""
    return list(dict.fromkeys(each.status for each in CODES))


def as_table(codes: Iterable[ErrorCode] = CODES) -> str:
    """Write the codes as a table in Markdown."""
    lines = ["| status | code | what is wrong |", "|---|---|---|"]
    lines += [f"| {each.status} | `{each.code}` | {each.meaning} |" for each in codes]
    return "\n".join(lines) + "\n"
