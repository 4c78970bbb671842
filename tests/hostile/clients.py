"""Clients that mean harm, each in one way: raw bytes over a socket, bounded in number and time.

Every function makes one attempt and returns; what the server answers is read and thrown away. None
of them may fail because of what the server does: closing the connection is its right.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

REFUSED = (ConnectionError, OSError, TimeoutError, asyncio.IncompleteReadError)
MIB = 2**20


@dataclass(frozen=True)
class Target:
    """What is attacked."""

    host: str
    port: int
    key: str
    """A valid key with low limits; attacks that need none do not send it."""
    dice: random.Random
    largest_body: int = 64 * MIB

    def head(self, method: str, path: str, *more: str, key: bool = True) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}", *more]
        if key:
            lines.append(f"Authorization: Bearer {self.key}")
        return "\r\n".join([*lines, "", ""]).encode()

    def embeddings(self, length: int, *more: str) -> bytes:
        """The head of a request with a body of so many bytes."""
        words = ("Content-Type: application/json", f"Content-Length: {length}", *more)
        return self.head("POST", "/v1/embeddings", *words)


Attack = Callable[[Target], Awaitable[None]]


@contextlib.asynccontextmanager
async def _connected(
    target: Target, *, receive_bytes: int | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection; a server that refuses or resets it ends the attempt."""
    one = socket.socket()
    if receive_bytes:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    one.setblocking(False)
    with contextlib.suppress(*REFUSED):
        await asyncio.wait_for(
            asyncio.get_running_loop().sock_connect(one, (target.host, target.port)), 10
        )
        reader, writer = await asyncio.open_connection(sock=one, limit=4096)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()
        return
    one.close()
    raise ConnectionRefusedError


async def _send(target: Target, data: bytes, *, wait_s: float = 2.0) -> None:
    """Send, read what comes for a while, go."""
    with contextlib.suppress(*REFUSED):
        async with _connected(target) as (reader, writer):
            writer.write(data)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    while await reader.read(65536):
                        pass


async def connect(target: Target) -> None:
    """CONNECT, in the forms that a URL parser takes."""
    where = target.dice.choice(["/", "//x", "http://x/", "a://b:1", "x:443", "*", ""])
    host = target.dice.choice(["", "Host: x\r\n"])
    await _send(target, f"CONNECT {where} HTTP/1.1\r\n{host}\r\n".encode())


async def upgrade(target: Target) -> None:
    """Offers of other protocols, and HTTP/2 with prior knowledge."""
    offers = [
        target.head("GET", "/health/live", "Connection: Upgrade", "Upgrade: h2c", key=False),
        target.head("GET", "/", "Connection: Upgrade", "Upgrade: websocket", key=False),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    ]
    await _send(target, target.dice.choice(offers))


async def garbage(target: Target) -> None:
    """Random bytes, sometimes after an honest beginning."""
    start = target.dice.choice(
        [b"", b"GET ", b"POST /v1/embeddings HTTP/1.1\r\n", b"GET / HTTP/1.1"]
    )
    await _send(target, start + target.dice.randbytes(target.dice.randrange(1, 4000)))


async def framing(target: Target) -> None:
    """Heads that could be read in two ways."""
    start = b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\n"
    odd = target.dice.choice(
        [
            start + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            start + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
            start + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            start + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 18 + b"\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
            b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
            b"GET /\r\n\r\n",
        ]
    )
    await _send(target, odd)


async def pipeline(target: Target) -> None:
    """Very many small requests at once, whose answers nobody reads."""
    request = target.head("GET", target.dice.choice(["/", "/health/live"]), key=False)
    with contextlib.suppress(*REFUSED):
        async with _connected(target, receive_bytes=4096) as (_, writer):
            writer.write(request * 20_000)
            await asyncio.sleep(5)


async def drip_head(target: Target) -> None:
    """A head that never ends, a byte at a time."""
    with contextlib.suppress(*REFUSED):
        async with _connected(target) as (_, writer):
            for byte in target.head("GET", "/" + "x" * 100, key=False)[:-2]:
                if writer.transport.is_closing():
                    return
                writer.write(bytes([byte]))
                await asyncio.sleep(0.2)


async def withhold_body(target: Target) -> None:
    """All of the largest body but its last byte."""
    with contextlib.suppress(*REFUSED):
        async with _connected(target) as (_, writer):
            writer.write(target.embeddings(8 * MIB))
            writer.write(b" " * (8 * MIB - 1))
            await asyncio.sleep(target.dice.uniform(5, 20))


async def read_slowly(target: Target) -> None:
    """A large answer of known texts, taken a few bytes at a time."""
    body = b'{"model":"chaos","input":[' + b",".join([b"[600]"] * 1000) + b"]}"
    with contextlib.suppress(*REFUSED):
        async with _connected(target, receive_bytes=4096) as (reader, writer):
            writer.write(target.embeddings(len(body)) + body)
            for _ in range(30):
                if not await asyncio.wait_for(reader.read(16), 30):
                    return
                await asyncio.sleep(0.5)


async def bomb(target: Target) -> None:
    """A body within the limits that is dear to parse."""
    size = target.largest_body - 100
    inside = target.dice.choice(
        [
            b"[1],",
            b"[],",
            b"1,",
            b'"",',
            b'"\\u0041",',
            b"[[[[",
            b" ",
            b"1e400,",
            b'{"a":',
            b"true,",
        ]
    )
    filler = inside * (size // len(inside))
    body = b'{"model":"chaos","input":[' + filler.rstrip(b",") + b"]}"
    await _send(target, target.embeddings(len(body)) + body, wait_s=30)


async def long_field(target: Target) -> None:
    """A field of a megabyte where a word is expected."""
    word = target.dice.choice([b" - at `$.`", b"x", b"\\ud83d"]) * (MIB // 8)
    body = b'{"model":"chaos","input":"a","encoding_format":"' + word + b'"}'
    await _send(target, target.embeddings(len(body)) + body, wait_s=10)


async def zip_bomb(target: Target) -> None:
    """A body that grows a thousand times when it is expanded."""
    body = gzip.compress(b" " * (200 * MIB), 1)
    head = target.embeddings(len(body), "Content-Encoding: gzip")
    await _send(target, head + body, wait_s=10)


async def tokenise_and_leave(target: Target) -> None:
    """Long texts, whose client is gone as soon as they are sent."""
    text = b"The quick brown fox. " * 300
    body = b'{"model":"chaos","input":[' + b",".join([b'"' + text + b'"'] * 500) + b"]}"
    with contextlib.suppress(*REFUSED):
        async with _connected(target) as (_, writer):
            writer.write(target.embeddings(len(body)) + body)
            await writer.drain()
            await asyncio.sleep(target.dice.uniform(0, 0.5))


async def reset(target: Target) -> None:
    """A connection that is reset in the middle of a body."""
    with contextlib.suppress(*REFUSED):
        async with _connected(target) as (_, writer):
            writer.write(target.embeddings(1000) + b'{"model":')
            await asyncio.sleep(target.dice.uniform(0, 0.05))
            one = writer.get_extra_info("socket")
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def wrong_key(target: Target) -> None:
    """Guesses at keys."""
    await _send(
        target, target.head("GET", "/v1/models", f"api-key: {target.dice.random()}", key=False)
    )


async def idle(target: Target) -> None:
    """Connections that say nothing."""
    with contextlib.suppress(*REFUSED):
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(20):
                await stack.enter_async_context(_connected(target))
            await asyncio.sleep(target.dice.uniform(1, 15))


SMALL: tuple[Attack, ...] = (
    *(connect, upgrade, garbage, framing, drip_head, reset, wrong_key, idle, long_field),
    *(read_slowly, tokenise_and_leave),
)
LARGE: tuple[Attack, ...] = (bomb, zip_bomb, pipeline, withhold_body)
