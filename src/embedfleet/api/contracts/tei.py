"""The API of text-embeddings-inference: `/embed`, and the same at `/`.

https://huggingface.github.io/text-embeddings-inference. TEI serves one model, so requests name
none; where several are served here, `model` selects one.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec
import orjson

from embedfleet.api.contracts.contract import Answer, Asked, Written
from embedfleet.api.formats.bodies import TEXTS_OR_IDS, Read, Reader
from embedfleet.api.formats.embedding_request import (
    LEAST_DIMENSIONS,
    EmbeddingRequest,
    RequestLimits,
)
from embedfleet.api.formats.fields import dimensions_of, request_of, wrong
from embedfleet.api.formats.large_bodies import LARGEST_ID, Body, Step
from embedfleet.api.formats.vector_forms import FLOATS
from embedfleet.vocabulary import (
    CallerError,
    EmbedfleetError,
    OverloadedError,
    ServiceError,
    Truncation,
)

_TokenId: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_ID)]


class _Body(msgspec.Struct, gc=False, forbid_unknown_fields=True, kw_only=True):
    inputs: str | list[str | _TokenId | list[_TokenId]]
    model: str = ""
    truncate: bool | None = None
    dimensions: int | None = None
    encoding_format: str | None = None


_RIGHT = {
    "inputs": TEXTS_OR_IDS,
    "model": "a string, the name of a served model",
    "truncate": "true or false",
    "dimensions": f"an integer from {LEAST_DIMENSIONS} to the model's width",
    "encoding_format": '"float"; /v1/embeddings has other forms',
}

_reader = Reader(_Body, "inputs", _RIGHT)


class Tei:
    """`/embed`."""

    name = "tei"

    def read(self, body: Body, asked: Asked) -> EmbeddingRequest:
        return _request(_reader.read(body, asked.limits), asked.limits)

    def read_large(self, body: Body, asked: Asked, step: Step) -> EmbeddingRequest:
        return _request(_reader.read_large(body, asked.limits, step), asked.limits)

    def write(self, answer: Answer) -> Written:
        return Written(answer.listed(FLOATS, lambda _, fault: self.refuse(fault)))

    def refuse(self, error: EmbedfleetError) -> bytes:
        return orjson.dumps({"error": error.message, "error_type": _type(error)})


TEI = Tei()


def _request(read: Read[_Body], limits: RequestLimits) -> EmbeddingRequest:
    fields = read.fields
    if fields.encoding_format not in {None, "float"}:
        raise wrong("encoding_format", _RIGHT["encoding_format"], fields.encoding_format)
    truncate: Truncation | None = None
    if fields.truncate is not None:
        truncate = Truncation.END if fields.truncate else Truncation.NONE
    wanted = fields.dimensions
    found: dict[str, Any] = {
        "dimensions": None if wanted is None else dimensions_of("dimensions", wanted),
        "forms": (FLOATS,),
        "role": None,
        "truncate": truncate,
    }
    return request_of(EmbeddingRequest, read, limits, found, model=fields.model, field="inputs")


def _type(error: EmbedfleetError) -> str:
    match error:
        case OverloadedError():
            return "Overloaded"
        case CallerError():
            return "Validation"
        case ServiceError():
            return "Unhealthy"
        case _:
            return "Backend"
