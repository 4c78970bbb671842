"""Python client for this service and others with OpenAI's embeddings API: NumPy in and out.

`errors`, `pacing` and `wire` are pure: exceptions, request sizing and retries, and the bytes of
requests. `calling` is one call, `asynchronous` the client; `blocking` is the same for code without
an event loop. No engine is imported.
"""

from embedfleet.client.asynchronous import AsyncClient
from embedfleet.client.blocking import Client
from embedfleet.client.calling import Embedded, Progress, Ranking
from embedfleet.client.errors import AnswerError, ClientError, RefusedError, UnavailableError
from embedfleet.client.wire import EncodingFormat, OutputDtype, ServedModel, Wishes

__all__ = [
    "AnswerError",
    "AsyncClient",
    "Client",
    "ClientError",
    "Embedded",
    "EncodingFormat",
    "OutputDtype",
    "Progress",
    "Ranking",
    "RefusedError",
    "ServedModel",
    "UnavailableError",
    "Wishes",
]
