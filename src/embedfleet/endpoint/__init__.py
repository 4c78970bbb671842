"""OpenAI's embeddings API over anything that computes vectors: what others need of it."""

from embedfleet.endpoint.answering import Endpoint
from embedfleet.endpoint.seams import (
    Answered,
    Backend,
    Caller,
    Computed,
    Promise,
    ServedModel,
)

__all__ = [
    "Answered",
    "Backend",
    "Caller",
    "Computed",
    "Endpoint",
    "Promise",
    "ServedModel",
]
