"""The API of text-embeddings-inference: `/embed`, and the same at `/`.

https://huggingface.github.io/text-embeddings-inference. TEI serves one model, so requests name
none; where several are served here, `model` selects one.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec
import orjson

from embedfleet.api.contracts.contract import Answer, Asked
from embedfleet.api.formats.bodies import BYTE_ORDER_MARK, TEXTS, TEXTS_OR_IDS, Read, Reader
from embedfleet.api.formats.embedding_request import (
    LEAST_DIMENSIONS,
    EmbeddingRequest,
    Integer,
    RequestLimits,
)
from embedfleet.api.formats.fields import dimensions_of, request_of, wrong
from embedfleet.api.formats.large_bodies import LARGEST_ID, Body, Step
from embedfleet.api.formats.vector_forms import FLOATS
from embedfleet.transport.asgi import Response
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
    dimensions: Integer | None = None
    encoding_format: str | None = None


class _TokensBody(msgspec.Struct, gc=False, forbid_unknown_fields=True, kw_only=True):
    inputs: str | list[str]
    model: str = ""
    add_special_tokens: bool = True


class _Names(msgspec.Struct, gc=False):
    """Which of two names a body has."""

    inputs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_RIGHT = {
    "add_special_tokens": "true or false",
    "inputs": TEXTS_OR_IDS,
    "model": "a string, the name of a served model",
    "truncate": "true or false",
    "dimensions": f"an integer from {LEAST_DIMENSIONS} to the model's width",
    "encoding_format": '"float"; /v1/embeddings has other forms',
}

_reader = Reader(_Body, "inputs", _RIGHT)
_tokens_reader = Reader(_TokensBody, "inputs", _RIGHT | {"inputs": TEXTS})
_names = msgspec.json.Decoder(_Names)


class TokensRequest(EmbeddingRequest, frozen=True):
    """The body of TEI's `/tokenize`."""

    template: bool = True
    """Whether the tokens around a text are included."""


class Tei:
    """`/embed`."""

    name = "tei"

    def read(self, body: Body, asked: Asked) -> EmbeddingRequest:
        return _request(_reader.read(body, asked.limits), asked.limits)

    def read_large(self, body: Body, asked: Asked, step: Step) -> EmbeddingRequest:
        return _request(_reader.read_large(body, asked.limits, step), asked.limits)

    def write(self, answer: Answer) -> Response:
        return Response(answer.listed(FLOATS, lambda _, fault: self.refuse(fault)))

    def refuse(self, error: EmbedfleetError) -> bytes:
        return orjson.dumps({"error": error.message, "error_type": _type(error)})


TEI = Tei()


class TeiTokens(Tei):
    """`/tokenize`, where the body is TEI's."""

    def read(self, body: Body, asked: Asked) -> TokensRequest:
        return _tokens(_tokens_reader.read(body, asked.limits), asked.limits)

    def read_large(self, body: Body, asked: Asked, step: Step) -> TokensRequest:
        return _tokens(_tokens_reader.read_large(body, asked.limits, step), asked.limits)


TEI_TOKENS = TeiTokens()


def is_for_tokens(body: Body) -> bool:
    """Whether a body for `/tokenize` is TEI's: it has `inputs`, which ours refuses, and no `input`,
    which ours needs. What can't be read is ours to refuse.
    """
    if b'"inputs"' not in body:
        return False
    try:
        found = _names.decode(body.removeprefix(BYTE_ORDER_MARK))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return found.inputs is not msgspec.UNSET and found.input is msgspec.UNSET


def _tokens(read: Read[_TokensBody], limits: RequestLimits) -> TokensRequest:
    found: dict[str, Any] = {"dimensions": None, "forms": (FLOATS,), "role": None, "truncate": None}
    fields = read.fields
    return request_of(
        TokensRequest,
        read,
        limits,
        found,
        model=fields.model,
        field="inputs",
        template=fields.add_special_tokens,
    )


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
