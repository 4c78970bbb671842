"""Ollama's API: `/api/embed`, and `/api/embeddings` for one text.

https://github.com/ollama/ollama/blob/main/docs/api.md. Over-long texts are cut at their end unless
`truncate` is false, as there. A model name may end in `:latest`. A request without texts, by which
clients have a model loaded, is answered with no vectors.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from embedfleet.api.contracts.contract import Answer, Asked
from embedfleet.api.formats.bodies import TEXTS, Read, Reader
from embedfleet.api.formats.embedding_request import (
    LEAST_DIMENSIONS,
    EmbeddingRequest,
    Integer,
    RequestLimits,
)
from embedfleet.api.formats.fields import dimensions_of, request_of
from embedfleet.api.formats.large_bodies import Body, Step
from embedfleet.api.formats.vector_forms import FLOATS
from embedfleet.transport.asgi import Response
from embedfleet.vocabulary import EmbedfleetError, Truncation

LATEST = ":latest"


class _Body(msgspec.Struct, gc=False, forbid_unknown_fields=True, kw_only=True):
    model: str
    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: Integer | None = None
    keep_alive: float | str | None = None


class _BodyOfOne(msgspec.Struct, gc=False, forbid_unknown_fields=True, kw_only=True):
    model: str
    prompt: str | None = None
    keep_alive: float | str | None = None


_RIGHT = {
    "model": "a string, the name of a served model",
    "input": TEXTS,
    "prompt": "a string",
    "truncate": "true or false",
    "dimensions": f"an integer from {LEAST_DIMENSIONS} to the model's width",
    "keep_alive": "a duration; models stay loaded here",
}

_reader = Reader(_Body, "input", _RIGHT, may_be_empty=True)
_one_reader = Reader(_BodyOfOne, "prompt", _RIGHT, may_be_empty=True)


class Ollama:
    """`/api/embed`."""

    name = "ollama"

    def read(self, body: Body, asked: Asked) -> EmbeddingRequest:
        return _request(_reader.read(body, asked.limits), asked.limits)

    def read_large(self, body: Body, asked: Asked, step: Step) -> EmbeddingRequest:
        return _request(_reader.read_large(body, asked.limits, step), asked.limits)

    def write(self, answer: Answer) -> Response:
        rows = answer.listed(FLOATS, lambda _, fault: self.refuse(fault))
        document = {
            "model": answer.request.model,
            "total_duration": int(answer.seconds * 1e9),
            "load_duration": 0,
            "prompt_eval_count": answer.tokens,
        }
        return Response(b'{"embeddings":%b,%b' % (rows, orjson.dumps(document)[1:]))

    def refuse(self, error: EmbedfleetError) -> bytes:
        return orjson.dumps({"error": error.message})


class OllamaOfOne(Ollama):
    """`/api/embeddings`."""

    name = "ollama, one text"

    def read(self, body: Body, asked: Asked) -> EmbeddingRequest:
        return _request_of_one(_one_reader.read(body, asked.limits), asked.limits)

    def read_large(self, body: Body, asked: Asked, step: Step) -> EmbeddingRequest:
        return _request_of_one(_one_reader.read_large(body, asked.limits, step), asked.limits)

    def write(self, answer: Answer) -> Response:
        rows = answer.listed(FLOATS, lambda _, fault: self.refuse(fault))
        return Response(b'{"embedding":%b}' % (rows[1:-1] or b"[]"))


OLLAMA = Ollama()
OLLAMA_OF_ONE = OllamaOfOne()


def _request(read: Read[_Body], limits: RequestLimits) -> EmbeddingRequest:
    fields = read.fields
    wanted = fields.dimensions
    found: dict[str, Any] = {
        "dimensions": None if wanted is None else dimensions_of("dimensions", wanted),
        "forms": (FLOATS,),
        "role": None,
        "truncate": Truncation.NONE if fields.truncate is False else Truncation.END,
    }
    return request_of(EmbeddingRequest, read, limits, found, model=fields.model)


def _request_of_one(read: Read[_BodyOfOne], limits: RequestLimits) -> EmbeddingRequest:
    found: dict[str, Any] = {
        "dimensions": None,
        "forms": (FLOATS,),
        "role": None,
        "truncate": Truncation.END,
    }
    return request_of(
        EmbeddingRequest, read, limits, found, model=read.fields.model, field="prompt"
    )
