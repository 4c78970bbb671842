"""OpenAI's embeddings API as bytes and values: requests in, answers and errors out.

The one import for users of the format; the work is in `openai_request` and `openai_response`. All
of it is pure: no I/O, no clock.
"""

from embedfleet.wire.openai_request import (
    LEAST_DIMENSIONS,
    EmbeddingRequest,
    EncodingFormat,
    RequestLimits,
    check_dimensions,
    is_quickly_read,
    parse_large_request,
    parse_request,
)
from embedfleet.wire.openai_response import (
    derive,
    render_error,
    render_model,
    render_models,
    render_response,
)

__all__ = [
    "LEAST_DIMENSIONS",
    "EmbeddingRequest",
    "EncodingFormat",
    "RequestLimits",
    "check_dimensions",
    "derive",
    "is_quickly_read",
    "parse_large_request",
    "parse_request",
    "render_error",
    "render_model",
    "render_models",
    "render_response",
]
