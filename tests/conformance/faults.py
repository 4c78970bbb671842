"""A service that is wrong on purpose: the right one, with what it sends spoilt on the way out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pybase64

from embedfleet.transport.asgi import App, Message, Receive, Scope, Send


@dataclass(frozen=True)
class Sent:
    """An answer before it goes out, and the request that it belongs to."""

    method: str
    path: str
    asked: bytes
    told: dict[str, str]
    """The request's headers."""
    company: int
    """Requests in progress, this one included."""
    status: int
    content_type: str
    headers: dict[bytes, bytes]
    """Others of the answer."""
    body: bytes

    @property
    def request(self) -> Any:
        """The request's JSON; an empty object where it is none."""
        try:
            found = json.loads(self.asked)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def embeddings(self) -> bool:
        return self.status == 200 and self.path.endswith("/embeddings")

    def saying(self, value: Any) -> Sent:
        return replace(self, body=json.dumps(value).encode())


Fault: TypeAlias = Callable[[Sent], Sent]


def right(sent: Sent) -> Sent:
    return sent


class Spoiling:
    """An ASGI app around another one; `fault` changes each answer."""

    def __init__(self, app: App) -> None:
        self.fault: Fault = right
        self.linger_s = 0.0
        """How long an answer is kept back, so that requests overlap."""
        self._app = app
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked, whole = bytearray(), bytearray()
        started: dict[str, Any] = {}

        async def hear() -> Message:
            message = await receive()
            asked.extend(message.get("body", b""))
            return message

        async def keep(message: Message) -> None:
            started.update(message)
            whole.extend(message.get("body", b""))

        self._active += 1
        try:
            await self._app(scope, hear, keep)
            if self.linger_s:
                await asyncio.sleep(self.linger_s)
            sent = self.fault(self._sent(scope, bytes(asked), started, bytes(whole)))
        finally:
            self._active -= 1
        headers = {
            b"content-type": sent.content_type.encode(),
            b"content-length": str(len(sent.body)).encode(),
        }
        start = {"type": "http.response.start", "status": sent.status}
        await send(start | {"headers": list((headers | sent.headers).items())})
        await send({"type": "http.response.body", "body": sent.body})

    def _sent(self, scope: Scope, asked: bytes, started: Message, body: bytes) -> Sent:
        headers = {name: value for name, value in started["headers"] if name != b"content-length"}
        return Sent(
            scope["method"],
            scope["path"],
            asked,
            {name.decode(): value.decode("latin-1") for name, value in scope["headers"]},
            self._active,
            started["status"],
            headers.pop(b"content-type").decode(),
            headers,
            body,
        )


def of_answer(change: Callable[[dict[str, Any]], object]) -> Fault:
    """Change the object of every embeddings answer in place."""

    def fault(sent: Sent) -> Sent:
        if not sent.embeddings:
            return sent
        answer = json.loads(sent.body)
        change(answer)
        return sent.saying(answer)

    return fault


def of_path(path: str, change: Callable[[Any, Any], Any], status: int = 200) -> Fault:
    """Change the value of every answer of one path, given the request and the answer."""

    def fault(sent: Sent) -> Sent:
        if sent.status != status or not sent.path.endswith(path):
            return sent
        return sent.saying(change(sent.request, json.loads(sent.body)))

    return fault


def of_vectors(change: Callable[[Any, Any], Any]) -> Fault:
    """Change each vector, given the request and the vector as float32 numbers."""

    def fault(sent: Sent) -> Sent:
        if not sent.embeddings:
            return sent
        answer = json.loads(sent.body)
        for one in answer["data"]:
            packed = isinstance(one["embedding"], str)
            vector = (
                np.frombuffer(pybase64.b64decode(one["embedding"]), "<f4")
                if packed
                else np.array(one["embedding"], np.float32)
            )
            changed = np.asarray(change(sent.request, vector), np.float32)
            one["embedding"] = (
                pybase64.b64encode(changed.tobytes()).decode() if packed else changed.tolist()
            )
        return sent.saying(answer)

    return fault


def of_errors(change: Callable[[dict[str, Any]], object]) -> Fault:
    """Change the inner object of every error in place."""

    def fault(sent: Sent) -> Sent:
        if sent.status < 400:
            return sent
        answer = json.loads(sent.body)
        change(answer["error"])
        return sent.saying(answer)

    return fault


def swapped(answer: dict[str, Any]) -> None:
    """Give the first two texts each other's vectors; indices count up as they should."""
    data = answer["data"]
    if len(data) > 1:
        data[0]["embedding"], data[1]["embedding"] = data[1]["embedding"], data[0]["embedding"]


def swapped_late(answer: dict[str, Any]) -> None:
    """As an engine that loses its order at the boundary of a batch."""
    data = answer["data"]
    if len(data) > 1000:
        data[999]["embedding"] = data[1000]["embedding"] = data[0]["embedding"]


def first_only(answer: dict[str, Any]) -> None:
    del answer["data"][1:]


def unnumbered(answer: dict[str, Any]) -> None:
    for one in answer["data"]:
        one["index"] = 0


def repacked(kind: str | None = None, *, cut: int = 0) -> Fault:
    """Write base64 from numbers of another kind, or lose its last characters."""

    def fault(sent: Sent) -> Sent:
        if not sent.embeddings or sent.request.get("encoding_format") != "base64":
            return sent
        answer = json.loads(sent.body)
        for one in answer["data"]:
            vector = np.frombuffer(pybase64.b64decode(one["embedding"]), "<f4")
            text = pybase64.b64encode(vector.astype(kind or "<f4").tobytes()).decode()
            one["embedding"] = text[: len(text) - cut]
        return sent.saying(answer)

    return fault


def always_written(*, packed: bool) -> Fault:
    """As gateways that ignore `encoding_format`."""

    def fault(sent: Sent) -> Sent:
        if not sent.embeddings:
            return sent
        answer = json.loads(sent.body)
        for one in answer["data"]:
            found = one["embedding"]
            if packed and isinstance(found, list):
                one["embedding"] = pybase64.b64encode(np.array(found, "<f4").tobytes()).decode()
            if not packed and isinstance(found, str):
                one["embedding"] = np.frombuffer(pybase64.b64decode(found), "<f4").tolist()
        return sent.saying(answer)

    return fault


def coarse_base64(request: Any, vector: Any) -> Any:
    """As a cache that keeps float16 for base64 alone."""
    return vector.astype(np.float16) if request.get("encoding_format") == "base64" else vector


def cut_and_left_short(request: Any, vector: Any) -> Any:
    """As engines that cut after bringing the vector to unit length."""
    return vector * 0.99 if request.get("dimensions") else vector


def another_for(*fields: str) -> Fault:
    """Give requests with one of these fields another vector."""

    def change(request: Any, vector: Any) -> Any:
        return np.roll(vector, 1) if any(request.get(field) for field in fields) else vector

    return of_vectors(change)


def as_a_list_another(request: Any, vector: Any) -> Any:
    """As engines that tokenise a list's texts in another way."""
    return np.roll(vector, 1) if isinstance(request.get("input"), list) else vector


def counted_once(answer: dict[str, Any]) -> None:
    answer["usage"] = {"prompt_tokens": 7, "total_tokens": 7}


def counted_by_format(sent: Sent) -> Sent:
    packed = sent.request.get("encoding_format") == "base64"
    return of_answer(counted_once)(sent) if packed else sent


def as_html(sent: Sent) -> Sent:
    """As proxies in front of a service."""
    if sent.status < 400:
        return sent
    page = b"<html><body><h1>Bad Request</h1></body></html>"
    return replace(sent, content_type="text/html", body=page)


def as_detail(sent: Sent) -> Sent:
    """As FastAPI words its own errors."""
    if sent.status != 400:
        return sent
    return replace(sent, status=422).saying({"detail": [{"msg": "Field required"}]})


Condition: TypeAlias = Callable[[Sent], bool]


def holding(*parts: bytes) -> Condition:
    """Whether the request's body holds one of these."""
    return lambda sent: any(part in sent.asked for part in parts)


def failing(condition: Condition, status: int = 500) -> Fault:
    """Answer some requests with an error of the server."""

    def fault(sent: Sent) -> Sent:
        if not condition(sent):
            return sent
        error = {"message": "internal", "type": "server_error", "param": None, "code": None}
        return replace(sent, status=status).saying({"error": error})

    return fault


def taking(condition: Condition) -> Fault:
    """Give a vector where the right service refuses."""
    fine = {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [1.0] + [0.0] * 63}],
        "model": "bag-of-tokens",
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }

    def fault(sent: Sent) -> Sent:
        if sent.status < 400 or not condition(sent):
            return sent
        return replace(sent, status=200).saying(fine)

    return fault


def anything(_: Sent) -> bool:
    return True


def mixed_up_in_company(sent: Sent) -> Sent:
    """As a service whose answers find the wrong caller when several wait."""
    if not sent.embeddings or sent.company < 3:
        return sent
    return of_vectors(lambda _, vector: np.roll(vector, 1))(sent)


def of_models(change: Callable[[dict[str, Any]], object], *, shown: bool = False) -> Fault:
    """Change each card of a list of models, or, if `shown`, the one that is shown by its name."""

    def fault(sent: Sent) -> Sent:
        if sent.status != 200 or "/models" not in sent.path:
            return sent
        answer = json.loads(sent.body)
        listed = "data" in answer
        for card in answer["data"] if listed else [answer]:
            if listed != shown:
                change(card)
        return sent.saying(answer)

    return fault


def of_tokens(change: Callable[[dict[str, Any]], object]) -> Fault:
    """Change each text of an answer of `/tokenize`."""

    def fault(sent: Sent) -> Sent:
        if sent.status != 200 or not sent.path.endswith("/tokenize"):
            return sent
        answer = json.loads(sent.body)
        for one in answer["data"]:
            change(one)
        return sent.saying(answer)

    return fault


def without_header(name: bytes) -> Fault:
    def fault(sent: Sent) -> Sent:
        return replace(sent, headers={k: v for k, v in sent.headers.items() if k != name})

    return fault
