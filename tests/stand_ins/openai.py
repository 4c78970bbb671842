"""vLLM, llama.cpp's server, another embedfleet gateway, and engines that only claim OpenAI's API.

Each as its own source and documentation say: names of pages and fields, errors, what protects a
page with the key, what becomes of NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.fakes.revealing_engine import UNLUCKY, WIDTH
from tests.stand_ins.server import (
    MAX_TOKENS,
    StandIn,
    answer,
    as_base64,
    as_floats,
    as_list,
    posted,
)


@dataclass
class OpenAICompatible(StandIn):
    """An engine that takes texts alone, knows no base64, and has a list of models."""

    takes_ids: bool = False
    knows_base64: bool = False
    owner: str = "someone"

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/models", self.models),
            web.get("/metrics", self.show_metrics),
            web.post("/v1/embeddings", self.embeddings),
        ]

    def error(self, status: int, message: str) -> web.Response:
        content = {"message": message, "type": "invalid_request_error", "param": None}
        return answer({"error": content | {"code": status}}, status)

    def model_row(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": 0, "owned_by": self.owner}

    async def models(self, _request: web.Request) -> web.Response:
        return answer({"object": "list", "data": [self.model_row()]})

    def refuses(self, body: dict[str, Any], rows: list[list[int]]) -> web.Response | None:
        """What this engine does not take."""
        if not self.takes_ids and not all(isinstance(one, str) for one in as_list(body["input"])):
            return self.error(422, "Input should be a valid string")
        if not self.knows_base64 and body.get("encoding_format", "float") != "float":
            return self.error(400, "encoding_format must be float")
        return None

    @posted
    async def embeddings(self, body: dict[str, Any]) -> web.StreamResponse:
        rows = [self.ids(one) for one in as_list(body["input"])]
        if refused := self.refuses(body, rows):
            return refused
        written = as_base64 if body.get("encoding_format") == "base64" else as_floats
        data = [
            {"object": "embedding", "index": index, "embedding": written(row)}
            for index, row in self.spoil([self.vector(ids) for ids in rows])
        ]
        used = sum(map(len, rows))
        usage = {"prompt_tokens": used, "total_tokens": used}
        return answer({"object": "list", "data": data, "model": self.name, "usage": usage})


@dataclass
class VLLM(OpenAICompatible):
    """`vllm serve --runner pooling`: only /v1 is behind the key."""

    takes_ids: bool = True
    knows_base64: bool = True
    owner: str = "vllm"
    context: int = MAX_TOKENS
    vocabulary: int = 0
    public = frozenset({"/health", "/metrics", "/version", "/load"})

    def routes(self) -> list[web.RouteDef]:
        return [
            *super().routes(),
            web.get("/health", self.healthy),
            web.get("/version", self.version),
        ]

    async def healthy(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def version(self, _request: web.Request) -> web.Response:
        return answer({"version": "0.11.2"})

    def error(self, status: int, message: str) -> web.Response:
        if status == 401:
            return answer({"error": "Unauthorized"}, 401)
        if status == 404:
            return answer({"detail": message}, 404)
        return super().error(status, message)

    def model_row(self) -> dict[str, Any]:
        more = {"root": f"models/{self.name}", "parent": None, "max_model_len": self.context}
        return super().model_row() | more

    def refuses(self, body: dict[str, Any], rows: list[list[int]]) -> web.Response | None:
        if body.get("model") != self.name:
            return super().error(404, f"The model `{body.get('model')}` does not exist.")
        if body.get("dimensions"):
            return self.error(400, f"Model {self.name} does not support matryoshka representation")
        if any(token >= (self.vocabulary or 10**6) for ids in rows for token in ids):
            return self.error(400, "Token id is out of vocabulary")
        if longest := max(map(len, rows)) > self.context:
            return self.error(400, f"maximum context length is {self.context}, not {longest}")
        return super().refuses(body, rows)


@dataclass
class LlamaCpp(OpenAICompatible):
    """`llama-server --embeddings`: its list of models tells width and vocabulary."""

    takes_ids: bool = True
    knows_base64: bool = True
    owner: str = "llamacpp"
    context: int = MAX_TOKENS
    microbatch: int = MAX_TOKENS
    ftype: str = "BF16"
    loading: bool = False
    public = frozenset({"/health", "/v1/health"})

    def routes(self) -> list[web.RouteDef]:
        return [*super().routes(), web.get("/health", self.healthy), web.get("/props", self.props)]

    async def healthy(self, _request: web.Request) -> web.Response:
        return answer({"status": "ok"})

    def error(self, status: int, message: str) -> web.Response:
        return answer({"error": {"code": status, "message": message, "type": "x"}}, status)

    async def show_metrics(self, request: web.Request) -> web.Response:
        if not self.metrics:
            return self.error(
                501, "This server does not support metrics endpoint. Start it with `--metrics`"
            )
        return await super().show_metrics(request)

    async def models(self, request: web.Request) -> web.Response:
        if self.loading:
            return self.error(503, "Loading model")
        return await super().models(request)

    def model_row(self) -> dict[str, Any]:
        vocabulary = self.tokenizer.get_vocab_size()
        meta = {"vocab_type": 2, "n_vocab": vocabulary, "n_ctx_train": MAX_TOKENS, "n_embd": WIDTH}
        return super().model_row() | {"meta": meta | {"n_params": 1000, "size": 4000}}

    async def props(self, _request: web.Request) -> web.Response:
        settings = {"n_ctx": self.context, "params": {}}
        return answer(
            {
                "default_generation_settings": settings,
                "total_slots": 4,
                "model_path": f"{self.name}.gguf",
                "model_ftype": self.ftype,
                "build_info": "b9999-abc",
            }
        )

    def refuses(self, body: dict[str, Any], rows: list[list[int]]) -> web.Response | None:
        for ids in rows:
            if len(ids) > self.microbatch:
                return self.error(
                    500,
                    f"input ({len(ids)} tokens) is too large to process. increase the physical "
                    f"batch size (current batch size: {self.microbatch})",
                )
            if UNLUCKY in ids:  # NaN becomes null, and null can't be written as base64
                return self.error(500, "type must be number, but is null")
        return super().refuses(body, rows)


@dataclass
class Gateway(OpenAICompatible):
    """Another embedfleet gateway: everything but a route for replicas."""

    takes_ids: bool = True
    knows_base64: bool = True
    owner: str = "embedfleet"
    public = frozenset({"/health", "/health/live"})

    def model_row(self) -> dict[str, Any]:
        return super().model_row() | {"max_tokens": MAX_TOKENS, "dimensions": WIDTH}

    def refuses(self, body: dict[str, Any], rows: list[list[int]]) -> web.Response | None:
        if body.get("model") != self.name:
            return self.error(404, f"the model `{body.get('model')}` does not exist here")
        if any(UNLUCKY in ids for ids in rows):
            return self.error(500, "no finite vector")
        return super().refuses(body, rows)
