"""Python client for this service and others with OpenAI's embeddings API: NumPy in and out.

`errors`, `flow_control` and `wire` are pure: exceptions, request sizing and retries, and the bytes
of requests. `calling` is one call, `asynchronous` the client, `blocking` the same for code without
an event loop. No engine is imported.
"""

from embedfleet.client.asynchronous import AsyncClient
from embedfleet.client.blocking import Client
from embedfleet.client.calling import Embedded, Progress, Ranking
from embedfleet.client.errors import AnswerError, ClientError, RefusedError, UnavailableError
from embedfleet.client.wire import EmbedOptions, EncodingFormat, OutputDtype, ServedModel

__all__ = [
    "AnswerError",
    "AsyncClient",
    "Client",
    "ClientError",
    "EmbedOptions",
    "Embedded",
    "EncodingFormat",
    "OutputDtype",
    "Progress",
    "Ranking",
    "RefusedError",
    "ServedModel",
    "UnavailableError",
]
