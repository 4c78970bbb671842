"""OpenAI's API, with extensions of vLLM and Voyage.

Raw bytes are vLLM's: `bytes` has a header `metadata` that says in JSON where each vector lies,
`bytes_only` has none. Both also have `x-embedfleet-shape`, `x-embedfleet-dtype` and
`x-embedfleet-usage`, which give the same for any number of texts.
"""

from __future__ import annotations

import orjson

from embedfleet.api.contracts.contract import Answer, Asked
from embedfleet.api.formats.embedding_request import EmbeddingRequest
from embedfleet.api.formats.large_bodies import Body, Step
from embedfleet.api.formats.openai_request import parse_large_request, parse_request
from embedfleet.api.formats.openai_response import render_response
from embedfleet.api.formats.vector_forms import IN_JSON, as_bytes, rounded, scale
from embedfleet.transport.asgi import Response
from embedfleet.transport.errors import render_error
from embedfleet.vocabulary import CallerError, EmbedfleetError

BYTES = b"application/octet-stream"

MOST_DESCRIBED = 64
"""Texts of an answer whose places its header describes: 8 kB is the longest header that common
clients take."""


class OpenAI:
    """`/v1/embeddings`."""

    name = "openai"

    def read(self, body: Body, asked: Asked) -> EmbeddingRequest:
        return checked(parse_request(body, asked.limits))

    def read_large(self, body: Body, asked: Asked, step: Step) -> EmbeddingRequest:
        return checked(parse_large_request(body, asked.limits, step))

    def write(self, answer: Answer) -> Response:
        request = answer.request
        form = request.forms[0]
        if form.layout not in IN_JSON:
            return _bytes(answer)
        body = render_response(
            answer.vectors,
            form=form,
            model=request.model,
            prompt_tokens=answer.tokens,
            truncated=answer.truncated,
            places=answer.places,
            faults=answer.faults,
        )
        return Response(body)

    def refuse(self, error: EmbedfleetError) -> bytes:
        return render_error(error)


OPENAI = OpenAI()


def checked(request: EmbeddingRequest) -> EmbeddingRequest:
    """Raise CallerError for what a body of bytes can't hold."""
    layout = request.forms[0].layout
    if layout in IN_JSON:
        return request
    if request.by_item:
        raise CallerError(
            f'`on_error` "item" needs a JSON response, and `encoding_format` is "{layout}"; use '
            '"float" or "base64".',
            param="encoding_format",
            code="invalid_value",
        )
    if layout == "bytes" and request.texts > MOST_DESCRIBED:
        raise CallerError(
            f'`encoding_format` "bytes" describes each vector in a header, which has room for '
            f'{MOST_DESCRIBED}; got {request.texts} texts. "bytes_only" takes any number.',
            param="encoding_format",
            code="invalid_value",
        )
    return request


def _bytes(answer: Answer) -> Response:
    """One body with all vectors, one behind the other."""
    request, form, vectors = answer.request, answer.request.form, answer.vectors
    rows = as_bytes(rounded(vectors, form.kind), big_endian=form.big_endian)
    shape = (len(rows), len(rows[0]))
    usage = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
    headers = [
        (b"x-embedfleet-shape", b"%d, %d" % shape),
        (b"x-embedfleet-dtype", form.kind.encode()),
        (b"x-embedfleet-usage", orjson.dumps(usage)),
    ]
    step = scale(form.kind, len(vectors[0]))
    if step is not None:
        headers.append((b"x-embedfleet-scale", orjson.dumps(step)))
    body = b"".join(rows)
    if form.layout == "bytes":
        size = len(body) // shape[0]
        items = [
            {
                "index": index,
                "embed_dtype": form.kind,
                "endianness": "big" if form.big_endian else "little",
                "start": index * size,
                "end": (index + 1) * size,
                "shape": shape[1:],
            }
            for index in range(shape[0])
        ]
        document = {"id": answer.name, "model": request.model, "data": items, "usage": usage}
        headers.append((b"metadata", _ascii(document)))
    return Response(body, content_type=BYTES, headers=headers)


def _ascii(value: object) -> bytes:
    """JSON fit for a header."""
    return orjson.dumps(value).decode().encode("ascii", "backslashreplace")
