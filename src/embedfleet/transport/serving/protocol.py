"""uvicorn's HTTP/1.1 protocol with limits on clients.

uvicorn parses (httptools, that is llhttp), frames and writes, but bounds neither the time nor the
size of a request, parses pipelined requests without limit, and waits forever for a client that does
not read. This adds those bounds: `rules.py` says which requests are valid, `limits.py` and
`write_buffers.py` what a client may occupy.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import select
import termios
from typing import Any, cast

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from embedfleet.transport.asgi import (
    App,
    Message,
    Receive,
    Response,
    Scope,
    Send,
    error_response,
    first_headers,
)
from embedfleet.transport.serving import rules
from embedfleet.transport.serving.head import Head
from embedfleet.transport.serving.limits import LINGER_S, ClientLimits
from embedfleet.transport.serving.write_buffers import Answers
from embedfleet.vocabulary import (
    CallerError,
    EmbedfleetError,
    ServiceError,
    SlowClientError,
)

log = logging.getLogger(__name__)

PIECE_BYTES = 256 << 10
"""Answers are handed to the transport in pieces, the next when the one before has nearly left: what
waits is seen and counted, under TLS too, where a transport encrypts whatever it is given."""

END_OF_HEAD = b"\r\n\r\n"
NEVER = float("inf")
GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR

OWN = {b"content-type", b"content-length", b"content-encoding"}
"""Headers of an answer that say what its body is."""


class HttpConnection(HttpToolsProtocol):
    """Requests of one client, one after the other; answers in the order of the requests."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: Any = None,
        *,
        limits: ClientLimits,
        answers: Answers,
    ) -> None:
        """As uvicorn makes protocols; `limits` and `answers` are bound before."""
        super().__init__(config, server_state, app_state, _loop)
        self._limits, self.answers = limits, answers
        self._waiting = b""
        """What came behind the request that is being answered; not parsed yet."""
        self._in_head = False
        self._head_bytes = self._blank = 0
        self._length: int | None = 0
        """Bytes of the body that are still to come; None where it comes in chunks."""
        self._began = self._last = 0.0
        self._received = self._barren = 0
        """Bytes of the body; bytes in a row that were none of it."""
        self._due = NEVER
        """When the client is too slow, or has lingered long enough."""
        self._deaf = False
        self._stopping = False
        self.refusal: EmbedfleetError | None = None
        """Why nothing more is read; said once all requests before it are answered."""
        self.written = 0
        """Bytes of answers so far."""
        self._unsettled = False
        """Whether some of an answer may wait for the client."""
        self._queue_base, self._queue_since = -1, 0.0

    # -- what the event loop and uvicorn call ------------------------------------------

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._socket = transport.get_extra_info("socket")
        host, port = self.client or ("unix", 0)
        # An IPv4 client of a socket for both families is the same client.
        self.client = (host.removeprefix("::ffff:") if "." in host else host, port)
        self._due = self.loop.time() + self._limits.idle_s
        others, most = len(self.connections) - 1, self._limits.connections
        if others >= 2 * most:
            self._deaf = True
            self.transport.abort()  # those that are being told so are too many as well
        elif others >= most:
            self._refuse(ServiceError("too many connections; try again later", retry_after_s=1))

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf, self._waiting = True, b""
        self.answers.release(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._waiting:
            data = self._waiting + data
            self._waiting = b""
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        """Give the parser one request at a time: it does not stop where one ends."""
        start, size = 0, len(data)
        # In chunks that are made of ends of heads, an end of the body is not looked for everywhere.
        step = 0 if self._length is not None or data.count(END_OF_HEAD) < 64 else 1024
        while start < size and not self._deaf:
            cycle = self.cycle
            if cycle is not None and not (cycle.more_body or cycle.response_complete):
                self._wait(data[start:])
                return
            between = self._length == 0 and not self._in_head
            if between and (blank := rules.BLANK_LINES.match(data, start)):
                self._blank += blank.end() - start
                if self._blank > self._limits.head_bytes:
                    self._refuse(self._limits.too_large())
                start = blank.end()
                continue
            if self._length:
                end = start + self._length
            else:
                found = data.find(END_OF_HEAD, start + step)
                end = size if found < 0 else found + 4
            part = data[start:end] if start or end < size else data
            start = min(end, size)
            received = self._received
            if self._length == 0:
                self._head_bytes = len(part) + (self._head_bytes if self._in_head else 0)
            try:
                self.parser.feed_data(part)
            except httptools.HttpParserUpgrade as upgrade:
                version = self.parser.get_http_version()
                head = rules.without_offer(
                    self.parser.get_method(), version, self.url, self.headers
                )
                self.parser = httptools.HttpRequestParser(self)
                self._in_head = False  # it begins again
                data = head + part[upgrade.args[0] :] + data[start:]
                start, size = 0, len(data)
                continue
            except httptools.HttpParserError as error:
                self._refuse(self.refusal or rules.malformed(error, self.parser.get_http_version()))
                return
            if self._in_head or self._length != 0:
                self._count(len(part), received)

    def _count(self, size: int, received: int) -> None:
        """Hold what was read of a request that is not whole against the limits."""
        if self._in_head:
            if self._head_bytes == size:
                self._due = self.loop.time() + self._limits.head_s
            if self._head_bytes > self._limits.head_bytes:
                self._refuse(self._limits.too_large())
        elif self.cycle is not None and self.cycle.more_body:
            self._barren = 0 if self._received > received else self._barren + size
            if self._barren > self._limits.head_bytes:
                self._refuse(self._limits.too_much_between())

    def _wait(self, data: bytes) -> None:
        """Keep what came too early; beyond some of it, read no more until the answer is given."""
        self._waiting = data
        if len(data) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def shutdown(self) -> None:
        """The server stops: end when everything that was asked is answered."""
        self._stopping = True
        if not self._in_head:
            super().shutdown()

    # -- what the parser calls ---------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._blank = 0

    def on_headers_complete(self) -> None:
        offers = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if offers and self.parser.get_http_version() in rules.VERSIONS:
            return  # see `_feed`
        self._in_head = False
        try:
            self._check_head()
        except EmbedfleetError as error:
            self.refusal = error
            raise
        super().on_headers_complete()
        self.headers = []  # trailers of the body are no headers: they go nowhere
        now = self.loop.time()
        self._began = self._last = now
        self._received = self._barren = 0
        self._due = NEVER
        if self._stopping and self.cycle is not None:
            self.cycle.keep_alive = False

    def _check_head(self) -> None:
        if self._head_bytes > self._limits.head_bytes or len(self.headers) > self._limits.headers:
            raise self._limits.too_large()
        if self.pipeline:
            raise CallerError("too many requests at once on one connection")
        version = self.parser.get_http_version()
        scope: Any = self.scope
        first = first_headers(scope)
        head = rules.read_head(self.parser.get_method(), version, self.url, self.headers, first)
        self._length, self.url = head.length, head.target
        if head.authority is not None:
            kept = [each for each in self.headers if each[0] != b"host"]
            self.headers = self.scope["headers"] = [*kept, (b"host", head.authority)]
        if version == "1.0":
            self.expect_100_continue = False  # RFC 9110, 10.1.1

    def on_body(self, body: bytes) -> None:
        self._received += len(body)
        self._last = self.loop.time()
        if self._length:
            self._length -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._in_head:
            return
        self._length, self._due = 0, NEVER
        super().on_message_complete()

    # -- answers -----------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        exchange: Any = _Exchange(self, cycle, app)
        super()._start_asgi_task(cycle, exchange)

    def on_response_complete(self) -> None:
        """As uvicorn's, but that a resting connection costs no timer (`look`)."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._deaf = True
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self.refusal is not None:
            self._refuse(self.refusal)
        else:
            self._due = self.loop.time() + self._limits.idle_s
            if self._waiting:
                data, self._waiting = self._waiting, b""
                self._feed(data)

    def _refuse(self, error: EmbedfleetError) -> None:
        """Say what is wrong, after the answers to what came before; then end."""
        self._deaf, self.refusal = True, error
        self._waiting = b""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            log.info("refused a request: %s", error)
            self.transport.write(self._last_answer(error_response(error)))
            self._unsettled = True
            self._end()
        elif cycle.more_body:
            cycle.message_event.set()  # its app hears of it, and answers

    def _last_answer(self, response: Response) -> bytes:
        """A whole answer that no app gives."""
        length = str(len(response.body)).encode()
        headers = (
            *self.server_state.default_headers,
            (b"content-type", response.content_type),
            (b"content-length", length),
            *response.headers,
            (b"connection", b"close"),
        )
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return b"HTTP/1.1 %d \r\n%b\r\n%b" % (response.status, lines, response.body)

    def _end(self) -> None:
        """Close, but not before a client that still sends could read its answer."""
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._due = self.loop.time() + LINGER_S
        else:
            self.transport.close()
        self.flow.resume_reading()

    def note(self, size: int) -> None:
        """So many bytes of an answer are being written."""
        self.written += size
        self._unsettled = True

    def cut_off(self) -> None:
        """The client does not read its response, or is given no more of it."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # as `connection_lost` does in a moment
        self.transport.abort()

    # -- time --------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Called a few times a second: whether the client is too slow, or gone."""
        if self._unsettled:
            self._check_reader(now)
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if self._deaf:
            if now > self._due:
                self.transport.close()
        elif cycle is not None and not cycle.response_complete:
            if cycle.more_body:
                self._check_body(now)
            elif self.flow.read_paused and self._has_left():
                self.cut_off()
        elif now > self._due:
            if self._in_head:
                self._refuse(SlowClientError("the request's headers did not arrive in time"))
            else:
                self.transport.close()

    def _check_body(self, now: float) -> None:
        if self.flow.read_paused:  # the client is made to wait
            self._began += now - self._last
            self._last = now
        elif now > self._limits.body_due(self._began, self._last, self._received):
            self._refuse(SlowClientError("the request's body did not arrive in time"))

    def _check_reader(self, now: float) -> None:
        """Cut off a client that takes less than it must of what waits for it."""
        queued = self._queued()
        taken = self.written - queued
        if not queued:
            self._unsettled = self.flow.write_paused
            self._queue_base = -1
        elif self._queue_base < 0:
            self._queue_base, self._queue_since = taken, now
        elif now - self._queue_since >= self._limits.stall_s:
            least = self._limits.answer_bytes_per_s * (now - self._queue_since)
            if taken - self._queue_base < min(least, queued):
                log.info("closing the connection of a client that reads its response too slowly")
                self.answers.cut_off += 1
                self.cut_off()
            self._queue_base, self._queue_since = taken, now

    def _queued(self) -> int:
        """Bytes that wait for the client, in this process and in the system.

        What a transport for TLS has encrypted is not among them; while there is some of it, the
        system's own queue is full.
        """
        try:
            unsent = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, b"\0" * 4)
            return self.transport.get_write_buffer_size() + int.from_bytes(unsent, "little")
        except (OSError, ValueError):  # it is closed
            return 0

    def _has_left(self) -> bool:
        """Whether the client closed its end; seen without reading what it sent before."""
        poll = select.poll()
        try:
            poll.register(self._socket.fileno(), GONE & ~(select.POLLHUP | select.POLLERR))
            return any(event & GONE for _, event in poll.poll(0))
        except (OSError, ValueError):
            return False


class _Exchange:
    """The app of one request, as uvicorn calls it: what it reads and writes is bounded here."""

    __slots__ = ("_app", "_connection", "_cycle", "_send", "_start", "_whole")

    def __init__(self, connection: HttpConnection, cycle: RequestResponseCycle, app: App) -> None:
        self._connection, self._cycle, self._app = connection, cycle, app
        self._start: Message | None = None
        self._whole: bytearray | None = None
        """The answer to a client of HTTP/1.0 that has no length: such clients know no chunks."""

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        self._send = send
        try:
            await self._app(scope, self.receive, self.send)
        except asyncio.CancelledError:  # a stop waits no longer for a client that does not read
            self._connection.cut_off()
        except Exception:  # whatever an app raises ends its connection and not the process
            log.exception("the application failed without a response. This is a bug.")
            self._connection.cut_off()
        finally:
            self._connection.answers.release(self._connection)

    async def receive(self) -> Message:
        """More of the body, or that the client has gone. Raises what ended the body too soon."""
        received: Any = await self._cycle.receive()
        message: Message = received
        if message.get("more_body"):
            refusal = self._connection.refusal
            if refusal is not None and self._connection.cycle is self._cycle:
                raise refusal
        return message

    async def send(self, message: Message) -> None:
        """The head of the answer, which waits for the first of the body, or more of the body."""
        if message["type"] == "http.response.start":
            self._start = self._fitting(message)
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._whole is not None:
            self._whole += body
            if more:
                return
            body = bytes(self._whole)
            self._add(b"content-length", str(len(body)).encode())
        if len(body) > PIECE_BYTES:
            body = self._held(body)
        head: Head | None = None
        connection, cycle = self._connection, self._cycle
        if self._start is not None:
            start, self._start = self._start, None
            if cycle.scope["method"] != "HEAD":  # of whose body nothing is written
                head = Head(connection.transport)
                transport: Any = head
                cycle.transport = transport
            await self._send(start)
        connection.note(len(body))
        if len(body) > PIECE_BYTES or (cycle.more_body and not more):
            await self._in_pieces(body)
            body = b""
            if cycle.more_body and not more:
                await self._linger()
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
        if head is not None:
            head.flush()
            cycle.transport = connection.transport

    async def _in_pieces(self, body: bytes) -> None:
        view = memoryview(body)
        for at in range(0, len(view), PIECE_BYTES):
            piece = view[at : at + PIECE_BYTES]
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            self._connection.answers.took(self._connection, len(piece))

    def _fitting(self, start: Message) -> Message:
        """The head of an answer as this client takes it."""
        if self._cycle.more_body:  # what is left of the request would be taken for the next one
            start = {**start, "headers": [*start.get("headers", ()), (b"connection", b"close")]}
        if self._cycle.scope["http_version"] == "1.0":
            names = {name for name, _ in start.get("headers", ())}
            self._whole = None if b"content-length" in names else bytearray()
        return start

    def _add(self, name: bytes, value: bytes) -> None:
        if self._start is not None:
            self._start = {**self._start, "headers": [*self._start["headers"], (name, value)]}

    def _held(self, body: bytes) -> bytes:
        """The body of a large answer, once it is counted; the reason where there is no room."""
        connection = self._connection
        address = (self._cycle.scope["client"] or ("",))[0]
        try:
            connection.answers.hold(connection, address, len(body), connection.loop.time())
        except ServiceError as error:
            if self._start is None:
                raise
            response = error_response(error)
            kept = [each for each in self._start["headers"] if each[0] not in OWN]
            told = [
                (b"content-type", response.content_type),
                (b"content-length", str(len(response.body)).encode()),
                *response.headers,
            ]
            self._start = {**self._start, "status": error.status, "headers": [*kept, *told]}
            return response.body
        return body

    async def _linger(self) -> None:
        """Read on for a while: to close at once would take the answer away from a client that
        still sends."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while (await self._cycle.receive()).get("more_body"):
                    pass
