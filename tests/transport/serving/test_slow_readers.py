"""Clients that take their time to take an answer, or never do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from embedfleet.transport.access.setup import certificate
from embedfleet.transport.serving import ClientLimits, Listener, bind, serving
from tests.transport.access.test_tls import make_certificate
from tests.transport.serving.test_connection import LIMITS, Client, Site, client, post, site

ONE_PLACE: ClientLimits = replace(LIMITS, connections=1, stall_s=0.3)
POUR = b"GET /pour HTTP/1.1\r\nHost: here\r\n"


@contextlib.asynccontextmanager
async def unreading(here: Site, sent: bytes) -> AsyncIterator[socket.socket]:
    """A client that asks and never reads."""
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.setblocking(False)
    with small:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(small, ("127.0.0.1", here.port))
        await loop.sock_sendall(small, sent)
        yield small


def stay(_: socket.socket) -> None:
    """Leave the connection as it is."""


IDLE: dict[str, tuple[bytes, Callable[[socket.socket], None]]] = {
    "one answer": (POUR + b"\r\n", stay),
    "a second one waits": ((POUR + b"\r\n") * 2, stay),
    "the last answer": (POUR + b"Connection: close\r\n\r\n", stay),
    "half closed": (POUR + b"\r\n", lambda one: one.shutdown(socket.SHUT_WR)),
}


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(("sent", "then"), IDLE.values(), ids=IDLE.keys())
def test_a_client_that_reads_nothing_of_its_answer_is_disconnected(
    sent: bytes,
    then: Callable[[socket.socket], None],
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    """To close a connection sends what is left first, and that would never end."""
    run(waiting_for_the_place_of(sent, then))


async def waiting_for_the_place_of(sent: bytes, then: Callable[[socket.socket], None]) -> None:
    """Return once another client has the only place there is."""
    async with site(ONE_PLACE) as here, unreading(here, sent) as idle:
        async with asyncio.timeout(60):
            while not here.poured:
                await asyncio.sleep(0.01)
            then(idle)
            while not await served(here):
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("path", ["pour", "trickle"])
def test_a_stop_cuts_off_a_client_that_reads_nothing_and_reports_no_bug(
    path: str,
    run: Callable[[Coroutine[Any, Any, None]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its answer ends with the time that a stop has; that is nobody's fault."""

    async def scenario() -> None:
        here = Site()
        listener = Listener(here.router(), bind("127.0.0.1", 0))
        here.port = listener.socket.getsockname()[1]
        async with serving([listener], stop_timeout_s=1, limits=replace(LIMITS, stall_s=3600)):
            one = unreading(here, f"GET /{path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
            await one.__aenter__()
            async with asyncio.timeout(60):
                while not here.poured:
                    await asyncio.sleep(0.01)
        await one.__aexit__(None, None, None)

    run(scenario())
    assert "Traceback" not in caplog.text
    assert "ASGI" not in caplog.text


async def served(here: Site) -> bool:
    """Whether there is a place for another client."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        async with client(here) as other:
            await other.say(post("/echo", b"a"))
            return (await other.answer())[0] == 200
    return False


async def test_a_slow_reader_gets_all_of_its_answer() -> None:
    """Whoever takes something in time keeps its place."""
    async with site(replace(LIMITS, stall_s=5.0)) as here, unreading(here, POUR + b"\r\n") as late:
        async with asyncio.timeout(60):
            while not here.poured:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        reading = Client(*await asyncio.open_connection(sock=late.dup(), limit=1 << 26))
        assert len((await reading.answer())[2]) == 8 << 20
        reading.writer.close()
        await reading.writer.wait_closed()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_client_behind_tls_that_reads_nothing_is_disconnected_too(
    tmp_path: Path, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    """What a transport has encrypted can't be counted; the answer is handed to it in pieces."""
    chain, key = make_certificate(tmp_path)
    context, _ = certificate(chain, key)
    trusted = ssl.create_default_context(cafile=chain)

    async def scenario() -> None:
        async with site(ONE_PLACE, context) as here:
            small = socket.socket()
            small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with small:
                await asyncio.to_thread(small.connect, ("127.0.0.1", here.port))
                small.settimeout(60)
                idle = await asyncio.to_thread(
                    trusted.wrap_socket, small, server_hostname="localhost"
                )
                with idle:
                    await asyncio.to_thread(idle.sendall, POUR + b"\r\n")
                    async with asyncio.timeout(60):
                        while not await served_by_tls(here, trusted):
                            await asyncio.sleep(0.05)
                    assert here.poured == 1

    run(scenario())


async def served_by_tls(here: Site, trusted: ssl.SSLContext) -> bool:
    """Whether there is a place for another client, once the first has its answer."""
    if not here.poured:
        return False
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port, ssl=trusted)
        other = Client(reader, writer)
        try:
            await other.say(post("/echo", b"a"))
            return (await other.answer())[0] == 200
        finally:
            writer.transport.abort()
    return False


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("kilobytes", [1, 400], ids=["some", "more than is read"])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_client_that_pipelines_and_leaves_is_noticed_however_much_it_sent(
    run: Callable[[Coroutine[Any, Any, None]], None], kilobytes: int, reset: bool
) -> None:
    async def scenario() -> None:
        more = b"GET /echo HTTP/1.1\r\nHost: here\r\n\r\n" * (kilobytes * 30)
        async with site() as here:
            with socket.socket() as one:
                one.settimeout(60)
                await asyncio.to_thread(one.connect, ("127.0.0.1", here.port))
                await asyncio.to_thread(one.sendall, post("/held", b"a") + more)
                await asyncio.wait_for(here.begun.wait(), 60)
                if reset:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await asyncio.wait_for(here.gone.wait(), 60)
            assert not here.seen

    run(scenario())
