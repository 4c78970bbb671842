"""A small HTTP client that sends what it is told, right or wrong, and reads answers as they come.

The checks of the contract talk through it; nothing here is of embedfleet, so that they judge any
service that speaks OpenAI's embeddings API.
"""

from __future__ import annotations

import base64
import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def vectors(self) -> Vectors:
        """The vectors of an embeddings answer in the order of its `index`, shape [texts, width]."""
        data = sorted(self.json["data"], key=lambda one: int(one["index"]))
        return np.stack([_numbers(one["embedding"]) for one in data])

    @property
    def tokens(self) -> int:
        return int(self.json["usage"]["prompt_tokens"])


def _numbers(embedding: str | list[float]) -> Vectors:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
    return np.array(embedding, dtype=np.float32)


class Endpoint:
    """A service at a base URL, with or without `/v1` at its end."""

    def __init__(self, base_url: str, *, model: str | None = None, api_key: str = "none") -> None:
        """Use the first model that the service lists unless one is named."""
        parts = urlsplit(base_url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port
        self._secure = parts.scheme == "https"
        self._path = parts.path.rstrip("/").removesuffix("/v1") + "/v1"
        self._api_key = api_key
        cards = self.call("GET", "/models").json["data"]
        self.card = next(card for card in cards if model in (None, card["id"]))
        self.model = str(self.card["id"])

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send one request to a path below `/v1`."""
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=TIMEOUT_S)
        defaults = {
            "content-type": "application/json",
            "authorization": f"Bearer {self._api_key}",
        }
        try:
            connection.request(method, self._path + path, body, defaults | (headers or {}))
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def raw(self, body: bytes) -> Answer:
        """Send a body to `/v1/embeddings` as it is."""
        return self.call("POST", "/embeddings", body)

    def embed(self, given: Any, **fields: Any) -> Answer:
        """Send `input` with further fields to `/v1/embeddings`, whatever the answer will be."""
        return self.raw(json.dumps({"model": self.model, "input": given} | fields).encode())
