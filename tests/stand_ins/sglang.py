"""SGLang 0.5.15, as recorded in `tests/fixtures/sglang`.

It ignores `encoding_format` and the model's name, writes floats that were normalised in bf16, has
errors that are not nested, and dies of a token id outside its vocabulary.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from aiohttp import web
from numpy.typing import NDArray

from tests.fakes.revealing_engine import WIDTH
from tests.stand_ins.server import MAX_TOKENS, StandIn, answer, as_floats, as_list

RECORDED = Path(__file__).parents[1] / "fixtures" / "sglang"


def recording(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((RECORDED / f"0.5.15-{name}.json").read_text())
    return rows


def page(path: str) -> Any:
    """What a launch on the fast path answered at a path."""
    rows = recording("fast-path")
    return next(row["body"] for row in rows if row["request"]["path"] == path)


@dataclass
class SGLang(StandIn):
    """Fields beyond those of every stand-in are what it was started with."""

    matryoshka: bool = True
    embedding: bool = True
    context: int = MAX_TOKENS
    vocabulary: int = 0
    weights: str = "default"
    width: int = WIDTH
    byte_level: bool = False
    """Tokens are bytes, as in the recording."""

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/health", self.empty),
            web.get("/health_generate", self.empty),
            web.get("/ping", self.empty),
            web.get("/model_info", self.model_info),
            web.get("/server_info", self.server_info),
            web.get("/get_load", self.load),
            web.get("/v1/models", self.models),
            web.get("/metrics", self.show_metrics),
            web.post("/v1/embeddings", self.embeddings),
        ]

    def error(self, status: int, message: str) -> web.Response:
        if status == 404:
            return answer({"detail": "Not Found"}, status)
        if status == 401:
            return answer({"error": message}, status)
        return self.refusal(message, "BadRequestError", status)

    def refusal(
        self, message: str, kind: str = "BadRequestError", status: int = 400
    ) -> web.Response:
        content = {"object": "error", "message": message, "type": kind, "param": None}
        return answer(content | {"code": status}, status)

    async def empty(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def load(self, _request: web.Request) -> web.Response:
        return answer(page("/get_load"))

    async def model_info(self, _request: web.Request) -> web.Response:
        changes = {"model_path": f"models/{self.name}", "weight_version": self.weights}
        return answer(page("/model_info") | changes | {"is_generation": not self.embedding})

    async def server_info(self, _request: web.Request) -> web.Response:
        changes = {"model_path": f"models/{self.name}", "served_model_name": self.name}
        return answer(page("/server_info") | changes)

    async def models(self, _request: web.Request) -> web.Response:
        content = page("/v1/models")
        content["data"][0] |= {"id": self.name, "root": self.name, "max_model_len": self.context}
        return answer(content)

    async def show_metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=page("/metrics")) if self.metrics else self.error(404, "")

    def ids(self, one: Any) -> list[int]:
        if self.byte_level and isinstance(one, str):
            return list(one.encode())
        return super().ids(one)

    def vector(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Normalised in bf16: bf16 numbers, and a length that is off by about 1e-3."""
        exact = np.resize(super().vector(ids), self.width)
        return (exact.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        try:
            body = orjson.loads(raw := await request.read())
        except orjson.JSONDecodeError:
            return self.unreadable(raw)
        self.bodies.append(body)
        if stopped := await self.wait():
            return stopped
        wrong = _shape(body)
        if wrong:
            return self.refusal(wrong, "Bad Request")
        given = body["input"]
        inputs = as_list(given)
        if complaint := self.complaint(given, inputs, body.get("dimensions")):
            return self.refusal(complaint)
        rows = [self.ids(one) for one in inputs]
        if any(token >= (self.vocabulary or 10**6) for ids in rows for token in ids):
            # A device-side assert: the process is gone, nothing is answered ever after.
            if request.transport is not None:
                request.transport.abort()
            asyncio.get_running_loop().call_soon(asyncio.ensure_future, self.die())
            await asyncio.sleep(60)
        vectors = [self.vector(ids)[: body.get("dimensions") or self.width] for ids in rows]
        data = [
            {"embedding": as_floats(row), "index": index, "object": "embedding"}
            for index, row in self.spoil(vectors)
        ]
        used = sum(map(len, rows))
        usage = {"prompt_tokens": used, "total_tokens": used, "completion_tokens": 0}
        usage |= {"prompt_tokens_details": None, "reasoning_tokens": 0}  # type: ignore[dict-item]
        model = f"models/{self.name}"
        return answer({"data": data, "model": model, "object": "list", "usage": usage})

    def unreadable(self, raw: bytes) -> web.Response:
        try:
            raw.decode()
        except UnicodeDecodeError:
            return answer({"detail": "There was an error parsing the body"}, 400)
        return self.refusal("[{'type': 'json_invalid', …}]", "Bad Request")

    def complaint(self, given: Any, inputs: list[Any], dimensions: int | None) -> str:
        """What is wrong with a request of the right shape."""
        if not given:
            return "Input cannot be empty"
        if isinstance(given, str) and given.isspace():
            return "Input cannot be empty or whitespace only"
        for index, one in enumerate(inputs):
            if isinstance(one, str) and not one.strip():
                return f"Input at index {index} cannot be empty or whitespace only"
            if not isinstance(one, str) and min(one) < 0:
                return f"Token ID at index {index} must be non-negative"
            if len(self.ids(one)) > self.context:
                return (
                    f"The input ({len(self.ids(one))} tokens) is longer than the model's context "
                    f"length ({self.context} tokens)."
                )
        return "" if dimensions is None else self.too_many(dimensions)

    def too_many(self, dimensions: int) -> str:
        """What is wrong with the dimensions asked for."""
        if not self.matryoshka:
            return (
                f"Model 'models/{self.name}' does not support matryoshka representation, changing "
                "output dimensions will lead to poor results."
            )
        if dimensions < 1:
            return "Requested dimensions must be greater than 0"
        if dimensions > self.width:
            return f"Provided dimensions are greater than max embedding dimension: {self.width}"
        return ""


def _shape(body: Any) -> str:
    """The complaint about a field of a wrong type."""
    if "encoding_format" in body and not isinstance(body["encoding_format"], str):
        return "[{'type': 'string_type', 'loc': ('body', 'encoding_format'), …}]"
    given = body.get("input")
    items = given if isinstance(given, list) else [given]
    kinds = {type(one) for one in items}
    if isinstance(given, str | list) and len(kinds) <= 1 and kinds <= {str, int, list}:
        return ""
    return "[{'type': 'list_type', 'loc': ('body', 'input', 'list[int]'), …}]"
