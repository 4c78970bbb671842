"""Runs the HTTP servers of a process: start, readiness, drain on a signal, stop.

During a graceful shutdown new requests are refused while accepted ones finish; then the sockets
close.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import uvicorn

from embedfleet.runtime.settings.addresses import Place
from embedfleet.transport.asgi import App
from embedfleet.transport.serving.limits import ClientLimits
from embedfleet.transport.serving.protocol import HttpConnection
from embedfleet.transport.serving.write_buffers import Answers

log = logging.getLogger(__name__)

USUAL = ClientLimits()

CUT_S = 1.0
"""How long a stop waits for the answers to requests that it cut off."""

CHECK_TICKS = 3
"""Tenths of a second between two checks of all connections: a timer for each would be moved twice a
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
        """For instance `127.0.0.1:8080`, or `unix:/run/embedfleet.sock`."""
        if self.socket.family == socket.AF_UNIX:
            return str(Place("", 0, Path(self.socket.getsockname())))
        host, port = self.socket.getsockname()[:2]
        return str(Place(host, port))

    @property
    def url(self) -> str:
        """For instance `http://127.0.0.1:8080`; of a Unix socket its address."""
        if self.socket.family == socket.AF_UNIX:
            return self.address
        return f"http{'s' * (self.tls is not None)}://{self.address}"


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
        if not counter % CHECK_TICKS:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                cast("HttpConnection", connection).look(now)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, while slow clients are still looked at."""
        checking = asyncio.create_task(self._check_limits())
        try:
            await super().shutdown(sockets)
            # Requests that took too long were cancelled; each is answered that it was.
            if self.server_state.tasks:
                await asyncio.wait(self.server_state.tasks, timeout=CUT_S)
        finally:
            checking.cancel()

    def cut(self) -> None:
        """Cancel every request, to be answered that it was."""
        for task in self.server_state.tasks:
            task.cancel()

    async def _check_limits(self) -> None:
        while True:
            await asyncio.sleep(CHECK_TICKS / 10)
            await self.on_tick(0)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(
    listeners: Sequence[Listener],
    *,
    stop_timeout_s: float,
    limits: ClientLimits = USUAL,
    answers: Answers | None = None,
) -> AsyncIterator[Callable[[], None]]:
    """Answer on every listener while the block runs; then finish open answers and close.

    `limits` hold for the clients of each app, at however many addresses; `answers` is the room for
    answers, which all of them share.
    Gives what cuts all requests short: each is answered 503.
    """
    room = answers or Answers(limits.answer_bytes)
    protocol = cast("type[asyncio.Protocol]", partial(HttpConnection, limits=limits, answers=room))
    sockets: dict[int, list[socket.socket]] = {}
    for each in listeners:
        sockets.setdefault(id(each.app), []).append(each.socket)
    apps = {id(each.app): each for each in listeners}
    servers = [
        (
            _Server(
                _configured(listener, protocol, stop_timeout_s),
                handshake_s=limits.head_s,
            ),
            sockets[app],
        )
        for app, listener in apps.items()
    ]
    tasks = [asyncio.create_task(server.serve(bound)) for server, bound in servers]

    def cut() -> None:
        for server, _ in servers:
            server.cut()

    try:
        yield cut
    finally:
        for server, _ in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)


def _configured(
    listener: Listener, protocol: type[asyncio.Protocol], stop_timeout_s: float
) -> uvicorn.Config:
    return uvicorn.Config(
        listener.app,
        interface="asgi3",  # else it is guessed by whether the app is a coroutine function
        http=protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        proxy_headers=False,  # whom to believe is decided in transport/headers.py
        server_header=False,
        timeout_graceful_shutdown=max(1, round(stop_timeout_s)),
        ssl_context_factory=_given(listener.tls),
    )


def _given(tls: ssl.SSLContext | None) -> Callable[..., ssl.SSLContext] | None:
    """A context that exists, in the form in which uvicorn takes it."""
    return None if tls is None else lambda *_: tls


REPEAT_S = 0.5
"""Who sends a signal to a process and to its group sends it twice: timeout(1), npm beside the
terminal, supervisord with `stopasgroup`. A person takes a look before pressing Ctrl-C again.
"""


class StopSignal:
    """Set by SIGTERM or SIGINT; another one hurries the stop, as people at a keyboard expect, and
    one after that ends the process where it is. While a stop pauses, a signal ends the pause alone.
    One that comes within `REPEAT_S` of the last is the same order sent twice.

    SIGHUP is a terminal that hangs up, and stops as they do; where there is no terminal it asks for
    a reload, which never stops a service. Whoever has it ignored (nohup) goes on.
    """

    def __init__(
        self, *, by_signals: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Not `by_signals`, all are ignored: they are meant for the process that started this
        one, and reach it because a service manager sends them to all of a group.
        """
        self._event = asyncio.Event()
        self._clock = clock
        self._last_s = -math.inf
        """When the last signal came that was not one of the same order."""
        self._pause: asyncio.Event | None = None
        self.hurried = False
        """Whether a second signal came: what is not done now is not waited for."""
        self.hurry: Callable[[], None] = lambda: None
        """Called by the second signal."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if not by_signals:
                signal.signal(number, signal.SIG_IGN)
            elif number != signal.SIGHUP:
                loop.add_signal_handler(number, self._handle, number)
            elif signal.getsignal(number) != signal.SIG_IGN:
                at_terminal = any(map(os.isatty, range(3)))
                loop.add_signal_handler(number, self._hang_up if at_terminal else _reload)

    def _handle(self, number: int) -> None:
        name = signal.Signals(number).name
        now_s = self._clock()
        if now_s - self._last_s < REPEAT_S:
            return
        self._last_s = now_s
        if self.hurried:
            raise SystemExit(128 + number)
        if self._pause is not None:
            log.info("%s received again: skipping the grace period", name)
            self._pause.set()
        elif self._event.is_set():
            log.info("%s received again: stopping at once", name)
            self.hurried = True
            self.hurry()
        else:
            log.info("%s: draining", name)
            self._event.set()

    def _hang_up(self) -> None:
        if not self.is_set:  # sent by both the shell and the kernel: a second one skips nothing
            self._handle(signal.SIGHUP)

    def set(self) -> None:
        """Stop without a signal, for instance because the parent process is gone."""
        self._event.set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        await self._event.wait()

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until the next signal."""
        self._pause = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await self._pause.wait()
        except TimeoutError:
            pass
        finally:
            self._pause = None


def _reload() -> None:
    log.info(
        "SIGHUP: key and certificate files are watched and need no signal; changed settings need "
        "a restart"
    )
