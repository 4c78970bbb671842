"""An error as JSON, in the form that clients of OpenAI's API parse."""

from __future__ import annotations

import orjson

from embedfleet.vocabulary import EmbedfleetError


def render_error(error: EmbedfleetError) -> bytes:
    """Write an error as OpenAI does; the status to send it with is `error.status`.

    Where several texts are wrong, `details` has an error for each. Voyage's client looks for the
    message in `detail`: without it, that client does not try again after 429.
    """
    told: dict[str, object] = error_fields(error)
    if error.parts:
        told["details"] = [error_fields(each) for each in error.parts]
    return as_json({"error": told, "detail": error.message})


def error_fields(error: EmbedfleetError) -> dict[str, object]:
    """The fields of one error: `message`, `type`, `param` and `code`."""
    return {
        "message": error.message,
        "type": error.kind,
        "param": error.param,
        "code": error.code,
    }


def as_json(value: object) -> bytes:
    """JSON of anything, also of text that is no valid Unicode: that becomes question marks."""
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
