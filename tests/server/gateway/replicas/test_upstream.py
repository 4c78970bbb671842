"""Calls to replicas over real sockets, against servers that say exactly what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from embedfleet.server.gateway.replicas.connections import (
    KEEP_ALIVE_S,
    MOST_HEAD_BYTES,
    Connections,
    Origin,
)
from embedfleet.server.gateway.replicas.keepalive import OPTIONS
from embedfleet.server.gateway.replicas.upstream import Upstream
from embedfleet.transport.frames import (
    CallText,
    Frame,
    decode_call,
    decode_cancel,
    echo,
    encode_frame,
)
from embedfleet.vocabulary import (
    DrainingError,
    ReplicaError,
    ReplicaLostError,
    ReplicaUnreachableError,
)
from tests.fakes.taking import frames_of
from tests.loops import settle
from tests.transport.access.test_tls import make_certificate

WIDTH = 4
IDS = np.array([5, 6, 7], np.int32).tobytes()
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-embedfleet-frames\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Talk = Callable[["Server", Reader, Writer], Awaitable[None]]


class Server:
    """One talk for each connection; remembers what it was asked."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.connections = 0
        self.heads: list[str] = []
        self.bodies: list[bytes] = []

    async def hear(self, reader: asyncio.StreamReader) -> bytes:
        """The body of the next request."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length:")[2].split("\r\n")[0])
        self.heads.append(head)
        self.bodies.append(await reader.readexactly(length))
        return self.bodies[-1]

    async def serve(self, reader: Reader, writer: Writer) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._talk(self, reader, writer)
        writer.close()


@contextlib.asynccontextmanager
async def asking(talk: Talk) -> AsyncIterator[tuple[Server, Upstream, str]]:
    here = Server(talk)
    server = await asyncio.start_server(here.serve, "127.0.0.1", 0)
    upstream = Upstream.open(connect_timeout_s=60, probe_timeout_s=60)
    try:
        yield here, upstream, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        upstream.close()
        server.close()
        await asyncio.sleep(0.01)


def texts(count: int = 1) -> list[CallText]:
    return [CallText(number, IDS, bulk=False, deadline_ms=0) for number in range(count)]


def frame(*ids: int, vectors: bytes | None = None) -> bytes:
    rows = np.tile(np.eye(1, WIDTH, dtype=np.float32), (len(ids), 1)).tobytes()
    body = rows if vectors is None else vectors
    return encode_frame(Frame(list(ids), body, [], 0, 0, 100, [echo(IDS)] * len(ids)))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def work(upstream: Upstream, url: str, count: int = 1) -> list[int]:
    """Ids in the order in which they were answered."""
    return [
        number
        for each in await frames_of(upstream, url, "key", texts(count))
        for number in each.ids
    ]


async def test_frames_come_out_whole_however_their_bytes_arrive() -> None:
    """One byte at a time, over every boundary that there is."""

    async def dribbling(server: Server, reader: Reader, writer: Writer) -> None:
        await server.hear(reader)
        answer = CHUNKED + chunk(frame(1)) + chunk(frame(0, 2)) + b"0\r\n\r\n"
        for at in range(len(answer)):
            writer.write(answer[at : at + 1])
            await writer.drain()
            await asyncio.sleep(0)

    async with asking(dribbling) as (server, upstream, url):
        assert await work(upstream, url, 3) == [1, 0, 2]

    call = decode_call(server.bodies[0])
    assert (call.key, [text.ids for text in call.texts]) == ("key", [IDS] * 3)
    assert server.heads[0].startswith("POST /v1/work HTTP/1.1\r\nhost: 127.0.0.1:")


async def test_a_frame_is_given_before_the_next_one_is_there() -> None:
    """A batch that is done does not wait for the batch after it."""
    go_on = asyncio.Event()

    async def slow(server: Server, reader: Reader, writer: Writer) -> None:
        await server.hear(reader)
        writer.write(CHUNKED + chunk(frame(0)))
        await go_on.wait()
        writer.write(chunk(frame(1)) + b"0\r\n\r\n")
        await writer.drain()

    async with asking(slow) as (_, upstream, url):
        frames: asyncio.Queue[Frame] = asyncio.Queue()
        call = asyncio.create_task(upstream.work(url, "key", texts(2), frames.put_nowait))
        assert (await frames.get()).ids == [0]
        assert not call.done()
        go_on.set()
        await call
        assert frames.get_nowait().ids == [1]


async def test_a_second_answer_harms_no_text_and_its_replica_is_blamed() -> None:
    """In one frame or in two: the first stands, and the call fails when all are answered."""

    async def stuttering(server: Server, reader: Reader, writer: Writer) -> None:
        await server.hear(reader)
        writer.write(CHUNKED + chunk(frame(0, 0)) + chunk(frame(0)) + chunk(frame(1)))
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async with asking(stuttering) as (_, upstream, url):
        answered: list[int] = []
        with pytest.raises(ReplicaError, match="2 texts more than once"):
            await upstream.work(url, "key", texts(2), lambda news: answered.extend(news.ids))
        assert answered == [0, 1]


async def answering(server: Server, reader: Reader, writer: Writer) -> None:
    while True:
        await server.hear(reader)
        body = frame(0)
        writer.write(OK + b"content-length: %d\r\n\r\n" % len(body) + body)


async def test_a_connection_is_used_again() -> None:
    """Also by a cancellation; calls at the same time have one each."""
    async with asking(answering) as (server, upstream, url):
        for _ in range(3):
            assert await work(upstream, url) == [0]
        await upstream.cancel(url, "key", [1, 2])
        assert server.connections == 1
        await asyncio.gather(*(work(upstream, url) for _ in range(3)))

    assert server.connections == 3
    cancel = decode_cancel(server.bodies[3])
    assert (cancel.key, cancel.ids) == ("key", [1, 2])


async def test_connections_of_a_replica_that_is_gone_are_closed() -> None:
    """Nobody calls it any more; they grow old, and the next replica's first call closes them."""
    closed = asyncio.Event()

    async def until_closed(server: Server, reader: Reader, writer: Writer) -> None:
        try:
            await answering(server, reader, writer)
        finally:
            closed.set()

    async with asking(until_closed) as (_, upstream, url), asking(answering) as (_, _, other):
        connections = upstream.connections
        connection = await connections.exchange("POST", url, "/v1/work", b"", [])
        await work(upstream, other)
        assert set(connections._addresses) == {url, other}

        connection.idle_since -= KEEP_ALIVE_S + 1
        await asyncio.gather(*(work(upstream, other) for _ in range(2)))
        await asyncio.wait_for(closed.wait(), 60)
        assert set(connections._addresses) == {other}


async def test_the_authorities_of_the_machine_are_read_once() -> None:
    """Not for each connection, and not while everybody waits."""
    connections = Connections(connect_timeout_s=1)
    assert await connections._context() is await connections._context()


async def test_a_connection_that_its_replica_closed_is_not_used_again() -> None:
    """Nothing is lost when a replica starts anew between two calls."""

    async def once(server: Server, reader: Reader, writer: Writer) -> None:
        await server.hear(reader)
        body = frame(0)
        writer.write(OK + b"content-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()

    async with asking(once) as (server, upstream, url):
        for _ in range(3):
            assert await work(upstream, url) == [0]
            await settle()  # until it is seen that the connection was closed

    assert server.connections == 3


async def test_a_connection_that_is_to_be_closed_is_not_used_again() -> None:
    """Its answer says so before it happens."""

    async def closing(server: Server, reader: Reader, writer: Writer) -> None:
        await server.hear(reader)
        body = frame(0)
        writer.write(OK + b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        await reader.read()

    async with asking(closing) as (server, upstream, url):
        assert await work(upstream, url) == [0]
        assert await work(upstream, url) == [0]

    assert server.connections == 2


TORN = {
    "before any answer": b"",
    "in the head": OK,
    "in a frame": CHUNKED + chunk(frame(0)[:-3]),
    "after a frame": CHUNKED + chunk(frame(0)),
    "in a chunk": CHUNKED + chunk(frame(0))[:-9],
    "short of its length": OK + b"content-length: 999\r\n\r\n" + frame(0),
    "no HTTP": b"\x00\x01SSH-2.0\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching\r\nupgrade: h2\r\nconnection: upgrade\r\n\r\nxx",
    "no chunk": CHUNKED + b"zz\r\n",
    "a head without an end": OK + b"x: " + b"y" * (MOST_HEAD_BYTES + 10),
}


@pytest.mark.parametrize("sent", TORN.values(), ids=TORN.keys())
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_an_answer_that_is_not_whole_is_a_lost_replica(sent: bytes, *, reset: bool) -> None:
    """Whatever the connection ends with, and wherever."""

    async def tearing(server: Server, reader: Reader, writer: Writer) -> None:
        await server.hear(reader)
        writer.write(sent)
        await writer.drain()
        await asyncio.sleep(0.01)
        if reset:
            writer.transport.abort()

    async with asking(tearing) as (_, upstream, url):
        with pytest.raises(ReplicaLostError):
            await work(upstream, url, 2)


NONSENSE = {
    "no frame": b"\x05\x00\x00\x00hello",
    "a huge frame": b"\xff\xff\xff\xff",
    "another text": encode_frame(Frame([0], b"\0" * 16, [], 0, 0, 9, [12345])),
    "a text not asked for": frame(7),
}


@pytest.mark.parametrize("sent", NONSENSE.values(), ids=NONSENSE.keys())
async def test_nonsense_is_a_replicas_error_and_ends_its_connection(sent: bytes) -> None:
    """What comes after it can't be trusted."""

    async def lying(server: Server, reader: Reader, writer: Writer) -> None:
        await server.hear(reader)
        writer.write(CHUNKED + chunk(sent) + b"0\r\n\r\n")
        assert await reader.read() == b""

    async with asking(lying) as (server, upstream, url):
        for _ in range(2):
            with pytest.raises(ReplicaError) as caught:
                await work(upstream, url)
            assert not isinstance(caught.value, ReplicaLostError)

    assert server.connections == 2


async def test_half_a_frame_at_the_end_of_a_whole_answer_is_a_lost_replica() -> None:
    """HTTP says that it is all, and the frame says that it is not."""

    async def cutting(server: Server, reader: Reader, writer: Writer) -> None:
        await server.hear(reader)
        writer.write(CHUNKED + chunk(frame(0)[:-1]) + b"0\r\n\r\n")
        await reader.read()

    async with asking(cutting) as (_, upstream, url):
        with pytest.raises(ReplicaLostError, match="middle of a frame"):
            await work(upstream, url)


@pytest.mark.parametrize("status", [b"503 Busy", b"429 Full", b"500 Oops", b"404 Not Found"])
async def test_a_refusal_tells_what_the_replica_said(status: bytes) -> None:
    """503 is that it drains, 429 that it has too much to do; anything else is its failure."""

    async def refusing(server: Server, reader: Reader, writer: Writer) -> None:
        await server.hear(reader)
        head = b"HTTP/1.1 " + status + b"\r\nRetry-After: 7\r\ncontent-length: 9\r\n\r\n"
        writer.write(head + b"have gone")
        await reader.read()

    async with asking(refusing) as (_, upstream, url):
        with pytest.raises((ReplicaError, DrainingError), match="gone") as caught:
            await work(upstream, url)
        if status.startswith((b"503", b"429")):
            assert isinstance(caught.value, DrainingError)
            assert caught.value.retry_after_s == 7
        else:
            assert isinstance(caught.value, ReplicaError)


async def test_an_interim_response_is_no_answer() -> None:
    """100 Continue, 103 Early Hints: the answer comes after."""

    async def hinting(server: Server, reader: Reader, writer: Writer) -> None:
        await server.hear(reader)
        body = frame(0)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.write(OK + b"content-length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()

    async with asking(hinting) as (_, upstream, url):
        assert await work(upstream, url) == [0]


async def test_a_caller_that_goes_away_closes_the_connection() -> None:
    """So the replica knows that nobody listens."""
    heard, closed = asyncio.Event(), asyncio.Event()

    async def stuck(server: Server, reader: Reader, writer: Writer) -> None:
        await server.hear(reader)
        heard.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        closed.set()

    async with asking(stuck) as (_, upstream, url):
        task = asyncio.create_task(work(upstream, url))
        await asyncio.wait_for(heard.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(closed.wait(), 60)


async def test_a_response_is_passed_on_in_pieces_and_not_buffered() -> None:
    """Memory is bounded, however large it is."""
    total = 24 << 20

    async def pouring(server: Server, reader: Reader, writer: Writer) -> None:
        await server.hear(reader)
        writer.write(OK + b"content-length: %d\r\n\r\n" % total)
        for _ in range(total >> 16):
            writer.write(b"x" * (1 << 16))
            await writer.drain()

    sizes: list[int] = []
    async with asking(pouring) as (_, upstream, url):
        await upstream.connections.exchange(
            "POST", url, "/", b"", [], lambda _status, part: sizes.append(len(part))
        )

    assert sum(sizes) == total
    assert max(sizes) < 1 << 20


async def test_a_frame_that_its_taker_refuses_ends_the_call() -> None:
    """With what the taker raised, and without the rest of the answer."""

    def refuse(_frame: Frame) -> None:
        raise ReplicaError("too short")

    async def endless(server: Server, reader: Reader, writer: Writer) -> None:
        await server.hear(reader)
        writer.write(CHUNKED + chunk(frame(0)))
        assert await reader.read() == b""

    async with asking(endless) as (server, upstream, url):
        for _ in range(2):
            with pytest.raises(ReplicaError, match="too short"):
                await upstream.work(url, "key", texts(2), refuse)

    assert server.connections == 2


async def test_the_kernel_asks_whether_a_silent_host_is_still_there() -> None:
    """One that lost its power ends no connection; nothing else would notice."""
    async with asking(answering) as (_, upstream, url):
        connection = await upstream.connections.exchange("POST", url, "/", b"", [])
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        for name, value in OPTIONS.items():
            option = getattr(socket, name, None)
            assert option is None or sock.getsockopt(socket.IPPROTO_TCP, option) == value


async def test_a_cancellation_does_not_wait_for_ever() -> None:
    """Nobody needs its answer."""

    async def silent(server: Server, reader: Reader, writer: Writer) -> None:
        await reader.read()

    async with asking(silent) as (_, upstream, url):
        object.__setattr__(upstream, "probe_timeout_s", 0.05)
        with pytest.raises(ReplicaLostError):
            await upstream.cancel(url, "key", [0])


async def test_no_address_is_nowhere_to_connect_to() -> None:
    """Said as any other address at which nobody answers."""
    upstream = Upstream.open(connect_timeout_s=1, probe_timeout_s=1)
    with pytest.raises(ReplicaUnreachableError):
        await work(upstream, "ftp://nobody")
    upstream.close()


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://10.0.0.5:9001", Origin("10.0.0.5", 9001, False, "", "10.0.0.5:9001")),
        (
            "https://replica.example/a/b/",
            Origin("replica.example", 443, True, "/a/b", "replica.example"),
        ),
        ("http://[::1]:80", Origin("::1", 80, False, "", "[::1]:80")),
    ],
)
def test_an_address_says_where_to_connect_and_what_to_ask(url: str, origin: Origin) -> None:
    """With or without port, path and TLS."""
    assert Origin.of(url) == origin


async def test_connection_errors_have_the_system_s_message(
    tmp_path: Path,
) -> None:
    """Without the address again, and without the words of the client library."""
    certificate, key = make_certificate(tmp_path, "127.0.0.1")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=tls)
    upstream = Upstream.open(connect_timeout_s=60, probe_timeout_s=60)
    port = server.sockets[0].getsockname()[1]
    said = {
        f"https://127.0.0.1:{port}": "its certificate is not accepted: self-signed certificate",
        "http://127.0.0.1:1": "Connection refused",
        "https://127.0.0.1:1": "Connection refused",
    }
    for url, words in said.items():
        with pytest.raises(ReplicaLostError) as raised:
            await upstream.describe(url)
        assert str(raised.value) == f"{url}/v1/replica: {words}"
    upstream.close()
    server.close()
    await server.wait_closed()
