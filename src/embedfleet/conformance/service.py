"""The service under test: one model at a base URL, as checks call it."""

from __future__ import annotations

import json
from typing import Any, Protocol

from embedfleet.conformance.exchange import (
    Answer,
    Ask,
    Inapplicable,
    NoAnswerError,
    Violation,
    accepted,
)
from embedfleet.vocabulary import SetupError

LIMIT_KEYS = ("max_tokens", "max_model_len", "max_input_tokens", "context_length")
"""Where models' cards tell the longest text in tokens: embedfleet and SGLang, vLLM, gateways."""


class Transport(Protocol):
    """Carries requests to one base URL."""

    async def send(self, ask: Ask) -> Answer:
        """Give the answer, whatever its status; raises NoAnswerError."""
        ...


class Service:
    """One model of a service."""

    def __init__(
        self,
        transport: Transport,
        *,
        model: str,
        card: dict[str, Any],
        max_tokens: int | None = None,
        guarded: bool = False,
    ) -> None:
        """`card` is the model as the service lists it, `max_tokens` what is known beside it.

        `guarded` says that an API key is sent.
        """
        self.model = model
        self.card = card
        self.guarded = guarded
        self._transport = transport
        self._max_tokens = max_tokens
        self._added: int | None = None

    @property
    def is_embedfleet(self) -> bool:
        return self.card.get("owned_by") == "embedfleet"

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens. Raises Inapplicable if it is unknown."""
        if self._max_tokens is not None:
            return self._max_tokens
        for key in LIMIT_KEYS:
            if type(self.card.get(key)) is int:
                return int(self.card[key])
        raise Inapplicable("the longest text is not in the model's card; give --max-tokens")

    async def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: dict[str, str] | None = None,
        chunked: bool = False,
        root: bool = False,
    ) -> Answer:
        """Send one request to a path below the base URL; `root` leaves its `/v1` out."""
        ask = Ask(method, path, body, tuple((headers or {}).items()), chunked, root)
        return await self._transport.send(ask)

    async def raw(self, body: bytes) -> Answer:
        """Send a body to `/embeddings` as it is."""
        return await self.call("POST", "/embeddings", body)

    def body(self, given: Any, **fields: Any) -> bytes:
        """Write the body of a request; keys in `fields` win."""
        return json.dumps({"model": self.model, "input": given} | fields).encode()

    async def embed(self, given: Any, **fields: Any) -> Answer:
        """Send `input` with further fields to `/embeddings`, whatever the answer will be."""
        return await self.raw(self.body(given, **fields))

    async def added_tokens(self) -> int:
        """Tokens that the service adds to a text, such as one at its end."""
        if self._added is None:
            self._added = accepted(await self.embed([5])).tokens - 1
        return self._added


async def introduced(
    transport: Transport, *, model: str | None, max_tokens: int | None, guarded: bool
) -> Service:
    """Look the model up, by default the first one that the service lists.

    Raises SetupError if the service does not answer, or no model is named and none is listed.
    """
    try:
        cards = _cards(await transport.send(Ask("GET", "/models")))
    except NoAnswerError as error:
        raise SetupError(str(error)) from None
    card = next((each for each in cards if model in (None, each["id"])), {})
    if not card and not model:
        raise SetupError("the service lists no models at /models; name one with --model")
    return Service(
        transport,
        model=model or str(card["id"]),
        card=card,
        max_tokens=max_tokens,
        guarded=guarded,
    )


def _cards(answer: Answer) -> list[dict[str, Any]]:
    """Read the list of models leniently: whether it is right is a check's to say."""
    try:
        listed = answer.json
    except Violation:
        return []
    data = listed.get("data") if isinstance(listed, dict) else None
    return [each for each in data or [] if isinstance(each, dict) and "id" in each]
