"""`GET /openapi.json`: the OpenAPI document of this service, with its limits and current models.

Rendered for each request, as models come and go.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import orjson

from embedfleet.api.formats.openapi import More, openapi_document
from embedfleet.api.intake import Intake
from embedfleet.transport.asgi import Request, Response
from embedfleet.vocabulary import Task


class ApiDescription:
    """Answers `GET /openapi.json`."""

    def __init__(self, intake: Intake, more: Sequence[More] = ()) -> None:
        """`more` is what the service answers beyond vectors and scores."""
        self._intake = intake
        self._more = more
        self._version = version("embedfleet")

    async def show(self, _request: Request) -> Response:
        names: dict[Task, list[str]] = {task: [] for task in Task}
        for name, model in self._intake.models().items():
            names[model.identity.task].append(name)
        document = openapi_document(
            self._intake.limits,
            max_body_bytes=self._intake.max_body_bytes,
            models=names[Task.EMBED],
            rerankers=names[Task.RERANK],
            more=self._more,
            version=self._version,
        )
        return Response(orjson.dumps(document))
