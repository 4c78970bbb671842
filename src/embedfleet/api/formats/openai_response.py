"""Renders responses in OpenAI's format: vectors, token ids, models.

Vectors never become Python floats: base64 is made from their bytes, JSON numbers by orjson from the
array. 64 vectors of 1,024 dimensions take some 60 µs as base64 and 3 ms as JSON numbers on one core
(`benchmarks/wire.py`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

from embedfleet.api.formats.vector_forms import FLOATS, Form, as_bytes, as_numbers, rounded, scale
from embedfleet.transport.errors import as_json, error_fields
from embedfleet.vocabulary import EmbedfleetError, Encoding, ModelIdentity, Task, Vectors


def render_response(
    vectors: Vectors | Sequence[NDArray[np.float32]],
    *,
    form: Form = FLOATS,
    model: str,
    prompt_tokens: int,
    truncated: Container[int] = (),
    places: Sequence[int] | None = None,
    faults: Mapping[int, EmbedfleetError] = MappingProxyType({}),
) -> bytes:
    """Write the answer to an embeddings request.

    `vectors` has shape [texts, dimensions], or is one float32 array a text, in the order of the
    request's texts; `prompt_tokens` is the sum over them, end-of-text tokens included. `places`
    says where in the request they are, None from the first one on; `faults` has an error for each
    other place. `truncated` are places whose text was cut.
    """
    numbers = rounded(vectors, form.kind)
    indices = range(len(numbers)) if places is None else places
    if form.layout == "base64":
        rows = as_bytes(numbers, big_endian=form.big_endian)
        quote, written = b'"', map(pybase64.b64encode, rows)
    else:
        quote, written = b"", map(_dumps, as_numbers(numbers))
    parts: list[bytes] = []
    wrong = sorted(faults, reverse=True)
    for index, row in zip(indices, written, strict=True):
        while wrong and wrong[-1] < index:
            parts.append(_faulty(wrong[-1], faults[wrong.pop()]))
        end = b',"truncated":true}' if index in truncated else b"}"
        # A vector is copied once, into the whole.
        parts += (_OPENING % (index, quote), row, quote, end)
    parts += [_faulty(index, faults[index]) for index in reversed(wrong)]
    parts[0] = b'{"object":"list","data":[' + parts[0][1:]  # but for the comma
    usage = b'"usage":{"prompt_tokens":%d,"total_tokens":%d}' % (prompt_tokens, prompt_tokens)
    parts += (b'],"model":', as_json(model), b",", _of_integers(form, vectors), usage)
    parts.append(_NO_ID)
    return b"".join(parts)


_NO_ID = b',"id":""}'
"""OpenAI's answer has none, and Mistral's client requires one. It is empty so that equal requests
have equal answers; `x-request-id` tells them apart.
"""
_OPENING = b',{"object":"embedding","index":%d,"embedding":%b'
_dumps = partial(orjson.dumps, option=orjson.OPT_SERIALIZE_NUMPY)


def _faulty(index: int, fault: EmbedfleetError) -> bytes:
    """What stands in the place of a vector, with the comma before it."""
    told = {"object": "error", "index": index, "embedding": None, "error": error_fields(fault)}
    return b"," + as_json(told)


def _of_integers(form: Form, vectors: Vectors | Sequence[NDArray[np.float32]]) -> bytes:
    """What is to be known of vectors of another kind than float32: which, and their scale."""
    if form.kind == "float32":
        return b""
    step = scale(form.kind, len(vectors[0])) if len(vectors) else None
    scaled = b"" if step is None else b'"scale":%b,' % as_json(step)
    return b'"output_dtype":"%b",%b' % (form.kind.encode(), scaled)


Card = tuple[str, int, ModelIdentity] | tuple[str, int, ModelIdentity, Mapping[str, object]]


def render_models(models: Iterable[Card]) -> bytes:
    """Write the answer to `GET /v1/models`; per model as `render_model` takes it."""
    return as_json({"object": "list", "data": [_model(*model) for model in models]})


def render_model(
    name: str,
    created: int,
    identity: ModelIdentity,
    more: Mapping[str, object] = MappingProxyType({}),
) -> bytes:
    """Write the answer to `GET /v1/models/{name}`.

    `name` is the one that requests use, `created` when serving began, in seconds since 1970, `more`
    what is told of the model beside its identity.
    """
    return as_json(_model(name, created, identity, more))


def _model(
    name: str,
    created: int,
    identity: ModelIdentity,
    more: Mapping[str, object] = MappingProxyType({}),
) -> dict[str, object]:
    """OpenAI's four fields, then ours."""
    reranks = identity.task is Task.RERANK
    return {
        "id": name,
        "object": "model",
        "type": "rerank" if reranks else "embedding",  # by which Mistral's client reads a list
        "created": created,
        "owned_by": "embedfleet",
        "max_tokens": identity.max_tokens,
        **({"task": "rerank"} if reranks else {"dimensions": identity.width}),
        **more,
    }


def render_tokens(
    encodings: Sequence[Encoding], truncated: Sequence[bool], *, model: str, max_tokens: int
) -> bytes:
    """Write the answer to a request for tokens.

    `encodings` are the texts' token ids with prompt and end-of-text token, `truncated` says of each
    whether its end was cut off, `max_tokens` is the longest text that the model takes.
    """
    total = sum(map(len, encodings))
    data = b",".join(
        orjson.dumps(
            {
                "object": "tokens",
                "index": index,
                "tokens": ids,
                "count": len(ids),
                "truncated": cut,
            },
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
        # One by one: the interpreter is held for a text at most, not for all of them.
        for index, (ids, cut) in enumerate(zip(encodings, truncated, strict=True))
    )
    told = orjson.dumps(
        {
            "model": model,
            "max_tokens": max_tokens,
            "usage": {"prompt_tokens": total, "total_tokens": total},
        }
    )
    return b'{"object":"list","data":[%b],%b' % (data, told[1:])
