"""One client's connection: HTTP/1.1 for uvicorn, lean, and with limits on what clients may do.

Decides when a request begins, when its client is too slow or asks too much, and when a connection
ends. uvicorn accepts it as its protocol, and keeps the sockets, the count of connections and the
graceful stop. Its own protocol makes several times as many steps for a request, and waits for ever
for the rest of one. Refuses to know what apps do, and how their answers look.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from enum import Enum
from typing import Any, cast

import httptools
import uvicorn
from uvicorn.server import ServerState

from embedfleet.serving.alarm import Alarm
from embedfleet.serving.exchange import Exchange, render_last
from embedfleet.serving.limits import KEPT_S, LINGER_S, ClientLimits
from embedfleet.serving.pace import BodyPace
from embedfleet.serving.target import scope_of, without_offer
from embedfleet.serving.unsent import Unsent
from embedfleet.vocabulary import CallerError, EmbedfleetError, ServiceError, SlowClientError
from embedfleet.wire.asgi import error_response

log = logging.getLogger(__name__)

MOST_UNREAD_BYTES = 64 << 10
"""Bytes of a body that may wait for the app; beyond it the client is made to wait."""


class Phase(Enum):
    """What is being read."""

    REST = "between requests"
    HEAD = "request line and headers"
    BODY = "body"
    DEAF = "nothing any more"


class HttpConnection(asyncio.Protocol):
    """Requests of one client, one after the other; answers in the order of the requests."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # noqa: ARG002  of lifespan events, which are off
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: ClientLimits,
    ) -> None:
        """As uvicorn makes protocols; `limits` are bound before."""
        self.transport: asyncio.Transport
        self.stopping = False
        self._app, self._server = config.loaded_app, server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self._phase = Phase.REST
        self._active: Exchange | None = None
        """What is being answered."""
        self._queued: deque[Exchange] = deque()
        self._reading: Exchange | None = None
        """Whose body is being read."""
        self._refusal: EmbedfleetError | None = None
        """What is said once all requests before it are answered."""
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects = False
        self._head_bytes = 0
        self._pace = BodyPace(limits)
        self._alarm = Alarm(self._loop, self._overdue)

    # -- what the event loop and uvicorn call ------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's do not derive from it
        self._unsent = Unsent(self._loop, self.transport, self._limits.stall_s)
        self._tls = transport.get_extra_info("sslcontext") is not None
        self._about = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "scheme": "https" if self._tls else "http",
            "server": (transport.get_extra_info("sockname") or ("", None))[:2],
            "client": (transport.get_extra_info("peername") or ("", 0))[:2],
            "root_path": "",
        }
        others, most = len(self._server.connections), self._limits.connections
        self._server.connections.add(self)  # type: ignore[arg-type]
        self._alarm.set(KEPT_S)
        if others >= 2 * most:
            self.transport.abort()  # those that are being told so are too many as well
        elif others >= most:
            self._refuse(ServiceError("too many connections; try again later", retry_after_s=1))

    def connection_lost(self, _error: Exception | None) -> None:
        self._server.connections.discard(self)
        self._alarm.close()
        for exchange in (self._active, self._reading, *self._queued):
            if exchange is not None:
                exchange.left()
        self._unsent.lost()

    def data_received(self, data: bytes) -> None:
        size, reading = len(data), self._reading
        while data and self._phase is not Phase.DEAF:
            if self._phase is Phase.HEAD:
                self._head_bytes += len(data)
            data = self._feed(data)
        if self._phase is Phase.HEAD:
            if not self._head_bytes:  # the first of it
                self._alarm.set(self._limits.head_s)
            elif self._head_bytes > self._limits.head_bytes:
                self._refuse(self._limits.too_large())
        elif self._phase is Phase.BODY:
            if self._reading is reading and not self._pace.read(size):
                self._refuse(self._limits.too_much_between())
            elif not self._alarm.on:
                self._alarm.set(self._limits.body_s)

    def _feed(self, data: bytes) -> bytes:
        """Give data to the parser; return what is left of it."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # HTTP/1.1 is what is answered: the same once more, as if nothing else were offered.
            head = without_offer(self._parser.get_method(), self._url, self._headers)
            self._parser = httptools.HttpRequestParser(self)
            return head + data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            if self._phase is not Phase.DEAF:
                self._refuse(self._refusal or CallerError(f"this is no request of HTTP: {error}"))
        return b""

    def eof_received(self) -> None:
        """The client has gone: whoever closes sends the same as who is only done with asking, and
        work for those who left must end. The transport closes itself."""
        self._unsent.watch()

    def pause_writing(self) -> None:
        self._unsent.pause()

    def resume_writing(self) -> None:
        self._unsent.resume()

    def shutdown(self) -> None:
        """The server stops: end when everything that was asked is answered."""
        self.stopping = True
        if self._active is None and self._phase is Phase.REST:
            self._unsent.close()

    # -- what the parser calls ---------------------------------------------------------

    def on_message_begin(self) -> None:
        self._phase, self._expects = Phase.HEAD, False
        self._url, self._headers, self._head_bytes = b"", [], 0
        self._alarm.off()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is not Phase.HEAD:
            return  # after a body: nobody asks for those
        name = name.lower()
        if name == b"expect":
            self._expects = value.lower() == b"100-continue"
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._limits.passed_by(self._url, self._headers):
            self._refusal = self._limits.too_large()
            raise self._refusal
        parser = self._parser
        if parser.should_upgrade() and parser.get_method() != b"CONNECT":
            return  # see `_feed`
        method = parser.get_method().decode("ascii")
        scope = scope_of(self._about, method, parser.get_http_version(), self._url, self._headers)
        exchange = Exchange(
            self, scope, keep_alive=parser.should_keep_alive(), expects=self._expects
        )
        self._reading, self._phase = exchange, Phase.BODY
        self._pace.begin(self._loop.time())
        self._alarm.off()
        if self._active is None:
            self._start(exchange)
        else:  # its client did not wait for the answer before: nothing more is read until then
            self._queued.append(exchange)
            self._pause()

    def on_body(self, body: bytes) -> None:
        if self._reading is not None:
            self._pace.arrived(len(body), self._loop.time())
            self._reading.arrived(body)
            if self._reading.unread > MOST_UNREAD_BYTES:
                self._pause()

    def on_message_complete(self) -> None:
        if self._phase is Phase.HEAD:
            return
        last = not self._parser.should_keep_alive()
        self._phase = Phase.DEAF if last else Phase.REST
        self._alarm.off()
        if self._reading is not None:
            self._reading.ended()
            self._reading = None

    # -- answers -----------------------------------------------------------------------

    def _start(self, exchange: Exchange) -> None:
        self._active = exchange
        if not self._tls:  # whose transports say of an empty buffer without room that it is full
            self._unsent.hurry(alone=not self._server.tasks)
        task = self._loop.create_task(self._run(exchange))
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    async def _run(self, exchange: Exchange) -> None:
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except Exception:  # whatever an app raises ends its connection and not the process
            log.exception("an app failed without an answer. This is a bug.")
        finally:
            if not exchange.complete:
                self.transport.abort()

    def answered(self, exchange: Exchange) -> None:
        """The answer was written to its end: on to the next request, if there is to be one."""
        self._server.total_requests += 1
        self._active = None
        if not exchange.keep_alive:
            self._close(linger=not exchange.whole)
        elif self._queued:
            self._start(self._queued.popleft())
        elif self._refusal is not None:
            self._refuse(self._refusal)
        else:
            if self._phase is Phase.REST:
                self._alarm.set(KEPT_S)
            self.read_on()

    def _refuse(self, error: EmbedfleetError) -> None:
        """Say what is wrong, after the answers to what came before; then end."""
        self._phase = Phase.DEAF
        self._alarm.off()
        if self._reading is not None:
            self._reading.failed(error)  # its app answers
            self._reading = None
        elif self._active is not None:
            self._refusal = error
        else:
            log.info("refused a request: %s", error)
            self.transport.write(render_last(error_response(error)))
            self._close(linger=True)

    def _close(self, *, linger: bool) -> None:
        self._phase = Phase.DEAF
        self._queued.clear()
        if linger and self.transport.can_write_eof():
            self.transport.write_eof()
            self.read_on()
            self._alarm.set(LINGER_S)
        else:
            self._unsent.close()

    # -- time and flow -----------------------------------------------------------------

    def _overdue(self) -> None:
        """The client took too long."""
        if self._phase is Phase.HEAD:
            self._refuse(SlowClientError("the request's headers did not arrive in time"))
        elif self._phase is Phase.BODY:
            left_s = self._pace.left_s(self._loop.time())
            if self._pace.paused or left_s > 0:  # while it is made to wait, it can't be too slow
                self._alarm.set(max(left_s, 1.0))
            else:
                self._refuse(SlowClientError("the request's body did not arrive in time"))
        else:
            self._unsent.close()

    def _pause(self) -> None:
        if not self._pace.paused:
            self._pace.pause(self._loop.time())
            self.transport.pause_reading()

    def read_on(self) -> None:
        """There is room again."""
        if self._pace.paused and not self._queued:
            self._pace.resume(self._loop.time())
            self.transport.resume_reading()

    async def writable(self) -> None:
        """Wait until the client has taken what was written."""
        await self._unsent.room()
