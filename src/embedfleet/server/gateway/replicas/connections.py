"""Keep-alive HTTP/1.1 connections from a gateway to its replicas, of either kind.

A gateway's calls are all alike and go to few addresses, so a minimal client pays off: a C parser on
an asyncio protocol, with each answer handed on piece by piece as it arrives. It was measured beside
aiohttp (docs/decisions/0013), and bounds what it is sent before a body: a client that waits for the
end of interim responses can be kept busy by them for ever.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, cast
from urllib.parse import urlsplit

import httptools

from embedfleet.server.gateway.replicas.keepalive import keep_alive
from embedfleet.transport.host_names import HostNames
from embedfleet.transport.untrusted import shown
from embedfleet.vocabulary import ReplicaError

KEEP_ALIVE_S = 60.0
"""How long an unused connection is trusted; replicas close theirs after 75 s. Engines that say
`keep-alive: timeout=5` close them earlier, and many do without saying so."""

MOST_HEAD_BYTES = 64 << 10
"""Bytes that may come without one of a body: heads, interim responses, trailers."""

BEGINNING_BYTES = 16 << 10
"""Bytes read of an answer other than 200, and of a page that is only looked at."""

_LENGTHS = (b"content-length", b"transfer-encoding")

Headers: TypeAlias = Iterable[tuple[str, str]]
Read: TypeAlias = Callable[[int, bytes], None]
"""Called with the status and a piece of the body; an exception from it ends the call."""


_PLAIN = (("accept", "*/*"), ("accept-encoding", "identity"), ("user-agent", "embedfleet"))
"""What engines and the proxies before them look at: compressed answers would have to be bounded
twice, and networks between machines are faster than compression."""


class UnconnectedError(Exception):
    """No connection can be made; `cause` says why."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class BrokenError(Exception):
    """The connection ended, or its bytes were not HTTP, before the answer was complete."""


class EnoughError(Exception):
    """Raised by `read` when it wants no more of a body: the answer counts as complete."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The parsed address of a replica."""

    host: str
    port: int
    tls: bool
    path: str
    """Prefix of every route."""
    authority: str
    """The value of the header `host`."""

    @classmethod
    def of(cls, url: str) -> Origin:
        """Parse an address such as `http://10.0.0.5:9001`; raises ValueError."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url} is not an HTTP address")
        authority = parts.netloc.rpartition("@")[2]
        port = parts.port or (443 if tls else 80)
        return cls(parts.hostname, port, tls, parts.path.rstrip("/"), authority)


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, without pipelining."""

    def __init__(self) -> None:
        self.status = 0
        """Status of the answer; 0 until its head is complete."""
        self.coding = b""
        """How the body of the answer is coded; empty where it is not."""
        self.retry_after = b""
        """When another request may be answered, by its header; empty without one."""
        self.location = b""
        """Where it redirects to, by its header; empty without one."""
        self.idle_since = 0.0
        """When the last answer on it was complete; 0 if it has had none."""
        self.keep_s = KEEP_ALIVE_S
        """How long it may be unused."""
        self.reusable = False
        """Whether the answer was complete and another request may follow."""
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser
        self._read: Read = unread
        self._parts: list[bytes] = []
        self._bare_bytes = 0
        """Bytes since the last one of a body."""
        self._complete = True
        self._delimited = False
        """Whether the response is delimited by its headers; else by the end of the connection."""
        self._broken: str | None = None
        self._refused: Exception | None = None
        """What `read` raised."""
        self._ended: asyncio.Future[None] | None = None

    def send(self, head: bytes, body: bytes | None, read: Read) -> None:
        """Send a request; `head` without content-length and the empty line.

        `read` is called as data arrives: waking a task for each piece would cost more than most
        pieces do. So nothing is buffered, and TCP flow control slows a replica that sends faster
        than this process reads.
        """
        self.status = self._bare_bytes = 0
        self._complete = self.reusable = self._delimited = False
        self.coding = self.retry_after = self.location = b""
        self.keep_s = KEEP_ALIVE_S
        self._read = read
        self._parser = httptools.HttpResponseParser(self)
        length = b"" if body is None else b"content-length: %d\r\n" % len(body)
        self._transport.write(b"%b%b\r\n%b" % (head, length, body or b""))

    async def answered(self) -> None:
        """Wait for the end of the answer. Raises BrokenError, or what `read` raised."""
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
        """Abort the connection."""
        self.reusable = False
        self._read = unread
        self._transport.abort()

    def usable(self, now: float) -> bool:
        """Whether an idle connection may be used again."""
        return self._broken is None and now - self.idle_since <= self.keep_s

    # -- what the event loop calls -----------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not derive from it
        keep_alive(transport.get_extra_info("socket"))

    def connection_lost(self, error: Exception | None) -> None:
        if error is None and self.status and not self._delimited:
            self._complete = True  # as HTTP/1.0 ends an answer
        self._break("the connection was closed" if error is None else cause_of(error))

    def data_received(self, data: bytes) -> None:
        if self._complete:  # data without a request
            self._fail("a response without a request")
            return
        trouble = ""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            trouble = f"not an HTTP response ({error})"
        if self._parts:
            self._bare_bytes = 0
            self._hand_over()
        elif not self._complete:
            self._bare_bytes += len(data)
            if self._bare_bytes > MOST_HEAD_BYTES:
                trouble = f"a response with more than {MOST_HEAD_BYTES} bytes of headers"
        if trouble:
            self._fail(trouble)
        elif self._complete:
            self._read = unread  # or the call would live as long as the connection
            self._wake()

    def _hand_over(self) -> None:
        parts, self._parts = self._parts, []
        try:
            self._read(self.status, parts[0] if len(parts) == 1 else b"".join(parts))
        except EnoughError:
            self._complete = True
            self._fail("the rest of the response is not needed")
        except Exception as error:  # noqa: BLE001  comes out where the call is waited for
            self._refused = error
            self._fail(str(error))

    # -- what the parser calls ---------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _LENGTHS:
            self._delimited = True
        elif name == b"content-encoding":
            self.coding = value
        elif name == b"keep-alive":
            self.keep_s = kept_for_s(value)
        elif name == b"retry-after":
            self.retry_after = value
        elif name == b"location":
            self.location = value

    def on_headers_complete(self) -> None:
        if self._complete:
            raise BrokenError("a response without a request")
        self.status = self._parser.get_status_code()
        if self.status == 200 and self._transport.get_write_buffer_size():
            self._refused = ReplicaError("it responded before it had read the request")
            raise self._refused
        if self.status == 408 and self.idle_since:
            # What some servers say as they close an idle connection: not about this request.
            self.status = 0
            raise BrokenError("the server closed the idle connection (408)")

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self.status >= 200:  # else it is an interim response
            self._complete = True
            # Else the rest of the request would be before the next one.
            sent = not self._transport.get_write_buffer_size()
            keep_alive = self._parser.should_keep_alive() and self.keep_s > 0 and sent
            self.reusable = keep_alive and self._broken is None
        else:
            self.status = 0
            self._delimited = False

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


def cause_of(error: BaseException) -> str:
    """The reason of a connection error: the system's message where there is one, since some of
    the event loop's are empty or repeat the address.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
        # A resolver's errors have numbers of their own.
        return (error.strerror or "") if error.errno < 0 else os.strerror(error.errno)
    if isinstance(error, TimeoutError):
        return str(error) or "no answer in time"
    return str(error) or type(error).__name__


def unread(_status: int, _part: bytes) -> None:
    """Discards the body of a response."""


def kept_for_s(value: bytes) -> float:
    """How long a connection may be unused by its header `keep-alive`: a second less than the
    server keeps it, or half as long, since a request needs time to arrive.
    """
    for part in value.split(b","):
        name, _, number = part.partition(b"=")
        number = number.strip(b' \t"')
        if name.strip().lower() == b"timeout" and number.isdigit():
            timeout_s = int(number[:9])
            return min(KEEP_ALIVE_S, max(timeout_s - 1, timeout_s / 2))
    return KEEP_ALIVE_S


class Page(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes
    retry_after: bytes
    """The header; empty without one."""
    location: bytes
    """Likewise."""


@dataclass(slots=True)
class _Reading:
    """A body that is read whole, or of one that is not wanted its beginning."""

    url: str
    most_bytes: int | None
    parts: list[bytes] = field(default_factory=list)
    size: int = 0

    def take(self, status: int, part: bytes) -> None:
        """Take a piece; raises ReplicaError beyond the bound, EnoughError when it is enough."""
        self.size += len(part)
        self.parts.append(part)
        if status == 200 and self.most_bytes is not None:
            if self.size > self.most_bytes:
                raise ReplicaError(
                    f"the response of {self.url} has more than {self.most_bytes} bytes"
                )
        elif self.size >= BEGINNING_BYTES:
            raise EnoughError

    def of(self, connection: Connection) -> Page:
        """The page. Raises ReplicaError for a body that is compressed."""
        status, coding = connection.status, connection.coding.decode("latin-1").lower()
        if status == 200 and coding not in {"", "identity"}:
            raise ReplicaError(
                f"{self.url} compressed its response ({shown(coding, 30)}), which was not requested"
            )
        body = b"".join(self.parts)
        return Page(status, body, connection.retry_after, connection.location)


@dataclass(slots=True)
class _Address:
    """State of an address while it has idle connections."""

    origin: Origin
    heads: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """By method and route, the constant part of the request head."""
    idle: deque[Connection] = field(default_factory=deque)
    """Most recently used last."""


class Connections:
    """A pool of connections by address."""

    def __init__(self, *, connect_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._addresses: dict[str, _Address] = {}
        self._all: set[Connection] = set()
        self._tls: ssl.SSLContext | None = None
        self._names = HostNames()

    async def exchange(
        self,
        method: str,
        url: str,
        route: str,
        body: bytes | None,
        headers: Headers,
        read: Read = unread,
    ) -> Connection:
        """Send a request and wait for the end of its answer, of which `read` gets the body. The
        returned connection tells the status; it may be in use again.

        Servers and proxies close idle connections when they like, also at the moment of the next
        request. So one that fails on a kept connection before the head of an answer is complete
        is sent once more, on a new connection (RFC 9112, 9.3.1): all of ours may be repeated.
        If there is no new connection either, the server is gone, perhaps through this request.

        Raises UnconnectedError if no connection can be made, BrokenError if it breaks, and what
        `read` raises.
        """
        try:
            address = self._address(url)
        except ValueError as error:
            raise UnconnectedError(error) from error
        head = address.heads.get((method, route)) or self._head(address, method, route)
        head += "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1")
        stale: BrokenError | None = None
        kept = self._kept(address)
        if kept is not None:
            try:
                return await self._exchange(url, kept, head, body, read)
            except BrokenError as error:
                if kept.status:
                    raise
                stale = error
        try:
            new = await self._connect(address.origin)
        except (OSError, ValueError) as error:
            raise stale or UnconnectedError(error) from error
        return await self._exchange(url, new, head, body, read)

    async def _exchange(
        self, url: str, connection: Connection, head: bytes, body: bytes | None, read: Read
    ) -> Connection:
        connection.send(head, body, read)
        try:
            await connection.answered()
        finally:
            self.give_back(url, connection)
        return connection

    async def fetch(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Headers,
        most_bytes: int | None,
    ) -> Page:
        """Request a page, without `most_bytes` its beginning.

        Redirects are not followed: keys are for one host. Raises UnconnectedError if no connection
        can be made, BrokenError if it breaks, ReplicaError for a body of more than `most_bytes` or
        a compressed one.
        """
        parts = urlsplit(url)
        base, route = f"{parts.scheme}://{parts.netloc}", parts.path or "/"
        reading = _Reading(url, most_bytes)
        connection = await self.exchange(
            method, base, route, body, [*_PLAIN, *headers], reading.take
        )
        return reading.of(connection)

    def give_back(self, url: str, connection: Connection) -> None:
        """Keep a connection whose answer is complete; close any other."""
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
        """The most recently used idle connection, so that surplus ones expire."""
        idle = address.idle
        now = asyncio.get_running_loop().time()
        while idle:
            connection = idle.pop()
            if connection.usable(now):
                return connection
            self._drop(connection)
        return None

    def _drop(self, connection: Connection) -> None:
        self._all.discard(connection)
        connection.close()

    def _drop_old(self, idle: deque[Connection], now: float) -> None:
        while idle and not idle[0].usable(now):
            self._drop(idle.popleft())

    def _sweep(self) -> None:
        """Close expired connections of all addresses: those of removed replicas are not used, so
        nothing else would close them.
        """
        now = asyncio.get_running_loop().time()
        for url, address in list(self._addresses.items()):
            self._drop_old(address.idle, now)
            if not address.idle:
                del self._addresses[url]

    async def _context(self) -> ssl.SSLContext:
        """Created once, in a thread: it reads the system's certificates."""
        if self._tls is None:
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        return self._tls

    async def _connect(self, origin: Origin) -> Connection:
        self._sweep()
        context = await self._context() if origin.tls else None
        timeout_s = self._connect_timeout_s
        connection = await self._names.connect(
            Connection, origin.host, origin.port, tls=context, timeout_s=timeout_s
        )
        self._all.add(connection)
        return connection

    def _head(self, address: _Address, method: str, route: str) -> bytes:
        origin = address.origin
        first = f"{method} {origin.path}{route} HTTP/1.1\r\nhost: {origin.authority}\r\n"
        head = address.heads[method, route] = first.encode()
        return head
