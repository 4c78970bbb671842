"""Google's Gemini API: `models/NAME:embedContent`, and `:batchEmbedContents` for several texts.

https://ai.google.dev/api/embeddings, at `/v1/` and `/v1beta/`. Field names may be written in camel
case or with underscores, as in the JSON form of protocol buffers. The requests of a batch must
agree in all fields but `content`. A body has at most 1 MiB; Google takes a hundred texts at once.
Models are described at `models` and `models/NAME`; at `/v1/`, which is OpenAI's too, to Google's
clients alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import orjson

from embedfleet.api.contracts.contract import Answer, Asked
from embedfleet.api.formats.bodies import Read, Reader
from embedfleet.api.formats.embedding_request import EmbeddingRequest
from embedfleet.api.formats.fields import request_of, wrong
from embedfleet.api.formats.large_bodies import Body, Step
from embedfleet.api.formats.refusals import missing
from embedfleet.api.formats.vector_forms import FLOATS
from embedfleet.transport.asgi import Request, Response
from embedfleet.transport.errors import as_json
from embedfleet.vocabulary import (
    CallerError,
    EmbedfleetError,
    MethodNotAllowedError,
    UnknownRouteError,
)

PREFIXES: Final = ("/v1beta/models/", "/v1/models/")
_HEADERS: Final = (b"x-goog-api-client", b"x-goog-api-key")
_PATH: Final = re.compile(
    r"/v1(?:beta)?/models/(?P<name>.+):(?P<verb>embedContent|batchEmbedContents)"
)

STATUS_NAMES: Final = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""`status` of an error, by its HTTP status; others are INVALID_ARGUMENT below 500, or INTERNAL."""


class _Part(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    text: str


class _Content(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A text in parts."""

    parts: list[_Part]
    role: str | None = None


class _Body(msgspec.Struct, gc=False, forbid_unknown_fields=True, kw_only=True):
    """Of either route."""

    content: _Content | None = None
    requests: list[dict[str, msgspec.Raw]] | None = None
    model: str | None = None
    texts: None = None


_RIGHT = {
    "content": '{"parts": [{"text": "…"}]}; texts alone have vectors here',
    "requests": 'a list of {"content": {"parts": [{"text": "…"}]}}',
    "model": "a string; the path names the model",
    "texts": "left out: a text is given as `content`",
}


class _Texts(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """What the contents say."""

    content: str = ""
    requests: list[str] = []


_reader = Reader(_Body, "texts", _RIGHT)
_one = Reader(_Texts, "content", _RIGHT)
_several = Reader(_Texts, "requests", _RIGHT)


class GoogleRequest(EmbeddingRequest, frozen=True):
    """With the form of its answer."""

    batch: bool = False
    """Whether it came to `:batchEmbedContents`."""


class Google:
    """Both routes."""

    name = "google"

    def read(self, body: Body, asked: Asked) -> EmbeddingRequest:
        name, batch = _named(asked.path)
        return _request(_reader.read(body, asked.limits), asked, name, batch=batch)

    def read_large(self, body: Body, asked: Asked, step: Step) -> EmbeddingRequest:
        name, batch = _named(asked.path)
        try:
            read = _reader.read_large(body, asked.limits, step)
            return _request(read, asked, name, batch=batch)
        except CallerError as error:
            if error.code != "fields_too_large":
                raise
            raise CallerError(
                "The body has more than 1 MiB; send fewer texts at once.", code=error.code
            ) from None

    def write(self, answer: Answer) -> Response:
        rows = answer.listed(FLOATS, _nothing, around=b'{"values":%b}')
        usage = {"promptTokenCount": answer.tokens, "totalTokenCount": answer.tokens}
        told = orjson.dumps({"usageMetadata": usage})[1:]
        if isinstance(answer.request, GoogleRequest) and answer.request.batch:
            return Response(b'{"embeddings":%b,%b' % (rows, told))
        return Response(b'{"embedding":%b,%b' % (rows[1:-1], told))

    def refuse(self, error: EmbedfleetError) -> bytes:
        other = "INTERNAL" if error.status >= 500 else "INVALID_ARGUMENT"
        status = STATUS_NAMES.get(error.status, other)
        return as_json(
            {"error": {"code": error.status, "message": error.message, "status": status}}
        )


GOOGLE = Google()


def asks_for_vectors(path: str) -> bool:
    """Whether a path is one at which Google's clients request vectors."""
    return _PATH.fullmatch(path) is not None


def is_of_google(request: Request) -> bool:
    """Whether a request for the description of models is of one of Google's clients."""
    return request.path.startswith("/v1beta/") or any(name in request.first for name in _HEADERS)


def card(name: str, revision: str, max_tokens: int, *, embeds: bool) -> dict[str, Any]:
    """The description of a model in Google's format."""
    verbs = ["embedContent", "batchEmbedContents"]
    return {
        "name": f"models/{name}",
        "version": revision,
        "displayName": name,
        "inputTokenLimit": max_tokens,
        "outputTokenLimit": 1,
        "supportedGenerationMethods": verbs if embeds else [],
    }


def _named(path: str) -> tuple[str, bool]:
    """The model that a path names, and whether it is asked for a batch.

    Raises:
        MethodNotAllowedError: For `models/NAME`, which describes a model.
        UnknownRouteError: For what else is not Google's.
    """
    found = _PATH.fullmatch(path)
    if found is not None:
        return found["name"], found["verb"] == "batchEmbedContents"
    if path.startswith(PREFIXES) and ":" not in path:
        raise MethodNotAllowedError(f"{path} supports GET, not POST", allowed=["GET"])
    raise UnknownRouteError(
        f"no such path: {path}; vectors are at /v1beta/models/NAME:embedContent and "
        "/v1beta/models/NAME:batchEmbedContents",
        code="unknown_url",
    )


def _request(read: Read[_Body], asked: Asked, name: str, *, batch: bool) -> EmbeddingRequest:
    fields, further = read.fields, read.further
    if batch:
        if fields.requests is None:
            raise missing("requests", _RIGHT["requests"])
        contents, further = _of_batch(fields.requests)
        texts = _several.texts_of([_text_of(each) for each in contents], asked.limits)
    elif fields.content is None:
        raise missing("content", _RIGHT["content"])
    else:
        texts = _one.texts_of(_text_of(fields.content), asked.limits)
    found: dict[str, Any] = {
        "dimensions": None,
        "forms": (FLOATS,),
        "role": None,
        "truncate": None,
    }
    return request_of(
        GoogleRequest,
        Read(fields, texts, further),
        asked.limits,
        found,
        model=name,
        field="requests" if batch else "content",
        batch=batch,
    )


def _text_of(content: _Content) -> str:
    return "".join(part.text for part in content.parts)


def _of_batch(
    requests: list[dict[str, msgspec.Raw]],
) -> tuple[list[_Content], Mapping[str, msgspec.Raw]]:
    """The contents of all requests, and the other fields of the first, which are those of all."""
    contents: list[_Content] = []
    shared: Mapping[str, msgspec.Raw] | None = None
    for place, given in enumerate(requests):
        others = {name: raw for name, raw in given.items() if name not in {"content", "model"}}
        shared = others if shared is None else shared
        if others != shared:
            odd = min(
                name
                for name in others.keys() | shared.keys()
                if others.get(name) != shared.get(name)
            )
            raise CallerError(
                f"`requests[{place}].{odd}` differs from `requests[0].{odd}`; send requests that "
                "differ in more than `content` by themselves.",
                param=f"requests[{place}].{odd}",
                code="invalid_value",
            )
        try:
            contents.append(msgspec.json.decode(given.get("content", b"null"), type=_Content))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            name = f"requests[{place}].content"
            raise wrong(name, _RIGHT["content"], "something else") from None
    return contents, shared or {}


def _nothing(_place: int, _fault: EmbedfleetError) -> bytes:
    """What stands in the place of a vector."""
    return b"null"
