"""Cohere's API: `/v2/embed` and `/v1/embed`, with several forms of each vector in one response.

https://docs.cohere.com/reference/embed. Over-long texts are cut at their end unless `truncate` says
otherwise, as there. Integers have the scale reported in `meta.scales`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import orjson

from embedfleet.api.contracts.contract import Answer, Asked
from embedfleet.api.formats.bodies import Read, Reader
from embedfleet.api.formats.embedding_request import (
    LEAST_DIMENSIONS,
    EmbeddingRequest,
    Integer,
    RequestLimits,
)
from embedfleet.api.formats.fields import (
    INPUT_TYPES,
    dimensions_of,
    one_of,
    request_of,
    role_of,
    truncation_of,
    wrong,
)
from embedfleet.api.formats.large_bodies import Body, Step
from embedfleet.api.formats.refusals import empty, missing
from embedfleet.api.formats.vector_forms import FLOATS, Form, scale
from embedfleet.transport.asgi import Response
from embedfleet.vocabulary import EmbedfleetError, PackedText, TextOrIds, Truncation

TYPES: Final[Mapping[str, Form]] = {
    "float": FLOATS,
    "int8": Form("int8"),
    "uint8": Form("uint8"),
    "binary": Form("binary"),
    "ubinary": Form("ubinary"),
    "base64": Form(layout="base64"),
}


class _Item(msgspec.Struct, gc=False):
    """A piece of content."""

    type: str = "text"
    text: str | None = None


class _Input(msgspec.Struct, gc=False):
    """A text as pieces of content."""

    content: str | list[_Item]


class _Body(msgspec.Struct, gc=False, forbid_unknown_fields=True, kw_only=True):
    texts: list[str] | None = None
    model: str = ""
    input_type: str | None = None
    output_dimension: Integer | None = None
    embedding_types: list[str] | None = None
    truncate: str | None = None
    max_tokens: int | None = None
    images: list[str] | None = None
    inputs: list[_Input] | None = None


_RIGHT = {
    "texts": "a list of strings",
    "model": "a string, the name of a served model",
    "input_type": INPUT_TYPES,
    "output_dimension": f"an integer from {LEAST_DIMENSIONS} to the model's width",
    "embedding_types": f"a list of {one_of(list(TYPES))}",
    "truncate": 'one of "NONE", "START" and "END"',
    "max_tokens": "left out: texts are cut at what the model takes",
    "images": "left out: texts alone have vectors here",
    "inputs": "a list of texts as `content`",
}


class CohereRequest(EmbeddingRequest, frozen=True):
    """With the form of its answer."""

    by_type: bool = True
    """Whether `embedding_types` were requested; v1 answers these in another form."""


_reader = Reader(_Body, "texts", _RIGHT)


class Cohere:
    """`/v2/embed`, or `/v1/embed`."""

    def __init__(self, version: int) -> None:
        self._version = version

    @property
    def name(self) -> str:
        return f"cohere v{self._version}"

    def read(self, body: Body, asked: Asked) -> EmbeddingRequest:
        return _request(_reader.read(body, asked.limits), asked.limits)

    def read_large(self, body: Body, asked: Asked, step: Step) -> EmbeddingRequest:
        return _request(_reader.read_large(body, asked.limits, step), asked.limits)

    def write(self, answer: Answer) -> Response:
        request = answer.request
        named = [(_name_of(form), form) for form in request.forms]
        lists = {name: answer.listed(form, _nothing) for name, form in named}
        by_type = self._version > 1 or not isinstance(request, CohereRequest) or request.by_type
        if by_type:
            vectors = b"{%b}" % b",".join(
                b'"%b":%b' % (name.encode(), rows) for name, rows in lists.items()
            )
        else:
            vectors = lists["float"]
        document = orjson.dumps(
            {
                "id": answer.name,
                "response_type": "embeddings_by_type" if by_type else "embeddings_floats",
                "texts": [_spelled(text) for text in request.inputs],
                "meta": _meta(answer, str(self._version)),
            }
        )
        return Response(b'{"embeddings":%b,%b' % (vectors, document[1:]))

    def refuse(self, error: EmbedfleetError) -> bytes:
        return orjson.dumps({"message": error.message})


COHERE_V1 = Cohere(1)
COHERE_V2 = Cohere(2)


def _request(read: Read[_Body], limits: RequestLimits) -> EmbeddingRequest:
    fields = read.fields
    if fields.images:
        raise wrong("images", _RIGHT["images"], fields.images)
    if fields.max_tokens is not None:
        raise wrong("max_tokens", _RIGHT["max_tokens"], fields.max_tokens)
    wanted = fields.truncate
    found: dict[str, Any] = {
        "dimensions": None,
        "forms": _forms(fields.embedding_types),
        "role": None if fields.input_type is None else role_of("input_type", fields.input_type),
        "truncate": Truncation.END if wanted is None else truncation_of("truncate", wanted),
    }
    if fields.output_dimension is not None:
        found["dimensions"] = dimensions_of("output_dimension", fields.output_dimension)
    field = "texts"
    if fields.inputs is not None:
        field, spelled = "inputs", [_text_of(each) for each in fields.inputs]
        texts = _reader.texts_of(spelled, limits)
        read = msgspec.structs.replace(read, texts=texts)
    elif not read.texts.good and not read.texts.faults:
        raise missing("texts", _RIGHT["texts"])
    by_type = fields.embedding_types is not None
    return request_of(
        CohereRequest, read, limits, found, model=fields.model, field=field, by_type=by_type
    )


def _text_of(given: _Input) -> str:
    """A text of v2's `inputs`."""
    if isinstance(given.content, str):
        return given.content
    if any(item.text is None for item in given.content):
        raise wrong("inputs", "texts only; images are not supported", "image_url")
    return "".join(item.text or "" for item in given.content)


def _forms(types: list[str] | None) -> tuple[Form, ...]:
    if types is None:
        return (FLOATS,)
    if not types:
        raise empty("embedding_types", _RIGHT["embedding_types"], code="empty_array")
    for place, name in enumerate(types):
        if name not in TYPES:
            raise wrong(f"embedding_types[{place}]", one_of(list(TYPES)), name)
    return tuple(TYPES[name] for name in dict.fromkeys(types))


def _name_of(form: Form) -> str:
    return next(name for name, each in TYPES.items() if each == form)


def _nothing(_place: int, _fault: EmbedfleetError) -> bytes:
    """What stands in the place of a vector; `meta.warnings` says why."""
    return b"null"


def _spelled(text: TextOrIds) -> str:
    return str(text) if isinstance(text, str | PackedText) else ""


def _meta(answer: Answer, version: str) -> dict[str, Any]:
    full = answer.full
    width = answer.request.dimensions or (len(full[0]) if len(full) else 0)
    scales = {form.kind: scale(form.kind, width) for form in answer.request.forms if width}
    meta: dict[str, Any] = {
        "api_version": {"version": version},
        "billed_units": {"input_tokens": answer.tokens},
    }
    if scales := {kind: step for kind, step in scales.items() if step is not None}:
        meta["scales"] = scales
    if warnings := [fault.message for fault in answer.faults.values()]:
        meta["warnings"] = warnings
    return meta
