"""`/openapi.json`: the API as it is served here, with these limits and these models.

Decides when it is written: for each caller, as models come and go. Refuses to know what is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version

import orjson

from embedfleet.endpoint.seams import ServedModel
from embedfleet.wire.asgi import Request, Response
from embedfleet.wire.openai import RequestLimits
from embedfleet.wire.openapi import openapi_document


class ApiDescription:
    """Answers `GET /openapi.json`."""

    def __init__(
        self,
        models: Callable[[], Mapping[str, ServedModel]],
        *,
        limits: RequestLimits,
        max_body_bytes: int,
    ) -> None:
        self._models = models
        self._limits = limits
        self._max_body_bytes = max_body_bytes
        self._version = version("embedfleet")

    async def show(self, _request: Request) -> Response:
        document = openapi_document(
            self._limits,
            max_body_bytes=self._max_body_bytes,
            models=list(self._models()),
            version=self._version,
        )
        return Response(orjson.dumps(document))
