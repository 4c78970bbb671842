"""One request and its answer on a connection: the two callables of ASGI.

Decides the bytes of an answer, and what an app hears of the request's body. Refuses to know how
connections are read, kept and limited. A whole answer leaves in one write: a write costs as much
as everything else that is done for an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from enum import Enum
from http import HTTPStatus
from typing import Protocol

from embedfleet.vocabulary import EmbedfleetError
from embedfleet.wire.asgi import Message, Response, Scope

STATUS_LINES = {
    each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n".encode() for each in HTTPStatus
}
BODILESS = {204, 304}
DISCONNECT = {"type": "http.disconnect"}

JOINED_BYTES = 64 << 10
"""Up to this size a body is copied behind its head; a larger one is handed over as it is."""

Headers = Iterable[tuple[bytes, bytes]]


class Framing(Enum):
    """How a client sees where an answer ends."""

    LENGTH = "by its content-length"
    CHUNKS = "by an empty chunk"
    CLOSE = "by the end of the connection"
    NOTHING = "it has no body"


def render_head(status: int, headers: Headers) -> bytes:
    """An answer as far as its body; RuntimeError where a header would break out of its line."""
    parts = [b"%b: %b\r\n" % header for header in headers]
    first = STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    head = b"".join((first, *parts, b"\r\n"))
    lines = len(parts) + 2
    if head.count(b"\n") != lines or head.count(b"\r") != lines:
        raise RuntimeError("a header of an answer has a line break in it")
    return head


def render_last(response: Response) -> bytes:
    """A whole answer after which the connection ends."""
    length = str(len(response.body)).encode()
    first = [(b"content-type", response.content_type), (b"content-length", length)]
    headers = [*first, *response.headers, (b"connection", b"close")]
    return render_head(response.status, headers) + response.body


class Carrier(Protocol):
    """The connection that an exchange is on."""

    transport: asyncio.Transport
    stopping: bool

    def read_on(self) -> None:
        """There is room for more of the body."""
        ...

    async def writable(self) -> None:
        """Wait until the client has taken what was written."""
        ...

    def answered(self, exchange: Exchange) -> None:
        """The answer was written to its end."""
        ...


class Exchange:
    """One request and its answer."""

    __slots__ = (
        *("complete", "gone", "keep_alive", "scope", "transport", "unread", "whole"),
        *("_carrier", "_expects", "_framing", "_head", "_left", "_parts", "_refusal", "_told"),
        "_waiter",
    )

    def __init__(self, carrier: Carrier, scope: Scope, *, keep_alive: bool, expects: bool) -> None:
        """`expects`: the client waits for a word before it sends the body."""
        self.scope = scope
        self.transport = carrier.transport
        self.keep_alive = keep_alive
        """Whether another request may follow."""
        self.unread = 0
        """Bytes of the body that the app has not asked for yet."""
        self.whole = False
        """Whether the request has arrived to its end."""
        self.gone = False
        self.complete = False
        """Whether the answer was written to its end."""
        self._carrier = carrier
        self._expects = expects
        self._parts: list[bytes] = []
        self._told = False
        self._refusal: EmbedfleetError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._head: bytes | None = None
        """Of the answer: None before there is one, empty once it was written."""
        self._framing = Framing.LENGTH
        self._left = 0
        """Bytes of the answer that its length still promises."""

    # -- what the connection tells -----------------------------------------------------

    def arrived(self, part: bytes) -> None:
        """More of the body."""
        if not self.complete:
            self._parts.append(part)
            self.unread += len(part)
            self._wake()

    def ended(self) -> None:
        self.whole = True
        self._wake()

    def failed(self, error: EmbedfleetError) -> None:
        """The rest of the body will not come; the app hears why."""
        self._refusal = error
        self._wake()

    def left(self) -> None:
        """The client has gone."""
        self.gone = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- ASGI --------------------------------------------------------------------------

    async def receive(self) -> Message:
        """More of the body, or that the client has gone or has its answer. Raises the error that
        ended the body too soon."""
        if self._expects:
            self._expects = False
            if not self._parts and not self.whole and not self.gone:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self._parts or self.gone or self.complete or (self.whole and not self._told)):
            if self._refusal is not None:
                raise self._refusal
            self._carrier.read_on()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self.gone or self.complete:
            return DISCONNECT
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self.unread = 0
        self._told = self.whole
        return {"type": "http.request", "body": body, "more_body": not self.whole}

    async def send(self, message: Message) -> None:
        """The head of the answer, which waits for the first of the body, or more of the body."""
        if self.gone:
            return
        if self.complete:
            raise RuntimeError("an answer goes on after its end")
        if message["type"] == "http.response.start":
            self._begin(message["status"], message.get("headers", ()))
            return
        await self._carrier.writable()
        if self._head is None:
            raise RuntimeError("an answer has a body before its head")
        if not self.gone:
            self._write(message.get("body", b""), more=message.get("more_body", False))

    def _begin(self, status: int, headers: Headers) -> None:
        if self._head is not None:
            raise RuntimeError("an answer has two heads")
        keeps = self.keep_alive
        kept: list[tuple[bytes, bytes]] = []
        framing = None
        for name, value in headers:
            if name == b"content-length":
                framing, self._left = Framing.LENGTH, int(value)
            elif name == b"connection":
                keeps = keeps and b"close" not in value.lower()
                continue
            elif name == b"transfer-encoding":
                continue  # whether a body is chunked is decided here
            kept.append((name, value))
        new = self.scope["http_version"] == "1.1"
        if self.scope["method"] == "HEAD" or status in BODILESS:
            framing = Framing.NOTHING
        elif framing is None:
            framing = Framing.CHUNKS if new else Framing.CLOSE
            kept += [(b"transfer-encoding", b"chunked")] if new else []
        self._framing = framing
        # What is left of a request that is answered before its end would be taken for the next one.
        unbound = self.whole and framing is not Framing.CLOSE and not self._carrier.stopping
        self.keep_alive = keeps and unbound
        if not self.keep_alive:
            kept.append((b"connection", b"close"))
        elif not new:
            kept.append((b"connection", b"keep-alive"))
        self._head = render_head(status, kept)

    def _write(self, body: bytes, *, more: bool) -> None:
        parts = [self._head] if self._head else []
        self._head = b""
        if self._framing is Framing.LENGTH:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("an answer is not as long as its head says")
        if self._framing is Framing.CHUNKS:
            parts += (b"%x\r\n" % len(body), body, b"\r\n") if body else ()
            parts += () if more else (b"0\r\n\r\n",)
        elif self._framing is not Framing.NOTHING:
            parts.append(body)
        if len(body) > JOINED_BYTES:
            self.transport.writelines(parts)
        else:
            self.transport.write(b"".join(parts))
        if not more:
            self.complete = True
            self._wake()
            self._carrier.answered(self)
