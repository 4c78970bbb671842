"""OpenAI's embeddings API over anything that computes vectors: what others need of it."""

from embedfleet.endpoint.answering import Endpoint
from embedfleet.endpoint.seams import UNKNOWN, Answered, Promise, ServedModel
from embedfleet.endpoint.texts import Backend, Caller, Text, Waiting

__all__ = [
    "UNKNOWN",
    "Answered",
    "Backend",
    "Caller",
    "Endpoint",
    "Promise",
    "ServedModel",
    "Text",
    "Waiting",
]
