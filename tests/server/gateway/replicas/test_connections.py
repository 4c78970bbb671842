"""When servers end connections, and what becomes of the requests on them."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from embedfleet.server.gateway.replicas.connections import (
    KEEP_ALIVE_S,
    BrokenError,
    Connections,
    UnconnectedError,
    kept_for_s,
)
from embedfleet.vocabulary import ReplicaError

BODY = b"x" * 50
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n"
ANSWER = HEAD + b"\r\nok"


class Server:
    """Answers some requests on each connection and ends it at some point of the next one."""

    def __init__(self, answered: int, read: int, sent: bytes = b"", *, reset: bool = False) -> None:
        """It ends a connection after `answered` whole answers, `read` bytes of the next request,
        which is about 150 bytes long, and the answer `sent`.
        """
        self.answered = answered
        self.read = read
        self.sent = sent
        self.reset = reset
        self.answer = ANSWER
        self.connections = 0
        self.whole = 0
        """Requests that it has read to their end."""
        self.talks: list[asyncio.Task[None] | None] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.talks.append(asyncio.current_task())
        with suppress(OSError, asyncio.IncompleteReadError):
            for _ in range(self.answered):
                await self.hear(reader)
                writer.write(self.answer)
                await writer.drain()
            if self.read >= len(BODY):
                await self.hear(reader)
            else:
                await reader.readexactly(self.read)
            writer.write(self.sent)
            await writer.drain()
        if self.reset:
            writer.transport.abort()
        writer.close()

    async def hear(self, reader: asyncio.StreamReader) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(BODY))
        self.whole += 1


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[tuple[Connections, str, asyncio.Server]]:
    connections = Connections(connect_timeout_s=20)
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listener:
        yield connections, f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", listener
        connections.close()
        await asyncio.gather(*filter(None, server.talks))


async def ask(connections: Connections, url: str) -> tuple[int, bytes]:
    async with asyncio.timeout(60):
        page = await connections.fetch("POST", f"{url}/v1/embeddings", BODY, [], 100)
        return page.status, page.body


UNHEARD = [
    *((read, b"") for read in (0, 1, 20, len(BODY))),
    (0, b"HTTP/1.0 408 Request Time-out\r\nconnection: close\r\n\r\n<html>too slow"),
    (1, b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
]
"""How much of a request was read, and what was sent, where nothing says that it was heard."""


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("answered", [1, 2])
@pytest.mark.parametrize(("read", "sent"), UNHEARD)
async def test_a_kept_connection_that_ends_before_an_answer_costs_no_request(
    answered: int, read: int, sent: bytes, *, reset: bool
) -> None:
    """Whether its server had heard of the request or had closed it before."""
    server = Server(answered, read, sent, reset=reset)
    async with serving(server) as (connections, url, _):
        for _ in range(6):
            assert await ask(connections, url) == (200, b"ok")
    assert server.connections <= 6 // answered + 1


@pytest.mark.parametrize("end", range(1, len(ANSWER)))
async def test_a_request_is_not_repeated_after_the_head_of_its_response(end: int) -> None:
    """Part of its body may have been used already."""
    server = Server(1, len(BODY), ANSWER[:end])
    async with serving(server) as (connections, url, _):
        await ask(connections, url)
        if end < len(HEAD) + 2:
            assert await ask(connections, url) == (200, b"ok")
        else:
            with pytest.raises(BrokenError):
                await ask(connections, url)
    assert server.connections == (2 if end < len(HEAD) + 2 else 1)


async def test_what_a_server_sends_unasked_is_not_taken_for_an_answer() -> None:
    """The end of a surplus answer, which comes after the next request was sent."""
    async with serving(Server(1, len(BODY), ANSWER[20:])) as (connections, url, _):
        for _ in range(3):
            assert await ask(connections, url) == (200, b"ok")


@pytest.mark.parametrize(("read", "sent"), UNHEARD[:4])
async def test_a_new_connection_that_ends_is_lost_at_once(read: int, sent: bytes) -> None:
    """It can't have been closed for having been idle."""
    server = Server(0, read, sent)
    async with serving(server) as (connections, url, _):
        with pytest.raises(BrokenError):
            await ask(connections, url)
    assert server.connections == 1


async def test_a_timeout_that_a_server_tells_of_a_new_request_is_its_answer() -> None:
    head = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 4\r\n\r\n"
    async with serving(Server(0, len(BODY), head + b"slow")) as (connections, url, _):
        assert await ask(connections, url) == (408, b"slow")


async def test_a_request_is_sent_twice_at_most() -> None:
    """It may be what ends the server."""
    server = Server(1, len(BODY))
    async with serving(server) as (connections, url, _):
        await ask(connections, url)
        server.answered = 0
        with pytest.raises(BrokenError):
            await ask(connections, url)
    assert (server.connections, server.whole) == (2, 3)


async def test_a_server_that_ends_with_a_request_is_lost_and_not_unreachable() -> None:
    """Else a text that ends processes would be tried for ever, as if it had reached none."""
    server = Server(1, len(BODY))
    async with serving(server) as (connections, url, listener):
        await ask(connections, url)
        listener.close()
        with pytest.raises(BrokenError):
            await ask(connections, url)
        with pytest.raises(UnconnectedError):
            await ask(connections, url)


@pytest.mark.parametrize("seed", range(4))
async def test_no_request_is_lost_whenever_connections_end(seed: int) -> None:
    """Many at once, on connections that their server ends at moments of its own."""
    dice = random.Random(seed)
    server = Server(1, 0)

    async def one(count: int) -> None:
        for _ in range(count):
            server.answered, server.read = dice.randint(1, 4), dice.choice([0, 1, 20, len(BODY)])
            server.reset = dice.random() < 0.5
            assert await ask(connections, url) == (200, b"ok")
            await asyncio.sleep(dice.choice([0, 0, 0.001]))

    async with serving(server) as (connections, url, _), asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(one(20))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"timeout=5", 4),
        (b"timeout=5, max=100", 4),
        (b"max=100,Timeout = 30", 29),
        (b'timeout="7"', 6),
        (b"timeout=1", 0.5),
        (b"timeout=0", 0),
        (b"timeout=75", KEEP_ALIVE_S),
        (b"timeout=" + b"9" * 60_000, KEEP_ALIVE_S),
        (b"", KEEP_ALIVE_S),
        (b"300", KEEP_ALIVE_S),
        (b"timeout=-1", KEEP_ALIVE_S),
        (b"timeout=\xb2", KEEP_ALIVE_S),
        (b"timeout=1e9", KEEP_ALIVE_S),
    ],
)
def test_a_connection_is_kept_for_less_than_its_server_says(value: bytes, seconds: float) -> None:
    assert kept_for_s(value) == seconds


async def test_a_connection_is_not_used_when_its_server_is_about_to_close_it() -> None:
    server = Server(100, 0)
    server.answer = HEAD + b"Keep-Alive: timeout=5\r\n\r\nok"
    async with serving(server) as (connections, url, _):
        await ask(connections, url)
        await ask(connections, url)
        assert server.connections == 1
        connections._addresses[url].idle[0].idle_since -= 4.1
        await ask(connections, url)
        assert server.connections == 2
        server.answer = HEAD + b"keep-alive: timeout=0\r\n\r\nok"
        await ask(connections, url)
        assert not connections._addresses[url].idle


async def test_a_reset_connection_is_reported_without_its_error_number() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        at_once = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        writer.transport.abort()

    connections = Connections(connect_timeout_s=20)
    async with await asyncio.start_server(reset, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(BrokenError, match=r"^Connection reset by peer$"):
            await ask(connections, f"http://127.0.0.1:{port}")
    connections.close()


async def test_a_wanted_close_leaves_no_connection() -> None:
    server = Server(100, 0)
    server.answer = HEAD + b"Connection: Keep-Alive, close\r\n\r\nok"
    async with serving(server) as (connections, url, _):
        for _ in range(3):
            assert await ask(connections, url) == (200, b"ok")
    assert server.connections == 3


LARGE = bytes(64 << 20)
"""More than the system takes for a server that does not read."""


@pytest.mark.parametrize("status", [200, 413])
async def test_an_answer_before_the_end_of_its_request_is_a_refusal_or_none(status: int) -> None:
    """Vectors of texts that the server has not read are of other texts; and what it reads later
    must not be taken for the beginning of the next request.
    """
    heads, talks = 0, []

    async def answer_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heads
        talks.append(asyncio.current_task())
        with suppress(OSError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                heads += 1
                writer.write(b"HTTP/1.1 %d x\r\ncontent-length: 2\r\n\r\nok" % status)
                await writer.drain()
                await reader.readexactly(len(LARGE))
        writer.close()

    connections = Connections(connect_timeout_s=20)
    async with await asyncio.start_server(answer_at_once, "127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        for _ in range(3):
            async with asyncio.timeout(30):
                asked = connections.fetch("POST", f"{url}/v1/embeddings", LARGE, [], 100)
                if status == 200:
                    with pytest.raises(ReplicaError, match="before it had read the request"):
                        await asked
                else:
                    assert (await asked)[:2] == (status, b"ok")
        connections.close()
        await asyncio.gather(*filter(None, talks))
    assert heads == 3, "each on a connection of its own"
