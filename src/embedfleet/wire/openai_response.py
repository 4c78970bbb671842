"""What is answered in OpenAI's format: vectors, errors, models.

This module decides how a full vector becomes one of the wanted length (`derive`, the one place
where that happens, for fresh and for cached vectors) and which bytes go out. It refuses to know
where vectors come from, and HTTP beyond the body.

Vectors never become Python floats: base64 is made from their bytes, JSON numbers by orjson from the
array. `benchmarks/wire.py` prints what that costs: for 64 vectors of 1,024 dimensions some 60 µs in
base64 and 3 ms as JSON numbers, of one core.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

from embedfleet.vocabulary import EmbedfleetError, ModelIdentity, VectorError, Vectors
from embedfleet.wire.openai_request import EncodingFormat


def derive(
    vectors: Vectors | Sequence[NDArray[np.float32]], dimensions: int | None = None
) -> Vectors | Sequence[NDArray[np.float32]]:
    """Make the answer's vectors, shape [texts, dimensions], from full ones of unit length.

    `vectors` is a float32 matrix [texts, width] or one float32 array [width] per text. Full width
    (also by None) gives the same bits; fewer dimensions are cut off and the rest is brought to unit
    length, in float32. A row's result does not depend on the rows beside it. What is not cut comes
    back as it is, a matrix or rows.

    Raises ValueError for dimensions below 1 or above the width, VectorError if nothing but zeros
    is left of a vector.
    """
    width = len(vectors[0])
    if dimensions is None or dimensions == width:
        return vectors
    full = vectors if isinstance(vectors, np.ndarray) else np.stack(vectors)
    if not 1 <= dimensions < width:
        raise ValueError(f"no {dimensions} dimensions in vectors of {width}")
    # One copy makes rows contiguous, so that every row is summed in the same order, however many
    # there are: a cached vector must give the same bits as a fresh one.
    cut = np.ascontiguousarray(full[:, :dimensions])
    lengths = np.sqrt(np.add.reduce(cut * cut, axis=1, keepdims=True))
    if not lengths.all():
        raise VectorError(f"the first {dimensions} dimensions of a vector are all zero")
    return np.divide(cut, lengths)


def render_response(
    vectors: Vectors | Sequence[NDArray[np.float32]],
    *,
    encoding_format: EncodingFormat,
    model: str,
    prompt_tokens: int,
) -> bytes:
    """Write the answer to an embeddings request.

    `vectors` has shape [texts, dimensions], or is one float32 array a text, in the order of the
    request's texts; `prompt_tokens` is the sum over them, end-of-text tokens included. base64 holds
    little-endian float32.
    """
    # Rows of a cache are contiguous and go out as they lie there.
    rows = np.ascontiguousarray(vectors, "<f4") if isinstance(vectors, np.ndarray) else vectors
    parts = [b'{"object":"list","data":[']
    if encoding_format == "base64":
        for index, row in enumerate(rows):
            parts += (_OPENING[index > 0] % index, b'"', pybase64.b64encode(row), b'"}')
    else:
        for index, row in enumerate(rows):
            numbers = orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
            parts += (_OPENING[index > 0] % index, numbers, b"}")
    usage = b'"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (prompt_tokens, prompt_tokens)
    parts += (b'],"model":', _json(model), b",", usage)
    return b"".join(parts)


_OPENING = (
    b'{"object":"embedding","index":%d,"embedding":',
    b',{"object":"embedding","index":%d,"embedding":',
)


def render_error(error: EmbedfleetError) -> bytes:
    """Write an error as OpenAI does; the status to send it with is `error.status`."""
    return _json(
        {
            "error": {
                "message": error.message,
                "type": error.kind,
                "param": error.param,
                "code": error.code,
            }
        }
    )


def render_models(models: Iterable[tuple[str, int, ModelIdentity]]) -> bytes:
    """Write the answer to `GET /v1/models`; per model as `render_model` takes it."""
    return _json({"object": "list", "data": [_model(*model) for model in models]})


def render_model(name: str, created: int, identity: ModelIdentity) -> bytes:
    """Write the answer to `GET /v1/models/{name}`.

    `name` is the one that requests use, `created` when serving began, in seconds since 1970.
    """
    return _json(_model(name, created, identity))


def _model(name: str, created: int, identity: ModelIdentity) -> dict[str, object]:
    """OpenAI's four fields, then ours."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "embedfleet",
        "max_tokens": identity.max_tokens,
        "dimensions": identity.width,
    }


def _json(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        # A name or path from outside may hold half a surrogate pair, which is no valid UTF-8.
        return orjson.dumps(_replaced(value))


def _replaced(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _replaced(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_replaced(one) for one in value]
    return value
