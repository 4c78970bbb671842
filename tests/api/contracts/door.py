"""The table of routes over an endpoint whose vectors reveal their texts, asked without a socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from embedfleet.api.routes import contract_routes, meant, render_for
from embedfleet.transport.asgi import Guard, Router
from embedfleet.transport.content_encodings import expanded
from tests.fakes.asking import Asker


@dataclass(frozen=True)
class Told:
    """An answer."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class Door:
    """Sends requests through the router."""

    def __init__(self, asker: Asker, guard: Guard | None = None) -> None:
        self.asker = asker
        exact, prefixes = contract_routes(
            asker.endpoint, lambda route: route, lambda route, _: route
        )
        self._app = Router(
            exact, prefixes, guard=guard, expand=expanded, meant=meant, render=render_for
        )

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> Told:
        unread = [b"" if body is None else msgspec.json.encode(body)]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": unread.pop()}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [
                (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
            ],
            "client": ("127.0.0.1", 1),
        }
        await self._app(scope, receive, send)
        head, *rest = sent
        told = {name.decode(): value.decode() for name, value in head["headers"]}
        return Told(head["status"], b"".join(each["body"] for each in rest), told)

    async def post(self, path: str, body: object, **headers: str) -> Told:
        return await self.ask("POST", path, body, **headers)
