"""Text Embeddings Inference, as its router's source says.

It tokenises everything itself: ids are decoded, and the text encoded again with an end-of-text
token more. Over-long texts are cut off without a word. At most 32 texts go in one request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.small_tokenizer import END
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
class TEI(StandIn):
    """`text-embeddings-router`."""

    pooling: str = "last_token"
    context: int = MAX_TOKENS
    most_texts: int = 32
    sha: str = "0123abc"
    public = frozenset({"/health", "/ping", "/metrics"})

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/health", self.healthy),
            web.get("/info", self.info),
            web.get("/metrics", self.show_metrics),
            web.post("/v1/embeddings", self.embeddings),
        ]

    def error(self, status: int, message: str) -> web.Response:
        if status == 404:
            return web.Response(status=404)
        kinds = {401: "unauthorized", 413: "validation", 422: "tokenizer", 429: "overloaded"}
        content = {"message": message, "code": status, "type": kinds.get(status, "backend")}
        return answer(content, status)

    async def healthy(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def info(self, _request: web.Request) -> web.Response:
        return answer(
            {
                "model_id": self.name,
                "model_sha": self.sha,
                "model_dtype": "float16",
                "model_type": {"embedding": {"pooling": self.pooling}},
                "max_concurrent_requests": 512,
                "max_input_length": self.context,
                "max_batch_tokens": 16384,
                "max_batch_requests": None,
                "max_client_batch_size": self.most_texts,
                "auto_truncate": True,
                "tokenization_workers": 4,
                "version": "1.8.3",
                "sha": "abc",
                "docker_label": None,
            }
        )

    def ids(self, one: Any) -> list[int]:
        text = (
            one if isinstance(one, str) else self.tokenizer.decode(one, skip_special_tokens=False)
        )
        found: list[int] = self.tokenizer.encode(text).ids
        if len(found) <= self.context:
            return found
        end = self.tokenizer.token_to_id(END)
        assert end is not None
        return [*found[: self.context - 1], end]

    @posted
    async def embeddings(self, body: dict[str, Any]) -> web.StreamResponse:
        inputs = as_list(body["input"])
        if len(inputs) > self.most_texts:
            message = f"batch size {len(inputs)} > maximum allowed batch size {self.most_texts}"
            return self.error(413, message)
        written = as_base64 if body.get("encoding_format") == "base64" else as_floats
        rows = [self.ids(one) for one in inputs]
        data = [
            {"object": "embedding", "embedding": written(row), "index": index}
            for index, row in self.spoil([self.vector(ids) for ids in rows])
        ]
        used = sum(map(len, rows))
        usage = {"prompt_tokens": used, "total_tokens": used}
        return answer({"object": "list", "data": data, "model": self.name, "usage": usage})
