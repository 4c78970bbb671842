"""OpenAI's embeddings API: parses requests, renders responses and errors. Pure.

Re-exports `openai_request` and `openai_response`.
"""

from embedfleet.api.formats.bodies import is_quickly_read
from embedfleet.api.formats.embedding_request import (
    LEAST_DIMENSIONS,
    EmbeddingRequest,
    RequestLimits,
    check_dimensions,
)
from embedfleet.api.formats.openai_request import parse_large_request, parse_request
from embedfleet.api.formats.openai_response import (
    render_model,
    render_models,
    render_response,
)
from embedfleet.api.formats.vector_forms import derive
from embedfleet.transport.errors import render_error

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
