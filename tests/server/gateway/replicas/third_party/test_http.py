"""What an engine may answer in by the rules of HTTP, and what it is told to leave out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from embedfleet.server.gateway.replicas.connections import Connections
from embedfleet.server.gateway.replicas.third_party.http import EngineHttp
from embedfleet.vocabulary import ReplicaLostError

BODY = b'{"data":[]}'
OK = b"HTTP/1.1 200 OK\r\n"
SIZED = OK + b"content-length: %d\r\n" % len(BODY)
CHUNKS = b"5;a=b\r\n" + BODY[:5] + b"\r\n6\r\n" + BODY[5:] + b"\r\n0\r\n"
WHOLE = {
    "of a length": SIZED + b"\r\n" + BODY,
    "in chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS + b"\r\n",
    "in chunks with a trailer": OK
    + b"transfer-encoding: chunked\r\n\r\n"
    + CHUNKS
    + b"x: y\r\n\r\n",
    "until the connection ends": b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
    "the same of HTTP/1.1": OK + b"connection: close\r\n\r\n" + BODY,
    "after interim responses": b"HTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 103 Early Hints\r\ncontent-length: 9\r\n\r\n" + SIZED + b"\r\n" + BODY,
    "with another one behind it": (SIZED + b"\r\n" + BODY) * 2,
    "coded by name alone": SIZED + b"content-encoding: identity\r\n\r\n" + BODY,
}


@asynccontextmanager
async def engine(
    answer: bytes, piece: int, heads: list[bytes]
) -> AsyncIterator[tuple[EngineHttp, str]]:
    """One that sends these bytes in pieces, and ends the connection."""
    talks: list[asyncio.Task[None] | None] = []

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.current_task())
        with suppress(OSError, asyncio.IncompleteReadError):
            heads.append(head := await reader.readuntil(b"\r\n\r\n"))
            if head.startswith(b"POST"):
                await reader.readexactly(2)
            for at in range(0, len(answer), piece):
                writer.write(answer[at : at + piece])
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    connections = Connections(connect_timeout_s=20)
    async with await asyncio.start_server(meet, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield EngineHttp(connections, 20), url
        connections.close()
        await asyncio.gather(*filter(None, talks))


@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize("answer", WHOLE.values(), ids=WHOLE)
async def test_an_answer_may_come_in_every_form_of_http(answer: bytes, piece: int) -> None:
    async with engine(answer, piece, []) as (http, url):
        assert (await http.post(f"{url}/v1/embeddings", b"{}", 100)).body == BODY
        for _ in range(2):  # on a connection that may be closed by now
            assert (await http.get(f"{url}/v1/models")).json == {"data": []}


@pytest.mark.parametrize("form", ["of a length", "in chunks", "after interim responses"])
async def test_one_that_ends_anywhere_before_its_end_is_a_lost_engine(form: str) -> None:
    """But for the last line of chunks, after which nothing is missing."""
    for end in range(len(WHOLE[form]) - 2):
        async with engine(WHOLE[form][:end], 1000, []) as (http, url):
            with pytest.raises(ReplicaLostError):
                await http.post(url, b"{}", 100)


async def test_engines_are_requested_not_to_compress() -> None:
    """What compresses is often a proxy before them, by what it is told is understood."""
    heads: list[bytes] = []
    async with engine(WHOLE["of a length"], 1000, heads) as (http, url):
        await http.post(url, b"{}", 100)
        await http.get(url)
    assert [b"\r\naccept-encoding: identity\r\n" in head for head in heads] == [True, True]
    assert heads[1].startswith(b"GET / HTTP/1.1\r\n")
    assert b"content-length" not in heads[1]
