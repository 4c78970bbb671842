"""`GET /openapi.json`: the OpenAPI document of this service, with its limits and current models.

Rendered for each request, as models come and go.
"""

from __future__ import annotations

from importlib.metadata import version

import orjson

from embedfleet.api.formats.openapi import openapi_document
from embedfleet.api.intake import Intake
from embedfleet.transport.asgi import Request, Response


class ApiDescription:
    """Answers `GET /openapi.json`."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._version = version("embedfleet")

    async def show(self, _request: Request) -> Response:
        document = openapi_document(
            self._intake.limits,
            max_body_bytes=self._intake.max_body_bytes,
            models=list(self._intake.models()),
            version=self._version,
        )
        return Response(orjson.dumps(document))
