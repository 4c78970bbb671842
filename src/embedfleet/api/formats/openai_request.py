"""Parses and validates OpenAI embeddings requests.

Each error names the parameter and says what would be right. Checks that need the model (ids within
the vocabulary, length in tokens) are the encoder's.

Beyond OpenAI's fields, `input_type`, `instruction` and `truncate` are read, which SDKs send through
`extra_body`, the aliases of `fields`, and texts as objects, which Jina takes. A null field counts
as absent. Unknown fields are ignored and reported, or refused where the limits say so. Of a
repeated field the last one counts.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec

from embedfleet.api.formats.bodies import TEXTS_OR_IDS, Read, Reader
from embedfleet.api.formats.embedding_request import (
    LEAST_DIMENSIONS,
    EmbeddingRequest,
    Integer,
    RequestLimits,
)
from embedfleet.api.formats.fields import (
    INPUT_TYPES,
    LAYOUT_WORDS,
    TRUNCATE_WORDS,
    dimensions_of,
    request_of,
    role_of,
    truncation_of,
)
from embedfleet.api.formats.large_bodies import LARGEST_ID, Body, Step, TextItem
from embedfleet.api.formats.refusals import empty
from embedfleet.api.formats.vector_forms import FLOATS, Form, Layout
from embedfleet.vocabulary import CallerError

_TokenId: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_ID)]


class _Body(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The fields that clients send. msgspec allows one list in a union; the rest is checked by
    hand.
    """

    model: str
    input: str | list[str | _TokenId | list[_TokenId] | TextItem]
    dimensions: Integer | None = None
    encoding_format: Layout | None = None
    user: str | None = None
    input_type: str | None = None
    instruction: str | None = None
    truncate: bool | str | None = None


_RIGHT = {
    "model": "a string, the name of a served model",
    "input": TEXTS_OR_IDS,
    "dimensions": f"an integer from {LEAST_DIMENSIONS} to the model's width",
    "encoding_format": LAYOUT_WORDS,
    "user": "a string",
    "input_type": INPUT_TYPES,
    "instruction": "a string",
    "truncate": TRUNCATE_WORDS,
}
"""What each field must be, in the words of error messages."""

_reader = Reader(_Body, "input", _RIGHT, takes_items=True)

_BASE64 = (Form(layout="base64"),)
_FLOATS = (FLOATS,)


class _BodyOfDeployment(_Body, gc=False, forbid_unknown_fields=True, kw_only=True):
    """The same where the path names the model."""

    model: str = ""


_deployed_reader = Reader(_BodyOfDeployment, "input", _RIGHT, takes_items=True)


def parse_request(body: Body, limits: RequestLimits, model: str | None = None) -> EmbeddingRequest:
    """Read the body of `POST /v1/embeddings`; `model` is that of the path, where it has one.

    Raises CallerError with `param` and `code`, nothing else, whatever the bytes are.
    """
    reader = _reader if model is None else _deployed_reader
    return _request(reader.read(body, limits), limits, model)


def parse_large_request(
    body: Body, limits: RequestLimits, step: Step = lambda: None, model: str | None = None
) -> EmbeddingRequest:
    """As `parse_request`, but in pieces (`Reader.read_large`)."""
    reader = _reader if model is None else _deployed_reader
    return _request(reader.read_large(body, limits, step), limits, model)


def _request(
    read: Read[_Body] | Read[_BodyOfDeployment], limits: RequestLimits, model: str | None
) -> EmbeddingRequest:
    fields = read.fields
    name = model or fields.model
    if not name:
        raise empty("model", _RIGHT["model"])
    layout = fields.encoding_format
    if layout is None or layout == "float":
        forms = _FLOATS
    else:
        forms = _BASE64 if layout == "base64" else (Form(layout=layout),)
    role = None if fields.input_type is None else role_of("input_type", fields.input_type)
    truncate = None if fields.truncate is None else truncation_of("truncate", fields.truncate)
    wanted = fields.dimensions
    if wanted is not None:
        wanted = dimensions_of("dimensions", wanted)
    texts = read.texts
    if not read.further and not texts.faults:  # the usual request skips the rest
        return EmbeddingRequest(
            model=name,
            inputs=texts.good,
            dimensions=wanted,
            forms=forms,
            role=role,
            instruction=instruction_of(fields.instruction, limits),
            truncate=truncate,
            user=fields.user,
            by_item=limits.by_item,
        )
    found: dict[str, Any] = {
        "dimensions": wanted,
        "forms": forms,
        "role": role,
        "truncate": truncate,
    }
    return request_of(
        EmbeddingRequest,
        read,
        limits,
        found,
        model=name,
        instruction=instruction_of(fields.instruction, limits),
        user=fields.user,
    )


def instruction_of(instruction: str | None, limits: RequestLimits) -> str | None:
    if instruction is None:
        return None
    if not instruction or instruction.isspace():
        raise empty("instruction", "the task in words; leave it out to send none")
    if len(instruction) > limits.max_instruction_characters:
        raise CallerError(
            f"`instruction` has {len(instruction)} characters; at most "
            f"{limits.max_instruction_characters} are accepted.",
            param="instruction",
            code="string_above_max_length",
        )
    return instruction
