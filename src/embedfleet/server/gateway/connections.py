"""Keep-alive HTTP/1.1 connections from a gateway to its replicas.

A gateway's calls are all alike and go to few addresses, so a minimal client pays off: a C parser on
an asyncio protocol, with each answer handed on piece by piece as it arrives. It was measured beside
aiohttp, which serves everything less frequent (docs/decisions/0013).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias, cast
from urllib.parse import urlsplit

import httptools

from embedfleet.server.gateway.keepalive import keep_alive

KEEP_ALIVE_S = 60.0
"""How long an unused connection is trusted; replicas close theirs after 75 s."""

MOST_HEAD_BYTES = 64 << 10
"""Bytes that an answer may have before its body."""


Headers: TypeAlias = Iterable[tuple[str, str]]
Read: TypeAlias = Callable[[int, bytes], None]
"""Takes the status of an answer and a piece of its body; what it raises ends the call."""


class BrokenError(Exception):
    """The connection ended, or brought something that is no HTTP, before the answer was whole."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where replicas listen, and what their answers to a POST are asked with."""

    host: str
    port: int
    tls: bool
    path: str
    """What goes before every route."""
    authority: str
    """As the header `host` says it."""

    @classmethod
    def of(cls, url: str) -> Origin:
        """Of an address such as `http://10.0.0.5:9001`; ValueError when it is none."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url} is not an HTTP address")
        authority = parts.netloc.rpartition("@")[2]
        port = parts.port or (443 if tls else 80)
        return cls(parts.hostname, port, tls, parts.path.rstrip("/"), authority)


class Connection(asyncio.Protocol):
    """One request after the other, each answered before the next."""

    def __init__(self) -> None:
        self.status = 0
        """Of the answer; 0 until its head is whole."""
        self.idle_since = 0.0
        self.reusable = False
        """Whether the answer was whole and another request may follow."""
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser
        self._read: Read = unread
        self._parts: list[bytes] = []
        self._head_bytes = 0
        self._complete = True
        self._broken: str | None = None
        self._refused: Exception | None = None
        """What `read` raised."""
        self._ended: asyncio.Future[None] | None = None

    def post(self, head: bytes, body: bytes, read: Read) -> None:
        """Send a request; `head` without content-length and the empty line.

        `read` is given the answer where it arrives: to wake a task for each piece would cost more
        than most pieces do. So nothing waits to be read either, and the kernel makes a replica wait
        that sends faster than this process reads.
        """
        self.status = self._head_bytes = 0
        self._complete = self.reusable = False
        self._read = read
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))

    async def answered(self) -> None:
        """Wait for the end of the answer. BrokenError when there is none, or what `read` raised."""
        if not self._complete and self._broken is None:
            self._ended = asyncio.get_running_loop().create_future()
            try:
                await self._ended
            finally:
                self._ended = None
        if self._refused is not None:
            raise self._refused
        if not self._complete:
            raise BrokenError(self._broken)

    def close(self) -> None:
        """Close at once, whatever is in progress."""
        self.reusable = False
        self._read = unread
        self._transport.abort()

    @property
    def open(self) -> bool:
        return self._broken is None

    # -- what the event loop calls -----------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not derive from it
        keep_alive(transport.get_extra_info("socket"))

    def connection_lost(self, error: Exception | None) -> None:
        self._break(str(error or "") or "the connection was closed")

    def data_received(self, data: bytes) -> None:
        if self._complete:  # nothing was asked, so this is nothing that can be understood
            self._fail("an answer to no request")
            return
        if not self.status:
            self._head_bytes += len(data)
        trouble = ""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            trouble = f"not an answer of HTTP ({error})"
        if self._parts:
            self._hand_over()
        if not self.status and self._head_bytes > MOST_HEAD_BYTES:
            trouble = f"an answer with more than {MOST_HEAD_BYTES} bytes before its body"
        if trouble:
            self._fail(trouble)
        elif self._complete:
            self._read = unread  # what it holds of the call must not live as long as this
            self._wake()

    def _hand_over(self) -> None:
        parts, self._parts = self._parts, []
        try:
            self._read(self.status, parts[0] if len(parts) == 1 else b"".join(parts))
        except Exception as error:  # noqa: BLE001  comes out where the call is waited for
            self._refused = error
            self._fail(str(error))

    # -- what the parser calls ---------------------------------------------------------

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self.status >= 200:  # else it is a word on the way to the answer
            self._complete = True
            self.reusable = self._parser.should_keep_alive() and self._broken is None
        else:
            self.status = 0

    def _fail(self, reason: str) -> None:
        self._break(reason)
        self._transport.abort()

    def _break(self, reason: str) -> None:
        self._broken = self._broken or reason
        self.reusable = False
        self._wake()

    def _wake(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)


def unread(_status: int, _part: bytes) -> None:
    """Discards the body of a response."""


@dataclass(slots=True)
class _Address:
    """What is kept of an address while it has idle connections."""

    origin: Origin
    heads: dict[str, bytes] = field(default_factory=dict)
    """By route, what all requests to it have in common."""
    idle: deque[Connection] = field(default_factory=deque)
    """The one used last at the end."""


class Connections:
    """The connections of one gateway, by address."""

    def __init__(self, *, connect_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._addresses: dict[str, _Address] = {}
        self._all: set[Connection] = set()
        self._tls: ssl.SSLContext | None = None

    async def post(
        self, url: str, route: str, body: bytes, headers: Headers, read: Read = unread
    ) -> Connection:
        """Send a request, have its answer read, and return its connection, to be given back.

        Raises OSError or TimeoutError when no connection can be made.
        """
        address = self._address(url)
        connection = self._kept(address) or await self._connect(address.origin)
        head = address.heads.get(route) or self._head(address, route)
        extra = "".join(f"{name}: {value}\r\n" for name, value in headers)
        connection.post(head + extra.encode("latin-1"), body, read)
        return connection

    def give_back(self, url: str, connection: Connection) -> None:
        """Keep a connection whose answer was read to its end; close any other."""
        if not connection.reusable:
            self._all.discard(connection)
            connection.close()
            return
        now = connection.idle_since = asyncio.get_running_loop().time()
        idle = self._address(url).idle
        idle.append(connection)
        self._drop_old(idle, now)

    def close(self) -> None:
        for connection in self._all:
            connection.close()
        self._all.clear()
        self._addresses.clear()

    def _address(self, url: str) -> _Address:
        address = self._addresses.get(url)
        if address is None:
            address = self._addresses[url] = _Address(Origin.of(url))
        return address

    def _kept(self, address: _Address) -> Connection | None:
        """The one used last: so that those not needed any more grow old."""
        idle = address.idle
        oldest = asyncio.get_running_loop().time() - KEEP_ALIVE_S
        while idle:
            connection = idle.pop()
            if connection.open and connection.idle_since >= oldest:
                return connection
            self._drop(connection)
        return None

    def _drop(self, connection: Connection) -> None:
        self._all.discard(connection)
        connection.close()

    def _drop_old(self, idle: deque[Connection], now: float) -> None:
        while idle and (now - idle[0].idle_since > KEEP_ALIVE_S or not idle[0].open):
            self._drop(idle.popleft())

    def _sweep(self) -> None:
        """Let go of addresses without idle connections: replicas that are gone ask for nothing, so
        nobody else would close theirs.
        """
        now = asyncio.get_running_loop().time()
        for url, address in list(self._addresses.items()):
            self._drop_old(address.idle, now)
            if not address.idle:
                del self._addresses[url]

    async def _context(self) -> ssl.SSLContext:
        """Made once, and not on the event loop: it reads all authorities of the machine."""
        if self._tls is None:
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        return self._tls

    async def _connect(self, origin: Origin) -> Connection:
        self._sweep()
        context = await self._context() if origin.tls else None
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_timeout_s):
            _, connection = await loop.create_connection(
                Connection, origin.host, origin.port, ssl=context
            )
        self._all.add(connection)
        return connection

    def _head(self, address: _Address, route: str) -> bytes:
        origin = address.origin
        head = f"POST {origin.path}{route} HTTP/1.1\r\nhost: {origin.authority}\r\n".encode()
        address.heads[route] = head
        return head
