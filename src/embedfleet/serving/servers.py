"""HTTP servers of one process: start, tell when ready, drain on a signal, stop.

Decides the order of a graceful stop: new work is refused while what was accepted is finished,
then the sockets close. Refuses to know what the apps do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import uvicorn

from embedfleet.serving.answers import Answers
from embedfleet.serving.limits import ClientLimits
from embedfleet.serving.protocol import HttpConnection
from embedfleet.vocabulary import SetupError
from embedfleet.wire.asgi import App

log = logging.getLogger(__name__)

BACKLOG = 2048
USUAL = ClientLimits()

CUT_S = 1.0
"""How long a stop waits for the answers to requests that it cut off."""

LOOK_TICKS = 3
"""Tenths of a second between two looks at all connections: a timer for each would be moved twice a
request."""


@dataclass(frozen=True, slots=True)
class Listener:
    """An app and the socket it answers on."""

    app: App
    socket: socket.socket
    tls: ssl.SSLContext | None = None
    """What HTTPS is answered with; None answers HTTP."""

    @property
    def address(self) -> str:
        """For instance `127.0.0.1:8080`."""
        host, port = self.socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def url(self) -> str:
        """For instance `http://127.0.0.1:8080`."""
        return f"http{'s' * (self.tls is not None)}://{self.address}"


def bind(host: str, port: int, setting: str = "--host and --port") -> socket.socket:
    """A listening socket; SetupError says what is wrong with the address. Port 0: any free one.

    `::` takes IPv4 as well, whatever the system's own default is. `setting` names what chooses
    another address.
    """
    return _bound(host, port, setting, shared=False)


def bind_shared(bound: socket.socket, count: int) -> list[socket.socket]:
    """So many sockets that listen at the address of one, which is closed (SO_REUSEPORT).

    The system spreads connections over them. The one was bound alone first: another service at the
    address is an error, not a neighbour that is sent half of the connections.
    """
    host, port = bound.getsockname()[:2]
    bound.close()
    return [_bound(host, port, "--host and --port", shared=True) for _ in range(count)]


def _bound(host: str, port: int, setting: str, *, shared: bool) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        both = host == "::" and socket.has_dualstack_ipv6()
        bound = socket.create_server(
            (host, port),
            family=family,
            backlog=BACKLOG,
            reuse_port=shared,
            dualstack_ipv6=both,
        )
    except OSError as error:
        raise SetupError(
            f"can't listen on {host}:{port}: {error.strerror or error}; choose another with "
            f"{setting}"
        ) from error
    # Connections inherit it. asyncio's own loop does not set it, as they do not say that they are
    # TCP; without it the second of two writes waits for an acknowledgement, 40 ms.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bound.setblocking(False)
    return bound


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the process decides when to stop."""

    def __init__(self, config: uvicorn.Config, *, handshake_s: float) -> None:
        super().__init__(config)
        self._handshake_s = handshake_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's for sockets that are bound, but with an end to the handshakes of TLS."""
        config, loop = self.config, asyncio.get_running_loop()
        protocol = cast("Callable[..., asyncio.Protocol]", config.http_protocol_class)
        made = partial(protocol, config, self.server_state, {})
        self.servers = [
            await loop.create_server(
                made,
                sock=each,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=self._handshake_s if config.ssl else None,
            )
            for each in sockets or ()
        ]
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if not counter % LOOK_TICKS:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                cast("HttpConnection", connection).look(now)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, while slow clients are still looked at."""
        looking = asyncio.create_task(self._look_on())
        try:
            await super().shutdown(sockets)
            # Requests that took too long were cancelled; each is answered that it was.
            if self.server_state.tasks:
                await asyncio.wait(self.server_state.tasks, timeout=CUT_S)
        finally:
            looking.cancel()

    def cut(self) -> None:
        """Cancel every request, to be answered that it was."""
        for task in self.server_state.tasks:
            task.cancel()

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_TICKS / 10)
            await self.on_tick(0)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(
    listeners: Sequence[Listener], *, stop_timeout_s: float, limits: ClientLimits = USUAL
) -> AsyncIterator[Callable[[], None]]:
    """Answer on every listener while the block runs; then finish open answers and close.

    `limits` hold for each listener's clients, but for the room for answers, which they share.
    Gives what cuts all requests short: each is answered 503.
    """
    answers = Answers(limits.answer_bytes)
    protocol = cast(
        "type[asyncio.Protocol]", partial(HttpConnection, limits=limits, answers=answers)
    )
    servers = [
        (
            _Server(
                uvicorn.Config(
                    listener.app,
                    http=protocol,
                    ws="none",
                    lifespan="off",
                    access_log=False,
                    log_config=None,
                    proxy_headers=False,  # whom to believe is decided in wire/headers.py
                    server_header=False,
                    timeout_graceful_shutdown=max(1, round(stop_timeout_s)),
                    ssl_context_factory=_given(listener.tls),
                ),
                handshake_s=limits.head_s,
            ),
            listener.socket,
        )
        for listener in listeners
    ]
    tasks = [asyncio.create_task(server.serve([bound])) for server, bound in servers]

    def cut() -> None:
        for server, _ in servers:
            server.cut()

    try:
        yield cut
    finally:
        for server, _ in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)


def _given(tls: ssl.SSLContext | None) -> Callable[..., ssl.SSLContext] | None:
    """A context that exists, in the form in which uvicorn takes it."""
    return None if tls is None else lambda *_: tls


class StopSignal:
    """Set by SIGTERM or SIGINT; a second one hurries the stop, as people at a keyboard expect, and
    a third one ends the process where it is.
    """

    def __init__(self, *, by_signals: bool = True) -> None:
        """Not `by_signals`, both are ignored: they are meant for the process that started this
        one, and reach it because a service manager sends them to all of a group.
        """
        self._event = asyncio.Event()
        self.hurried = False
        """Whether a second signal came: what is not done now is not waited for."""
        self.hurry: Callable[[], None] = lambda: None
        """Called by the second signal."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            if by_signals:
                loop.add_signal_handler(number, self._handle, number)
            else:
                signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int) -> None:
        if self.hurried:
            raise SystemExit(128 + number)
        if self._event.is_set():
            log.info("%s again: stopping at once", signal.Signals(number).name)
            self.hurried = True
            self.hurry()
            return
        log.info("%s: draining", signal.Signals(number).name)
        self._event.set()

    def set(self) -> None:
        """Stop without a signal, for instance because the parent process is gone."""
        self._event.set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        await self._event.wait()
