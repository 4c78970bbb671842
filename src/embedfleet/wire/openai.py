"""OpenAI's embeddings API: parses requests, renders responses and errors. Pure.

Re-exports `openai_request` and `openai_response`.
"""

from embedfleet.wire.bodies import is_quickly_read
from embedfleet.wire.embedding_request import (
    LEAST_DIMENSIONS,
    EmbeddingRequest,
    RequestLimits,
    check_dimensions,
)
from embedfleet.wire.errors import render_error
from embedfleet.wire.forms import derive
from embedfleet.wire.openai_request import parse_large_request, parse_request
from embedfleet.wire.openai_response import (
    render_model,
    render_models,
    render_response,
)

__all__ = [
    "LEAST_DIMENSIONS",
    "EmbeddingRequest",
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
