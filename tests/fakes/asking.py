"""An endpoint over a backend whose vectors reveal their texts, and someone who asks it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pybase64

from embedfleet.api.endpoint import Endpoint
from embedfleet.api.formats.openai import RequestLimits
from embedfleet.api.served_model import Answered, ModelVersion, ServedModel
from embedfleet.cache.tiers import VectorCache
from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.scheduling.texts import Caller, Text
from embedfleet.transport.access import Access
from embedfleet.transport.asgi import Request, Response
from embedfleet.vocabulary import EmbedfleetError, Encoding, Lane, Precision, Truncation, Vector
from tests.small_tokenizer import write_model

WIDTH = 64
MODEL = "revealing"


def vector_of(ids: Encoding) -> Vector:
    """The one right vector of an encoding."""
    digest = hashlib.blake2b(np.asarray(ids, "<i4").tobytes(), digest_size=8).digest()
    values = np.random.default_rng(int.from_bytes(digest, "little")).standard_normal(WIDTH)
    unit: Vector = (values / np.linalg.norm(values)).astype(np.float32)
    return unit


async def at_once(_encodings: Sequence[Encoding]) -> None: ...


@dataclass
class RevealingBackend:
    """Computes one text after the other; `before` may wait or raise."""

    before: Callable[[Sequence[Encoding]], Awaitable[None]] = at_once
    computed: list[bytes] = field(default_factory=list)
    """The ids of every text that was computed, in order."""
    cancelled: int = 0
    """Texts that were withdrawn."""
    short: str = ""
    """Why texts wait, as a pool says it."""
    _works: set[asyncio.Task[None]] = field(default_factory=set)
    _asked: dict[Text, tuple[dict[Text, None], Caller]] = field(default_factory=dict)
    """By text, what it was submitted with, and for whom."""

    def __hash__(self) -> int:
        return id(self)

    def admit(self, texts: int, tokens: int, caller: Caller) -> None: ...

    def submit(self, texts: Sequence[Text], caller: Caller) -> None:
        wanted = dict.fromkeys(texts)
        task = asyncio.create_task(self._compute(wanted))
        self._works.add(task)
        task.add_done_callback(self._works.discard)
        self._asked |= dict.fromkeys(texts, (wanted, caller))

    async def _compute(self, wanted: dict[Text, None]) -> None:
        try:
            await self.before([text.encoding for text in wanted])
            for text in tuple(wanted):
                await asyncio.sleep(0)
                if text in wanted:
                    self.computed.append(text.encoding.tobytes())
                    self.tell(text)
        except Exception as error:  # noqa: BLE001  whatever a test raises comes out of the request
            for text in tuple(wanted):
                text.fail(error)  # type: ignore[arg-type]

    def tell(self, text: Text) -> None:
        text.answer(vector_of(text.encoding), 0.5, 0.25, "fake")

    def join(self, text: Text, caller: Caller) -> bool:
        """Where an interactive one would wait behind bulk it is too late."""
        _, first = self._asked[text]
        return bool(caller.lane is Lane.BULK or first.lane is Lane.INTERACTIVE)

    def shortage(self) -> str:
        return self.short

    def withdraw(self, texts: Sequence[Text]) -> None:
        for text in texts:
            wanted, _ = self._asked[text]
            wanted.pop(text, None)
            self.cancelled += 1


@dataclass(frozen=True)
class Heard:
    """An answer."""

    status: int
    body: Any
    headers: dict[bytes, bytes]

    @property
    def vectors(self) -> list[bytes]:
        return [pybase64.b64decode(row["embedding"]) for row in self.body["data"]]

    @property
    def tokens(self) -> int:
        tokens: int = self.body["usage"]["prompt_tokens"]
        return tokens

    @property
    def cache(self) -> str:
        return self.headers[b"x-embedfleet-cache"].decode()


class Asker:
    """Sends requests to an endpoint that serves one small model."""

    def __init__(
        self,
        directory: Path,
        cache: VectorCache | None,
        *,
        backend: RevealingBackend | None = None,
        access: Access | None = None,
        version: ModelVersion | None = None,
    ) -> None:
        description = describe(write_model(directory), name=MODEL)
        self.encoder = Encoder(description)
        self.backend = backend or RevealingBackend()
        self.cache = cache
        self.version: ModelVersion | None = version or ModelVersion("revision", Precision.F32)
        self.model = ServedModel(
            description.identity, (MODEL,), self.encoder, self.backend, 0, lambda: self.version
        )
        self.told: list[Answered] = []
        self.endpoint = Endpoint(
            lambda: {MODEL: self.model},
            limits=RequestLimits(),
            max_body_bytes=2**20,
            max_held_bytes=2**24,
            timeout_s=30,
            tokenizer_threads=1,
            answered=self.told.append,
            access=access,
            cache=cache,
        )

    async def ask(
        self,
        texts: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]],
        *,
        headers: dict[str, str] | None = None,
        gone: asyncio.Event | None = None,
        **fields: Any,
    ) -> Heard:
        """`gone`: set when the caller leaves."""
        body = {"model": MODEL, "input": texts, "encoding_format": "base64"} | fields
        response = await self.endpoint.embeddings(request(body, headers or {}, gone))
        return heard(response)

    def truncate(self, default: str) -> None:
        """Have the pool say what becomes of texts that are too long."""
        self.model = replace(self.model, truncate=Truncation(default))

    def right(self, text: str | Sequence[int], *, prompt: str = "") -> bytes:
        """The bytes that a text must be answered with."""
        (encoded,) = self.encoder.encode([text], prompt=prompt, truncate=Truncation.END)
        return vector_of(encoded.ids).tobytes()


def request(body: object, headers: dict[str, str], gone: asyncio.Event | None) -> Request:
    """A POST whose sender stays until `gone` is set."""
    unread = [msgspec.json.encode(body)]

    async def receive() -> dict[str, Any]:
        if unread:
            return {"type": "http.request", "body": unread.pop()}
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(_message: Any) -> None: ...

    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request(
        {"type": "http", "path": "/v1/embeddings", "headers": given, "client": ("127.0.0.1", 1)},
        receive,
        send,
    )


def heard(response: Response) -> Heard:
    if response.taken is not None:
        response.taken()
    return Heard(response.status, orjson.loads(response.body), dict(response.headers))


def failing(error: EmbedfleetError) -> Callable[[Sequence[Encoding]], Awaitable[None]]:
    async def fail(_encodings: Sequence[Encoding]) -> None:
        raise error

    return fail
